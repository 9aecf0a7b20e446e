//! Random schedules of connects, moves, ends, cuts and heals; the seed is printed. After a quiet time every table is true, every
//! watcher's last notice is true, and nothing is left over.

use std::collections::{BTreeMap, HashSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::*;

const NAMES: [&str; 5] = ["p", "q", "r", "s", "t"];

/// A sender of numbered messages, and a watcher of all names, on each pod.
struct Watcher {
    peer: Peer,
    /// The last notice about each name.
    told: HashMap<PeerId, bool>,
}

struct World {
    pods: Vec<Pod>,
    wires: BTreeMap<(usize, usize), Wire>,
    watchers: Vec<Watcher>,
    /// Connections that the test holds; an old one of the same name may live until it has been taken over.
    conns: Vec<(usize, Peer)>,
    /// What has been sent, and what has been received.
    sent: u32,
    received: HashSet<(PeerId, Vec<u8>)>,
    log: Vec<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log.join("\n"));
        }
    }
}

impl World {
    async fn new(pods: usize) -> Self {
        let pods: Vec<Pod> = (0..pods)
            .map(|number| Pod::new(&format!("pod-{number}:7090")))
            .collect();
        let mut watchers = Vec::new();
        for (number, pod) in pods.iter().enumerate() {
            let mut peer = pod.connect(&format!("watcher {number}")).await;
            peer.subscribe(&NAMES).await;
            watchers.push(Watcher {
                peer,
                told: HashMap::new(),
            });
        }
        let mut world = Self {
            pods,
            wires: BTreeMap::new(),
            watchers,
            conns: Vec::new(),
            sent: 0,
            received: HashSet::new(),
            log: Vec::new(),
        };
        for a in 0..world.pods.len() {
            for b in a + 1..world.pods.len() {
                world.heal(a, b, 1);
            }
        }
        world
    }

    fn heal(&mut self, a: usize, b: usize, delay: u64) {
        let (one, other) = (&self.pods[a], &self.pods[b]);
        self.wires
            .entry((a, b))
            .or_insert_with(|| Wire::new(one, other, Duration::from_millis(delay)));
    }

    /// Takes what has come, and checks it.
    async fn collect(&mut self) {
        for watcher in &mut self.watchers {
            for heard in watcher.peer.heard().await {
                match heard {
                    Heard::Online(id) => {
                        watcher.told.insert(id, true);
                    }
                    Heard::Offline(id) => {
                        // Armed again, so that the next online is told, too.
                        watcher.told.insert(id, false);
                    }
                    Heard::Message(..) => panic!("nobody writes to a watcher"),
                }
            }
        }
        for (_, peer) in &mut self.conns {
            for heard in peer.heard().await {
                let Heard::Message(from, payload) = heard else {
                    panic!("{heard:?}");
                };
                assert_eq!(payload[4..], peer.id.as_bytes()[..], "for this peer");
                assert!(
                    self.received.insert((from, payload)),
                    "a message came twice"
                );
            }
        }
    }

    async fn step(&mut self, rng: &mut StdRng) {
        let pod = rng.random_range(0..self.pods.len());
        let name = *NAMES.choose(rng).unwrap();
        match rng.random_range(0..12) {
            0..=2 => {
                self.log.push(format!("{name} connects to {pod}"));
                let peer = self.pods[pod].connect(name).await;
                self.conns.push((pod, peer));
            }
            3 if !self.conns.is_empty() => {
                let (at, peer) = self.conns.remove(rng.random_range(0..self.conns.len()));
                self.log.push(format!("{} leaves {at}", peer.id));
            }
            4 => {
                if let Some(key) = self.wires.keys().copied().collect::<Vec<_>>().choose(rng) {
                    self.log.push(format!("cut {key:?}"));
                    self.wires.remove(key).unwrap().cut().await;
                }
            }
            5 | 6 => {
                let other = rng.random_range(0..self.pods.len());
                if pod != other {
                    let (a, b) = (pod.min(other), pod.max(other));
                    let delay = rng.random_range(0..20);
                    self.log.push(format!("heal {a} {b}, {delay} ms"));
                    self.heal(a, b, delay);
                }
            }
            7 => {
                // Watchers ask again, as stock clients do.
                self.watchers[pod].peer.subscribe(&NAMES).await;
            }
            8 => {
                self.pods[pod]
                    .date
                    .set(TODAY + rng.random_range(0..200) - 100);
            }
            _ => {
                self.sent += 1;
                let mut payload = self.sent.to_be_bytes().to_vec();
                payload.extend_from_slice(id(name).as_bytes());
                self.watchers[pod].peer.send(name, &payload).await;
            }
        }
        if rng.random_bool(0.6) {
            let pause = *[0_u64, 1, 3, 10, 30, 200, 1_500, 6_000]
                .choose(rng)
                .unwrap();
            self.log.push(format!("{pause} ms pass"));
            sleep(Duration::from_millis(pause)).await;
        }
        self.collect().await;
    }

    /// All is healed and quiet: what must be true then?
    async fn check(&mut self) {
        for a in 0..self.pods.len() {
            for b in a + 1..self.pods.len() {
                self.heal(a, b, 1);
            }
        }
        sleep(Duration::from_secs(20)).await;
        self.collect().await;
        // Whoever has been taken over knows it.
        let mut living: Vec<(usize, PeerId)> = Vec::new();
        for (pod, mut peer) in std::mem::take(&mut self.conns) {
            if !peer.is_ended().await {
                living.push((pod, peer.id));
                self.conns.push((pod, peer));
            }
        }
        for name in NAMES.map(id) {
            let at: Vec<usize> = living
                .iter()
                .filter(|(_, peer)| *peer == name)
                .map(|(pod, _)| *pod)
                .collect();
            assert!(at.len() <= 1, "{name} is connected to {at:?}");
            for (number, pod) in self.pods.iter().enumerate() {
                let shard = pod.owners.lock(&name);
                let known = shard
                    .owners
                    .get(&name)
                    .filter(|known| known.state != crate::cluster::shard::State::Gone);
                let address = known.map(|known| pod.owners.pods.address(known.pod));
                let expected = at.first().map(|pod| self.pods[*pod].address.clone());
                assert_eq!(
                    address,
                    expected,
                    "{name} as pod {number} sees it: {known:?}, now {}",
                    pod.owners.now() as u32
                );
                drop(shard);
                assert_eq!(
                    pod.relay.peers().contains(&name),
                    at.first() == Some(&number)
                );
            }
            for (number, watcher) in self.watchers.iter().enumerate() {
                // One that was told offline must not be wrong; online is told once for each subscription.
                if watcher.told.get(&name) == Some(&true) {
                    assert!(!at.is_empty(), "{name} is offline, watcher {number}");
                }
            }
        }
        // A new subscription is answered with the truth.
        for watcher in &mut self.watchers {
            watcher.peer.heard().await;
            for name in NAMES {
                watcher.peer.subscribe(&[name]).await;
                let online = living.iter().any(|(_, peer)| *peer == id(name));
                let expected = if online {
                    vec![Heard::Online(id(name))]
                } else {
                    Vec::new()
                };
                assert_eq!(watcher.peer.heard().await, expected, "{name}");
            }
        }
        for pod in &self.pods {
            pod.assert_balanced();
            assert_eq!(pod.owners.holds.used(), 0);
        }
    }
}

async fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new(rng.random_range(2..5)).await;
    for _ in 0..rng.random_range(5..60) {
        world.step(&mut rng).await;
    }
    world.check().await;
    // And at the very end nothing is left.
    world.conns.clear();
    sleep(Duration::from_secs(60)).await;
    for pod in &world.pods {
        assert_eq!(
            pod.owners.len(),
            world.pods.len(),
            "only the watchers are left"
        );
        assert_eq!(pod.owners.timeline.len(), 0);
        pod.assert_balanced();
    }
}

#[test]
fn random_schedules_end_in_the_truth() {
    let (first, seeds): (u64, u64) = match std::env::var("TRUNKLINE_SEED") {
        Ok(seed) => (seed.parse().unwrap(), 1),
        Err(_) => (rand::random(), 40),
    };
    for seed in (0..seeds).map(|number| first.wrapping_add(number)) {
        println!("TRUNKLINE_SEED={seed}");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(run(seed));
    }
}
