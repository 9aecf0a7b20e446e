//! Stock pods and pods of ours in one cluster: every direction, moves both ways, and a rolling migration there and back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use support::stock_pod::{Sent, StockPeer, StockPod, frame, hello, read};
use support::{
    FrozenClock, MemoryClient, NOW, PATIENCE, TestRelay, ids, loopback, payload_of, peer,
    transport, until,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tower::service_fn;
use trunkline::cluster::discovery::{Answer, Resolver, Source};
use trunkline::cluster::{Cluster, ClusterHandle, ClusterSecrets};
use trunkline::proto::PeerId;
use trunkline::proto::cluster::hello::ClusterSecret;
use trunkline::telemetry::counters::DropReason;
use trunkline::time::Clock;

const SECRET: &str = "cluster-secret";

/// How often pods are looked up in these tests.
const INTERVAL: Duration = Duration::from_millis(200);

/// What the name of all pods leads to.
#[derive(Debug, Clone, Default)]
struct Listed(Arc<Mutex<Vec<SocketAddr>>>);

impl Listed {
    fn set(&self, pods: &[SocketAddr]) {
        *self.0.lock() = pods.to_vec();
    }

    fn resolver(&self) -> Resolver {
        let listed = Arc::clone(&self.0);
        Resolver::new(service_fn(move |_| {
            let pods = listed.lock().iter().copied().collect();
            std::future::ready(Ok(Answer {
                pods,
                ttl: Duration::ZERO,
            }))
        }))
    }
}

/// A pod of ours.
struct Pod {
    relay: TestRelay,
    cluster: ClusterHandle,
}

impl Pod {
    async fn start(listed: &Listed) -> Self {
        Self::at(loopback(), listed).await
    }

    async fn at(address: SocketAddr, listed: &Listed) -> Self {
        Self::with(address, listed, true).await
    }

    async fn with(address: SocketAddr, listed: &Listed, allow_one_way: bool) -> Self {
        let relay = TestRelay::start();
        let listener = TcpListener::bind(address).await.unwrap();
        let secrets = ClusterSecrets::new(vec![ClusterSecret::new(SECRET).unwrap()]);
        let cluster = Cluster::builder(listener.local_addr().unwrap())
            .sources([Source::headless("pods", 1).unwrap()])
            .resolver(listed.resolver())
            .interval(INTERVAL)
            .accept(listener)
            .secrets(secrets)
            .allow_one_way(allow_one_way)
            .clock(Clock::fixed(NOW))
            .start(&relay.relay)
            .unwrap();
        Self { relay, cluster }
    }

    fn addr(&self) -> SocketAddr {
        self.cluster.announced()
    }

    async fn linked(&self, pods: usize) {
        until("streams to the other pods", || self.cluster.pods() == pods).await;
    }

    async fn stop(self) {
        self.relay.relay.shutdown().await;
        self.cluster.stop().await;
    }
}

async fn stock() -> StockPod {
    StockPod::start(loopback(), SECRET, NOW).await
}

/// The next transport message of a peer of ours, past all else.
async fn next(client: &mut MemoryClient) -> Vec<u8> {
    loop {
        let message = client.end.recv().await.expect("the connection lives");
        if message[1] == 3 {
            return message;
        }
    }
}

async fn notice(client: &mut MemoryClient) -> Vec<u8> {
    loop {
        let message = client.end.recv().await.expect("the connection lives");
        if matches!(message[1], 10 | 11) {
            return message;
        }
    }
}

/// Waits until a stock pod has been told so many times that a peer is on some pod.
async fn announced(pod: &StockPod, id: &PeerId, times: usize) {
    let told = || {
        let announcements = pod.seen(0x02);
        let of = announcements
            .iter()
            .filter(|(_, payload)| payload[..36] == id.as_bytes()[..]);
        of.count() >= times
    };
    until("the announcement", told).await;
}

/// A message each way between a peer of a stock pod and a peer of ours.
async fn both_ways(
    pod: &StockPod,
    theirs: &mut StockPeer,
    ours: &mut MemoryClient,
    our_id: &PeerId,
) {
    assert!(matches!(
        pod.send(&theirs.id, our_id, b"there").await,
        Sent::To(_)
    ));
    assert_eq!(payload_of(&next(ours).await, &theirs.id), b"there");
    assert!(ours.end.send(transport(&theirs.id, b"back")).await);
    assert_eq!(theirs.recv().await, (*our_id, b"back".to_vec()));
}

#[tokio::test]
async fn a_stock_pod_that_dials_us_and_one_that_we_dial_carry_messages_both_ways() {
    for we_dial in [true, false] {
        let listed = Listed::default();
        let (ours, theirs) = (Pod::start(&listed).await, stock().await);
        let mut alice = ours.relay.memory_peer("alice").await;
        let mut bob = theirs.attach("bob");
        if we_dial {
            listed.set(&[ours.addr(), theirs.addr()]);
        } else {
            assert!(theirs.dial(ours.addr()).await);
        }
        ours.linked(1).await;
        until("the stream at the other end", || {
            theirs.streams().len() == 1
        })
        .await;
        both_ways(&theirs, &mut bob, &mut alice, &peer("alice")).await;
    }
}

#[tokio::test]
async fn streams_that_both_dial_settle_on_one_that_works() {
    let listed = Listed::default();
    let (ours, theirs) = (Pod::start(&listed).await, stock().await);
    let mut alice = ours.relay.memory_peer("alice").await;
    let mut bob = theirs.attach("bob");
    listed.set(&[ours.addr(), theirs.addr()]);
    theirs.dial(ours.addr()).await;
    ours.linked(1).await;
    until("a stream at the other end", || theirs.streams().len() == 1).await;
    for _ in 0..3 {
        both_ways(&theirs, &mut bob, &mut alice, &peer("alice")).await;
    }
}

#[tokio::test]
async fn a_message_to_an_unknown_peer_of_a_stock_pod_waits_for_its_answer_in_order() {
    let listed = Listed::default();
    let (ours, theirs) = (Pod::start(&listed).await, stock().await);
    listed.set(&[theirs.addr()]);
    ours.linked(1).await;
    let mut bob = theirs.attach("bob");
    let alice = ours.relay.memory_peer("alice").await;
    // The answer is in time whatever else the machine does. All of them are held at once, or as many as it leaves time for.
    let _clock = FrozenClock::freeze();
    let payload = |number: u32| {
        let mut payload = vec![0; 1280];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        payload
    };
    for number in 0..1_000 {
        assert!(alice.end.send(transport(&bob.id, &payload(number))).await);
    }
    for number in 0..1_000 {
        assert_eq!(bob.recv().await, (peer("alice"), payload(number)));
    }
    assert_eq!(theirs.seen(0x01).len(), 1, "one question for all of them");
    assert_eq!(bob.waiting(), 0);
}

#[tokio::test]
async fn presence_of_a_peer_on_a_stock_pod_is_asked_for() {
    let listed = Listed::default();
    let (ours, theirs) = (Pod::start(&listed).await, stock().await);
    listed.set(&[theirs.addr()]);
    ours.linked(1).await;
    let bob = theirs.attach("bob");
    let mut alice = ours.relay.memory_peer("alice").await;
    assert!(alice.end.send(ids(8, &[bob.id, peer("later")])).await);
    assert_eq!(notice(&mut alice).await, ids(10, &[bob.id]));
    // One that comes to the stock pod after the question: nobody announces it, and it is found all the same.
    let later = theirs.attach("later");
    assert_eq!(notice(&mut alice).await, ids(10, &[later.id]));
}

#[tokio::test]
async fn a_peer_that_moves_between_ours_and_theirs_is_followed_both_ways() {
    let listed = Listed::default();
    let (ours, theirs, third) = (Pod::start(&listed).await, stock().await, stock().await);
    listed.set(&[theirs.addr(), third.addr()]);
    ours.linked(2).await;
    assert!(third.dial(theirs.addr()).await);
    until("all streams", || {
        theirs.streams().len() == 2 && third.streams().len() == 2
    })
    .await;
    let mut carol = third.attach("carol");
    let mut bob = ours.relay.memory_peer("bob").await;
    // The third pod learns that bob is on ours.
    both_ways(&third, &mut carol, &mut bob, &peer("bob")).await;
    // He moves to the other stock pod. The third still sends to us, for as long as its cache holds: we send it on.
    drop(bob);
    ours.relay.peers(0).await;
    let mut moved = theirs.attach("bob");
    let sent = third.send(&carol.id, &moved.id, b"moved").await;
    assert_eq!(sent, Sent::To(ours.addr().to_string()));
    assert_eq!(moved.recv().await, (carol.id, b"moved".to_vec()));
    // And back: our announcement changes the stock pods' caches at once.
    theirs.detach(&moved.id);
    let mut bob = ours.relay.memory_peer("bob").await;
    announced(&third, &moved.id, 2).await;
    both_ways(&third, &mut carol, &mut bob, &peer("bob")).await;
    assert_eq!(moved.waiting(), 0);
}

/// Whoever has not proven the secret learns no peer's ID, whatever it says: not even what only pods of ours say makes it one.
#[tokio::test]
async fn fault_11_a_pod_that_has_not_proven_the_secret_is_told_of_nobody() {
    const PING: u8 = 0x20;
    const PONG: u8 = 0x21;
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let listed = Listed::default();
    listed.set(&[address]);
    let ours = Pod::with(loopback(), &listed, false).await;
    let alice = ours.relay.memory_peer("alice").await;
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    assert_eq!(read(&mut stream).await.unwrap().0, 0x00, "its HELLO");
    let id = |name: &str| peer(name).as_bytes().to_vec();
    let message = transport(&peer("bob"), b"forged");
    for (kind, payload) in [
        (PING, Vec::new()),
        (PONG, Vec::new()),
        (0x01, id("alice")),
        (0x02, [id("victim"), vec![0xff; 4]].concat()),
        (0x03, [id("alice"), vec![0; 4]].concat()),
        (0x14, [id("alice"), message.clone()].concat()),
        (0x15, [id("nobody"), message].concat()),
    ] {
        stream.write_all(&frame(kind, &payload)).await.unwrap();
    }
    // Peers come and go, are looked for, and one is sent to whom it claims.
    assert!(alice.end.send(ids(8, &[peer("bob"), peer("victim")])).await);
    assert!(alice.end.send(transport(&peer("victim"), b"secret")).await);
    drop(ours.relay.memory_peer("bob").await);
    ours.relay.peers(1).await;
    // What it would be told is told before the last of these is answered.
    for _ in 0..50 {
        stream.write_all(&frame(PING, &[])).await.unwrap();
        loop {
            let next = timeout(PATIENCE, read(&mut stream)).await.unwrap();
            let (kind, payload) = next.expect("the stream lives");
            assert!(matches!(kind, PING | PONG), "{kind:#x} {payload:?}");
            if kind == PONG {
                break;
            }
        }
    }
    assert_eq!(ours.relay.dropped(DropReason::UnprovenPod), 2);
    // Once it has proven the secret it is told.
    let proof = hello(&address.to_string(), NOW, SECRET);
    stream.write_all(&frame(0x00, &proof)).await.unwrap();
    loop {
        let next = timeout(PATIENCE, read(&mut stream)).await.unwrap();
        let (kind, payload) = next.expect("the stream lives");
        if kind == 0x02 {
            assert_eq!(payload[..36], id("alice"));
            break;
        }
    }
}

#[tokio::test]
async fn a_rolling_migration_from_all_stock_to_all_ours_and_back_never_cuts_anybody_off() {
    let listed = Listed::default();
    let (one, two) = (stock().await, stock().await);
    assert!(one.dial(two.addr()).await);
    until("a stream", || two.streams().len() == 1).await;
    let mut alice = one.attach("alice");
    let mut bob = two.attach("bob");
    assert!(matches!(
        one.send(&alice.id, &bob.id, b"stock").await,
        Sent::To(_)
    ));
    assert_eq!(bob.recv().await, (alice.id, b"stock".to_vec()));

    // The second pod is replaced: its peers come to ours.
    let ours = Pod::start(&listed).await;
    listed.set(&[one.addr(), ours.addr()]);
    ours.linked(1).await;
    drop((bob, two));
    until("the lost stream", || {
        one.streams() == [ours.addr().to_string()]
    })
    .await;
    let mut bob = ours.relay.memory_peer("bob").await;
    // What it had in its cache leads nowhere any more; our announcement takes that place.
    announced(&one, &peer("bob"), 2).await;
    both_ways(&one, &mut alice, &mut bob, &peer("bob")).await;

    // Then the first: all are ours.
    let second = Pod::start(&listed).await;
    listed.set(&[one.addr(), ours.addr(), second.addr()]);
    second.linked(2).await;
    ours.linked(2).await;
    drop((alice, one));
    ours.linked(1).await;
    let mut alice = second.relay.memory_peer("alice").await;
    listed.set(&[ours.addr(), second.addr()]);
    assert!(alice.end.send(transport(&peer("bob"), b"ours")).await);
    assert_eq!(payload_of(&next(&mut bob).await, &peer("alice")), b"ours");
    assert!(bob.end.send(transport(&peer("alice"), b"ours")).await);
    assert_eq!(payload_of(&next(&mut alice).await, &peer("bob")), b"ours");

    // And back.
    let third = stock().await;
    listed.set(&[ours.addr(), third.addr()]);
    ours.linked(2).await;
    drop(alice);
    second.stop().await;
    ours.linked(1).await;
    let mut alice = third.attach("alice");
    both_ways(&third, &mut alice, &mut bob, &peer("bob")).await;
}
