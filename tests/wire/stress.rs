//! Connections of the same few IDs come, take over, close and break off in random order, on several threads, while others watch.
//! Afterwards the relay's view must be the truth: who is connected, who was told what, and every message accounted for.
//!
//! The seed is printed; `TRUNKLINE_TEST_SEED` repeats a run's choices (not the threads' timing).

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use trunkline::peer::{Closed, HandshakeError};
use trunkline::proto::PeerId;
use trunkline::proto::peer::MessageType;

use crate::support::{MemoryClient, TestRelay, close, ids, payload_of, peer, transport, until};

const IDS: usize = 5;
const ACTORS: usize = 6;
const STEPS: usize = 700;
const ROUNDS: usize = 2000;

fn seed() -> u64 {
    let given = std::env::var("TRUNKLINE_TEST_SEED").ok();
    let seed = given.map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("TRUNKLINE_TEST_SEED={seed}");
    seed
}

fn name(number: usize) -> String {
    format!("x{number}")
}

/// What an actor left behind.
#[derive(Default)]
struct Left {
    /// Connections that it did not end; others may have.
    open: Vec<(usize, MemoryClient)>,
    /// Connections that it ended without waiting for the relay to see it.
    ending: Vec<JoinHandle<Result<Closed, HandshakeError>>>,
    connected: usize,
}

/// Somebody who connects and disconnects under every ID.
async fn act(relay: trunkline::Relay, mut random: StdRng) -> Left {
    let mut left = Left::default();
    for _ in 0..STEPS {
        for _ in 0..random.random_range(0..4) {
            tokio::task::yield_now().await;
        }
        let open = left.open.len();
        if open == 0 || (open < 3 && random.random_bool(0.5)) {
            let number = random.random_range(0..IDS);
            let mut client = MemoryClient::begin(&relay, &name(number)).await;
            // None: taken over by another actor before it has read its answer.
            match client.end.recv().await {
                Some(answer) => {
                    assert_eq!(answer[..2], [1, 7]);
                    left.open.push((number, client));
                }
                None => left.ending.push(client.connection),
            }
            left.connected += 1;
            continue;
        }
        let (_, client) = left.open.swap_remove(random.random_range(0..open));
        let last_words = match random.random_range(0..3) {
            0 => Some(close()),
            1 => {
                let to = peer(&name(random.random_range(0..IDS)));
                Some(transport(&to, b"last words"))
            }
            _ => None,
        };
        if let Some(message) = last_words {
            // The relay may have ended it by now.
            client.end.send(message).await;
        }
        drop(client.end);
        if random.random_bool(0.5) {
            client.connection.await.unwrap().unwrap();
        } else {
            left.ending.push(client.connection);
        }
    }
    left
}

/// A client that hears of the IDs until told to stop; returns the last notice on each, and how often it was told *online*
/// and had subscribed.
struct Watcher {
    client: MemoryClient,
    me: PeerId,
    /// Whether it subscribes anew when it hears *offline*. (Had it unsubscribed before, it would miss what happens between.)
    renews: bool,
    last: HashMap<PeerId, u8>,
    online: usize,
    subscribed: usize,
}

impl Watcher {
    async fn sync(&mut self, mark: &[u8]) -> usize {
        assert!(self.client.end.send(transport(&self.me, mark)).await);
        let mut notices = 0;
        loop {
            let message = self.client.end.recv().await.expect("a watcher stays");
            match message[1] {
                3 => {
                    assert_eq!(payload_of(&message, &self.me), mark);
                    return notices;
                }
                kind @ (10 | 11) => {
                    for id in message[2..].chunks(36) {
                        notices += 1;
                        let id = PeerId::from_slice(id).unwrap();
                        self.last.insert(id, kind);
                        self.online += usize::from(kind == 10);
                        if kind == 11 && self.renews {
                            self.subscribed += 1;
                            assert!(self.client.end.send(ids(8, &[id])).await);
                        }
                    }
                }
                other => panic!("type {other}"),
            }
        }
    }

    async fn watch(mut self, mut over: watch::Receiver<bool>) -> Self {
        for turn in 0_u32.. {
            let last_turn = *over.borrow_and_update();
            let notices = self.sync(&turn.to_be_bytes()).await;
            if last_turn && notices == 0 {
                break;
            }
        }
        self
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thousands_of_random_connections_leave_nothing_untrue_behind() {
    let mut random = StdRng::seed_from_u64(seed());
    let relay = TestRelay::start();
    let all: Vec<_> = (0..IDS).map(|number| peer(&name(number))).collect();

    let (over, is_over) = watch::channel(false);
    let mut watchers = JoinSet::new();
    const WATCHERS: usize = 6;
    for number in 0..WATCHERS {
        let watcher_name = format!("w{number}");
        let client = relay.memory_peer(&watcher_name).await;
        assert!(client.end.send(ids(8, &all)).await);
        let watcher = Watcher {
            client,
            me: peer(&watcher_name),
            renews: number % 2 == 0,
            last: HashMap::new(),
            online: 0,
            subscribed: IDS,
        };
        watchers.spawn(watcher.watch(is_over.clone()));
    }

    let mut actors = JoinSet::new();
    for _ in 0..ACTORS {
        let random = StdRng::seed_from_u64(random.random());
        actors.spawn(act(relay.relay.clone(), random));
    }
    let (mut open, mut connected) = (Vec::new(), 0);
    while let Some(actor) = actors.join_next().await {
        let left = actor.unwrap();
        open.extend(left.open);
        connected += left.connected;
        for connection in left.ending {
            connection.await.unwrap().unwrap();
        }
    }

    // Quiet: of every ID at most one connection lives, and the relay knows exactly those.
    let living = |open: &[(usize, MemoryClient)], number: usize| {
        let same = open.iter().filter(|(of, _)| *of == number);
        same.filter(|(_, client)| !client.connection.is_finished())
            .count()
    };
    let peers = relay.relay.peers();
    until("one living connection for each registration", || {
        let true_of =
            |number: usize| living(&open, number) == usize::from(peers.contains(&all[number]));
        (0..IDS).all(true_of)
            && peers.len()
                == WATCHERS
                    + open
                        .iter()
                        .filter(|(_, c)| !c.connection.is_finished())
                        .count()
    })
    .await;
    over.send(true).unwrap();
    while let Some(watcher) = watchers.join_next().await {
        let watcher = watcher.unwrap();
        for (number, id) in all.iter().enumerate() {
            let online = peers.contains(id);
            let told = watcher.last.get(id).copied();
            if watcher.renews {
                let truth = if online { Some(10) } else { Some(11) };
                let never = told.is_none() && !online;
                assert!(told == truth || never, "x{number}: {told:?}, {online}");
            } else {
                // Its online notice may be used up, but what it heard last of a peer that is gone is that it is gone.
                assert!(online || told != Some(10), "x{number}: {told:?}");
            }
        }
        // At once and for the next registration: no subscription is told more.
        assert!(watcher.online <= 2 * watcher.subscribed);
        open.push((usize::MAX, watcher.client));
    }

    // The newest connection of each ID is the one that messages reach.
    let sender = relay.memory_peer("sender").await;
    for (number, client) in &mut open {
        if *number == usize::MAX || client.connection.is_finished() {
            continue;
        }
        let mark = number.to_be_bytes();
        assert!(sender.end.send(transport(&all[*number], &mark)).await);
        loop {
            let message = client.end.recv().await.expect("a living connection");
            if message[2..38] == *peer("sender").as_bytes() {
                assert_eq!(message[38..], mark);
                break;
            }
        }
    }

    let (received, _) = relay.conserved().await;
    assert!(received > 0);
    let metrics = relay.read_metrics().await;
    let takeovers = metrics.sum("relay_takeovers_total", &[]);
    assert_eq!(
        takeovers,
        metrics.sum("relay_peer_reconnections_total", &[])
    );
    println!("{connected} connections, {takeovers} takeovers");
    assert!(takeovers > 100 && (takeovers as usize) < connected);
    assert_eq!(
        metrics.sum("relay_messages_total", &[("type", "auth_response")]),
        relay.relay.counters().sent_count(MessageType::AuthResponse)
    );

    // All go: nothing stays behind.
    drop((open, sender));
    relay.peers(0).await;
    let metrics = relay.read_metrics().await;
    assert_eq!(metrics.sum("relay_peers", &[]), 0);
    assert_eq!(metrics.sum("relay_peers_active", &[]), 0);
    relay.conserved().await;
    let metrics = relay.read_metrics().await;
    assert_eq!(metrics.sum("relay_queue_bytes", &[]), 0);
    relay.stopped().await;
}

/// A peer's old connection ends while its new one begins: a watcher hears *online* only (a takeover), or *offline* and then
/// *online*. The other order would leave it with the wrong notice for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_end_and_a_comeback_at_the_same_moment_are_told_in_their_order() {
    let mut random = StdRng::seed_from_u64(seed());
    let relay = TestRelay::start();
    let x = peer("x");
    let mut watchers = Vec::new();
    for watcher in ["w0", "w1", "w2"] {
        watchers.push((peer(watcher), relay.memory_peer(watcher).await));
    }
    let (mut takeovers, mut ends) = (0, 0);
    let mut current = relay.memory_peer("x").await;
    for round in 0..ROUNDS {
        for (me, watcher) in &mut watchers {
            assert!(watcher.end.send(ids(8, &[x])).await);
            assert_eq!(watcher.sync(me).await, [ids(10, &[x])]);
        }
        let (pause, delay) = (random.random_range(0..1200), random.random_range(0..400));
        let older = tokio::spawn(async move {
            spin(pause);
            drop(current.end);
            current.connection.await.unwrap().unwrap();
        });
        let handle = relay.relay.clone();
        let newer = tokio::spawn(async move {
            spin(delay);
            MemoryClient::connect(&handle, "x").await
        });
        older.await.unwrap();
        current = newer.await.unwrap();
        let (online, offline) = (ids(10, &[x]), ids(11, &[x]));
        for (me, watcher) in &mut watchers {
            let told = watcher.sync(me).await;
            if told == [online.clone()] {
                takeovers += 1;
            } else {
                let right = [offline.clone(), online.clone()];
                assert_eq!(told, right, "round {round}");
                ends += 1;
            }
        }
    }
    println!("{takeovers} notices of a takeover, {ends} of an end and a comeback");
    assert_eq!(takeovers + ends, 3 * ROUNDS);
    relay.conserved().await;
}

/// Passes a very short time in this thread.
fn spin(turns: u32) {
    for _ in 0..turns * 16 {
        std::hint::spin_loop();
    }
}
