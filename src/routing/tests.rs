//! Registry, memo and presence without sockets.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::crosspod::{Directory, Place};
use crate::outbox::{Framing, Outbox, QueuePolicy, Taken};
use crate::proto::PeerId;
use crate::proto::peer::{Message, parse};
use crate::telemetry::counters::Counters;
use crate::ticks::Ticks;
use crate::transport::{RemoteAddr, TransportKind};

struct World {
    registry: Arc<Registry>,
    presence: Presence,
    policy: Arc<QueuePolicy>,
    serial: u64,
}

/// One connection with what its peer has been told so far.
struct Conn {
    registration: Arc<Registration>,
    outbox: Arc<Outbox>,
    subscriptions: Subscriptions,
}

impl World {
    fn new() -> Self {
        let counters = Arc::<Counters>::default();
        let registry = Arc::<Registry>::default();
        Self {
            presence: Presence::new(Arc::clone(&registry), Arc::clone(&counters)),
            registry,
            policy: QueuePolicy::new(
                1 << 20,
                Duration::from_secs(1),
                1 << 30,
                counters,
                Ticks::default(),
            ),
            serial: 0,
        }
    }

    fn registration(&mut self, name: &str) -> (Arc<Registration>, Arc<Outbox>) {
        self.serial += 1;
        let outbox = Outbox::new(Framing::Length, &self.policy);
        let registration = Registration::new(
            PeerId::from_name(name.as_bytes()),
            self.serial,
            TransportKind::Memory,
            RemoteAddr::unknown(),
            Arc::clone(&outbox),
            0,
        );
        (registration, outbox)
    }

    fn connect(&mut self, name: &str) -> Conn {
        let (registration, outbox) = self.registration(name);
        self.presence.register(&registration);
        Conn {
            registration,
            outbox,
            subscriptions: Subscriptions::default(),
        }
    }

    fn subscribe(&self, conn: &mut Conn, names: &[&str]) {
        let ids = names.iter().map(|name| PeerId::from_name(name.as_bytes()));
        self.presence.subscribe(
            &conn.registration,
            &mut conn.subscriptions,
            ids,
            1000,
            &mut Vec::new(),
        );
    }

    fn unsubscribe(&self, conn: &mut Conn, names: &[&str]) {
        let ids = names.iter().map(|name| PeerId::from_name(name.as_bytes()));
        self.presence
            .unsubscribe(&conn.registration, &mut conn.subscriptions, ids);
    }

    fn end(&self, conn: Conn) {
        self.presence
            .unregister(&conn.registration, conn.subscriptions);
    }
}

impl Conn {
    /// The notices since the last call: true for online.
    fn notices(&self) -> Vec<(PeerId, bool)> {
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Taken::Control(bytes)) = self.outbox.poll_take(&mut cx) else {
            return Vec::new();
        };
        let mut notices = Vec::new();
        let mut rest = &bytes[..];
        while let [high, low, tail @ ..] = rest {
            let (message, tail) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            rest = tail;
            match parse(message).unwrap() {
                Message::PeersOnline(ids) => notices.extend(ids.into_iter().map(|id| (id, true))),
                Message::PeersOffline(ids) => {
                    notices.extend(ids.into_iter().map(|id| (id, false)));
                }
                other => panic!("{other:?}"),
            }
        }
        notices
    }
}

fn id(name: &str) -> PeerId {
    PeerId::from_name(name.as_bytes())
}

/// A writer that is done as soon as it is woken, on another thread for all we know.
struct InstantWriter(Arc<Registration>);

impl Wake for InstantWriter {
    fn wake(self: Arc<Self>) {
        self.0.end(EndReason::WriterEnded);
    }
}

#[test]
fn whoever_closes_a_connection_says_why_however_fast_its_writer_is() {
    let conn = World::new().connect("x");
    let writer = Waker::from(Arc::new(InstantWriter(Arc::clone(&conn.registration))));
    let mut cx = Context::from_waker(&writer);
    assert!(conn.outbox.poll_take(&mut cx).is_pending());
    conn.registration.close(EndReason::Shutdown);
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(
        conn.registration.poll_end(&mut cx),
        Poll::Ready(EndReason::Shutdown)
    );
    let Poll::Ready(Taken::Control(last)) = conn.outbox.poll_take(&mut cx) else {
        panic!("nothing is said");
    };
    assert_eq!(last, [0, 2, 1, 4]);
}

#[test]
fn online_comes_once_per_subscription_and_offline_every_time() {
    let mut world = World::new();
    let mut watcher = world.connect("watcher");
    world.subscribe(&mut watcher, &["x"]);
    assert_eq!(watcher.notices(), []);
    let x = world.connect("x");
    assert_eq!(watcher.notices(), [(id("x"), true)]);
    world.end(x);
    assert_eq!(watcher.notices(), [(id("x"), false)]);
    let x = world.connect("x");
    assert_eq!(watcher.notices(), [], "the subscription is used up");
    world.end(x);
    assert_eq!(watcher.notices(), [(id("x"), false)]);
    world.subscribe(&mut watcher, &["x"]);
    let x = world.connect("x");
    assert_eq!(watcher.notices(), [(id("x"), true)], "armed again");
    world.unsubscribe(&mut watcher, &["x"]);
    world.end(x);
    assert_eq!(watcher.notices(), []);
    assert_eq!(world.presence.watched(), 0);
}

#[test]
fn whoever_was_online_at_once_keeps_the_interest_for_the_next_time() {
    let mut world = World::new();
    let mut watcher = world.connect("watcher");
    let x = world.connect("x");
    world.subscribe(&mut watcher, &["x", "y"]);
    assert_eq!(watcher.notices(), [(id("x"), true)]);
    // A takeover: online once more, and no offline.
    let newer = world.connect("x");
    assert_eq!(watcher.notices(), [(id("x"), true)]);
    world.end(x);
    assert_eq!(
        watcher.notices(),
        [],
        "the old loop's late end changes nothing"
    );
    assert!(world.registry.contains(&id("x")));
    world.end(newer);
    assert_eq!(watcher.notices(), [(id("x"), false)]);
}

#[test]
fn a_takeover_ends_the_older_connection_and_its_routes() {
    let mut world = World::new();
    let mut memo = RouteMemo::default();
    let old = world.connect("x");
    let serial = |memo: &mut RouteMemo, world: &World| {
        memo.route(&world.registry, &id("x"))
            .map(|found| found.serial())
    };
    assert_eq!(serial(&mut memo, &world), Some(old.registration.serial()));
    let newer = world.connect("x");
    assert_eq!(serial(&mut memo, &world), Some(newer.registration.serial()));
    assert!(!old.registration.is_current() && !old.outbox.is_open());
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(
        old.registration.poll_end(&mut cx),
        Poll::Ready(EndReason::TakenOver)
    );
    assert_eq!(newer.registration.poll_end(&mut cx), Poll::Pending);
    world.end(newer);
    assert_eq!(serial(&mut memo, &world), None);
    memo.release();
    assert_eq!(Arc::strong_count(&old.registration), 1);
}

#[test]
fn a_memo_serves_more_destinations_than_it_holds() {
    let mut world = World::new();
    let mut memo = RouteMemo::default();
    let conns: Vec<Conn> = (0..20).map(|n| world.connect(&n.to_string())).collect();
    for turn in 0..100 {
        let conn = &conns[turn * 7 % 20];
        let found = memo
            .route(&world.registry, conn.registration.peer())
            .expect("connected");
        assert_eq!(found.serial(), conn.registration.serial());
    }
}

/// The rule of arming, written down once more and naively.
#[derive(Default, Clone, Copy)]
struct Expected {
    subscribed: bool,
    armed: bool,
}

#[test]
fn random_changes_leave_every_watcher_with_the_truth() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..200 {
        let mut world = World::new();
        let names = ["a", "b", "c"];
        let mut watchers: Vec<Conn> = (0..3).map(|n| world.connect(&format!("w{n}"))).collect();
        let mut expected = [[Expected::default(); 3]; 3];
        // Connections per ID, the newest last; older ones have been taken over and end late.
        let mut conns: [Vec<Conn>; 3] = [Vec::new(), Vec::new(), Vec::new()];
        let mut online = [false; 3];
        for _ in 0..100 {
            let peer = rng.random_range(0..3);
            let mut notices = [const { Vec::new() }; 3];
            match rng.random_range(0..5) {
                0 | 1 => {
                    let conn = world.connect(names[peer]);
                    conns[peer].push(conn);
                    online[peer] = true;
                    for watcher in 0..3 {
                        if std::mem::take(&mut expected[watcher][peer].armed) {
                            notices[watcher].push((id(names[peer]), true));
                        }
                    }
                }
                2 if !conns[peer].is_empty() => {
                    let at = rng.random_range(0..conns[peer].len());
                    let newest = at + 1 == conns[peer].len() && online[peer];
                    let conn = conns[peer].remove(at);
                    world.end(conn);
                    if newest {
                        online[peer] = false;
                        for watcher in 0..3 {
                            if expected[watcher][peer].subscribed {
                                notices[watcher].push((id(names[peer]), false));
                            }
                        }
                    }
                }
                3 => {
                    let watcher = rng.random_range(0..3);
                    world.subscribe(&mut watchers[watcher], &[names[peer]]);
                    expected[watcher][peer] = Expected {
                        subscribed: true,
                        armed: true,
                    };
                    if online[peer] {
                        notices[watcher].push((id(names[peer]), true));
                    }
                }
                _ => {
                    let watcher = rng.random_range(0..3);
                    world.unsubscribe(&mut watchers[watcher], &[names[peer]]);
                    expected[watcher][peer] = Expected::default();
                }
            }
            for (watcher, notices) in watchers.iter().zip(&notices) {
                assert_eq!(&watcher.notices(), notices);
            }
            for (name, online) in names.iter().zip(online) {
                assert_eq!(world.registry.contains(&id(name)), online);
            }
        }
        for conn in conns.into_iter().flatten().chain(watchers) {
            world.end(conn);
        }
        assert_eq!(
            world.presence.watched(),
            0,
            "no subscription is left behind"
        );
        assert!(world.registry.is_empty());
    }
}

#[test]
fn racing_threads_leave_the_last_notice_true() {
    // Real threads register and end connections of one ID without any order between them; the watcher is armed before each
    // registration, so that it is told every change.
    const THREADS: usize = 4;
    for _ in 0..300 {
        let mut world = World::new();
        let mut watcher = world.connect("watcher");
        let mut lives: Vec<Vec<Arc<Registration>>> = Vec::new();
        for _ in 0..THREADS {
            lives.push((0..10).map(|_| world.registration("x").0).collect());
        }
        world.subscribe(&mut watcher, &["x"]);
        let keep = lives[0].pop().expect("ten of them");
        let presence = &world.presence;
        std::thread::scope(|scope| {
            for life in &lives {
                let watcher = Arc::clone(&watcher.registration);
                scope.spawn(move || {
                    let mut subscriptions = Subscriptions::default();
                    for registration in life {
                        presence.subscribe(
                            &watcher,
                            &mut subscriptions,
                            std::iter::once(id("x")),
                            10,
                            &mut Vec::new(),
                        );
                        presence.register(registration);
                        presence.unregister(registration, Subscriptions::default());
                    }
                });
            }
        });
        assert_eq!(watcher.notices().last(), Some(&(id("x"), false)));
        world.subscribe(&mut watcher, &["x"]);
        world.presence.register(&keep);
        assert_eq!(watcher.notices(), [(id("x"), true)]);
        world.presence.unregister(&keep, Subscriptions::default());
        world.end(watcher);
        assert_eq!(world.presence.watched(), 0);
    }
}

#[test]
fn many_subscriptions_end_a_few_at_a_time() {
    let mut world = World::new();
    let mut conn = world.connect("many");
    let names: Vec<String> = (0..1000).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.subscribe(&mut conn, &names);
    let mut turns = 0;
    loop {
        let before = conn.subscriptions.len();
        let more = world
            .presence
            .end_some(&conn.registration, &mut conn.subscriptions);
        let ended = before - conn.subscriptions.len();
        assert!((1..=100).contains(&ended), "{ended} under one lock");
        assert_eq!(world.presence.watched(), conn.subscriptions.len());
        turns += 1;
        if !more {
            break;
        }
    }
    assert!(turns >= 10);
    world.end(conn);
}

/// A directory that says what the test told it to, and writes down what it hears.
#[derive(Default)]
struct Elsewhere {
    places: parking_lot::Mutex<std::collections::HashMap<PeerId, Place>>,
    heard: parking_lot::Mutex<Vec<(&'static str, PeerId)>>,
}

impl Elsewhere {
    fn set(&self, peer: &PeerId, place: Place) {
        self.places.lock().insert(*peer, place);
    }

    fn heard(&self) -> Vec<(&'static str, PeerId)> {
        std::mem::take(&mut self.heard.lock())
    }
}

impl Directory for Elsewhere {
    fn registered(&self, peer: &PeerId) {
        self.set(peer, Place::Here);
        self.heard.lock().push(("registered", *peer));
    }

    fn ended(&self, peer: &PeerId) {
        let mut places = self.places.lock();
        if places.get(peer) == Some(&Place::Here) {
            places.insert(*peer, Place::Nowhere);
        }
        self.heard.lock().push(("ended", *peer));
    }

    fn place(&self, peer: &PeerId) -> Place {
        self.places
            .lock()
            .get(peer)
            .copied()
            .unwrap_or(Place::Nowhere)
    }

    fn watched(&self, peers: &[PeerId]) {
        self.heard
            .lock()
            .extend(peers.iter().map(|peer| ("watched", *peer)));
    }

    fn draining(&self) {}
}

#[test]
fn presence_is_that_of_all_pods() {
    let mut world = World::new();
    let directory = Arc::new(Elsewhere::default());
    let joined: Arc<dyn Directory> = directory.clone();
    let early = world.connect("early");
    let mut watcher = world.connect("watcher");
    world.subscribe(&mut watcher, &["x"]);
    assert!(world.presence.join(&joined));
    assert!(!world.presence.join(&joined), "once");
    let mut heard = directory.heard();
    heard.sort_unstable_by_key(|(what, peer)| (*what, *peer.as_bytes()));
    assert_eq!(
        heard.len(),
        3,
        "two registrations and one watched: {heard:?}"
    );
    assert_eq!(heard[2], ("watched", id("x")));
    world.end(early);
    assert_eq!(directory.heard(), [("ended", id("early"))]);

    // It appears, moves and goes: told once, not at all, and once.
    directory.set(&id("x"), Place::Elsewhere);
    world.presence.place_changed(&id("x"));
    world.presence.place_changed(&id("x"));
    assert_eq!(watcher.notices(), [(id("x"), true)]);
    directory.set(&id("x"), Place::Nowhere);
    world.presence.place_changed(&id("x"));
    world.presence.place_changed(&id("x"));
    assert_eq!(watcher.notices(), [(id("x"), false)]);

    // Online elsewhere at subscribe time: answered at once, and nobody need ask for it.
    directory.set(&id("x"), Place::Elsewhere);
    world.subscribe(&mut watcher, &["x", "y"]);
    assert_eq!(watcher.notices(), [(id("x"), true)]);
    assert_eq!(directory.heard(), [("watched", id("y"))]);

    // It comes here, and moves away again: its connection here ends, and nobody hears offline.
    let x = world.connect("x");
    assert_eq!(watcher.notices(), [(id("x"), true)], "still armed");
    directory.set(&id("x"), Place::Elsewhere);
    let taken_over = world.presence.place_changed(&id("x")).expect("it was here");
    assert_eq!(taken_over.serial(), x.registration.serial());
    assert!(!x.outbox.is_open() && !x.registration.is_current());
    assert!(!world.registry.contains(&id("x")));
    directory.heard();
    world.end(x);
    assert_eq!(watcher.notices(), []);
    assert_eq!(directory.heard(), [], "it had ended before");

    // It leaves here, and is on another pod already.
    let x = world.connect("x");
    directory.set(&id("x"), Place::Elsewhere);
    world.end(x);
    assert_eq!(watcher.notices(), []);
}

#[test]
fn a_subscription_does_not_swallow_a_change_that_others_have_not_heard_of() {
    let mut world = World::new();
    let directory = Arc::new(Elsewhere::default());
    let joined: Arc<dyn Directory> = directory.clone();
    world.presence.join(&joined);
    directory.set(&id("x"), Place::Elsewhere);
    let mut first = world.connect("first");
    let mut second = world.connect("second");
    world.subscribe(&mut first, &["x"]);
    assert_eq!(first.notices(), [(id("x"), true)]);
    directory.set(&id("x"), Place::Nowhere);
    world.subscribe(&mut second, &["x"]);
    world.presence.place_changed(&id("x"));
    assert_eq!(first.notices(), [(id("x"), false)]);
    assert_eq!(second.notices(), []);
}

#[test]
fn a_connection_whose_conqueror_is_gone_is_registered_anew() {
    let mut world = World::new();
    let directory = Arc::new(Elsewhere::default());
    let joined: Arc<dyn Directory> = directory.clone();
    world.presence.join(&joined);
    let x = world.connect("x");
    directory.heard();
    directory.set(&id("x"), Place::Nowhere);
    assert!(world.presence.place_changed(&id("x")).is_none());
    assert!(x.registration.is_current());
    assert_eq!(directory.heard(), [("registered", id("x"))]);
}
