//! Pairs of peers that send each other numbered messages, and come back as stock clients do when they lose their pod.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use trunkline::auth::{Secret, mint};
use trunkline::client::{Client, Event};
use trunkline::proto::PeerId;

use crate::eventually;
use crate::pod::{self, SECRET};
use crate::support::peer;

/// How often a peer writes to the other of its pair.
const BEAT: Duration = Duration::from_millis(200);

/// How long openZro's client waits when it has lost its relay, and between two tries.
const FIRST_WAIT: Duration = Duration::from_millis(1_500);
const NEXT_WAIT: Duration = Duration::from_secs(2);

/// Where a peer connects.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Home {
    /// To this pod, and to no other if it is gone.
    Only(usize),
    /// To this one at first, later to any that is ready.
    FirstOf(usize),
}

/// What one peer has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where it is connected.
    pub(crate) pod: Option<usize>,
    /// How often it has connected.
    pub(crate) connections: u32,
    /// How many messages it has sent; the number of the next one.
    pub(crate) sent: u64,
    /// The number that should come next.
    pub(crate) expected: u64,
    /// Messages that a later one has overtaken, or that are lost.
    pub(crate) missing: u64,
    /// Those of them that came after all. A peer that moved has two routes.
    pub(crate) late: u64,
    /// Messages that came twice.
    pub(crate) twice: u64,
    /// How often it was told that the other is offline.
    pub(crate) offline: u32,
    /// Messages and notices that were for somebody else.
    pub(crate) astray: u32,
}

struct Shared {
    /// Two neighbours are a pair.
    records: Vec<Mutex<Record>>,
    /// The numbers that each is still missing.
    gaps: Vec<Mutex<HashSet<u64>>>,
    homes: Vec<Home>,
    ready: Vec<AtomicBool>,
    turn: AtomicUsize,
    test: String,
}

/// The peers; they end when this is dropped.
pub(crate) struct Swarm {
    shared: Arc<Shared>,
    _running: JoinSet<()>,
}

impl Swarm {
    /// Peers with these homes, each two a pair, on so many pods. Returns when all hear each other.
    pub(crate) async fn start(
        test: &str,
        pods: usize,
        pairs: impl IntoIterator<Item = [Home; 2]>,
    ) -> Self {
        let homes: Vec<Home> = pairs.into_iter().flatten().collect();
        let shared = Arc::new(Shared {
            records: homes.iter().map(|_| Mutex::default()).collect(),
            gaps: homes.iter().map(|_| Mutex::default()).collect(),
            homes,
            ready: (0..pods).map(|_| AtomicBool::new(true)).collect(),
            turn: AtomicUsize::new(0),
            test: test.to_owned(),
        });
        let mut running = JoinSet::new();
        for pod in 0..pods {
            running.spawn(balance(Arc::clone(&shared), pod));
        }
        for number in 0..shared.records.len() {
            running.spawn(live(Arc::clone(&shared), number));
        }
        let swarm = Self {
            shared,
            _running: running,
        };
        swarm.hear_each_other(swarm.all()).await;
        swarm
    }

    /// The numbers of all peers; 2n and 2n + 1 are a pair.
    pub(crate) fn all(&self) -> std::ops::Range<usize> {
        0..self.shared.records.len()
    }

    pub(crate) fn record(&self, number: usize) -> Record {
        *self.shared.records[number].lock()
    }

    /// Waits until each of these peers has heard something that the other of its pair sent from now on.
    pub(crate) async fn hear_each_other(&self, peers: impl IntoIterator<Item = usize>) {
        let awaited: Vec<(usize, u64)> = peers
            .into_iter()
            .map(|number| (number, self.record(number ^ 1).sent))
            .collect();
        eventually("all hear each other", async || {
            awaited
                .iter()
                .all(|&(number, sent)| self.record(number).expected > sent)
        })
        .await;
    }

    /// Waits until each of these peers has been told that the other of its pair is offline.
    pub(crate) async fn are_told_offline(&self, peers: impl IntoIterator<Item = usize>) {
        let peers: Vec<usize> = peers.into_iter().collect();
        eventually("all are told that the others are offline", async || {
            peers.iter().all(|&number| self.record(number).offline > 0)
        })
        .await;
    }
}

impl Shared {
    fn id(&self, number: usize) -> PeerId {
        peer(&format!("{}-{number}", self.test))
    }

    /// Where a peer connects for the first time, or the next.
    fn pod_for(&self, number: usize) -> Option<usize> {
        match self.homes[number] {
            Home::Only(pod) => Some(pod),
            Home::FirstOf(pod) if self.records[number].lock().connections == 0 => Some(pod),
            Home::FirstOf(_) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                let pods = self.ready.len();
                (0..pods)
                    .map(|pod| (turn + pod) % pods)
                    .find(|&pod| self.ready[pod].load(Ordering::Relaxed))
            }
        }
    }
}

/// What a load balancer does: asks a pod again and again whether it is ready.
async fn balance(shared: Arc<Shared>, pod: usize) {
    loop {
        let ready = pod::is_ready(pod).await;
        shared.ready[pod].store(ready, Ordering::Relaxed);
        sleep(BEAT).await;
    }
}

async fn live(shared: Arc<Shared>, number: usize) {
    let token = mint(&Secret::new(SECRET), 4_000_000_000);
    loop {
        let connected = match shared.pod_for(number) {
            Some(pod) => Client::connect(&pod::address(pod), "/relay", shared.id(number), &token)
                .await
                .ok()
                .map(|client| (pod, client)),
            None => None,
        };
        let Some((pod, client)) = connected else {
            sleep(NEXT_WAIT).await;
            continue;
        };
        {
            let mut record = shared.records[number].lock();
            record.connections += 1;
            record.pod = Some(pod);
        }
        stay(&shared, number, client).await;
        shared.records[number].lock().pod = None;
        sleep(FIRST_WAIT).await;
    }
}

/// Writes and listens until the connection ends.
async fn stay(shared: &Shared, number: usize, mut client: Client) {
    let other = shared.id(number ^ 1);
    let mine = &shared.records[number];
    if client.subscribe(&[other]).await.is_err() {
        return;
    }
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = client.recv() => match event {
                Event::Message { from, payload } => {
                    let came = payload.first_chunk().map_or(0, |number| u64::from_be_bytes(*number));
                    let mut gaps = shared.gaps[number].lock();
                    let mut record = mine.lock();
                    record.astray += u32::from(from != other);
                    if came >= record.expected {
                        gaps.extend(record.expected..came);
                        record.missing += came - record.expected;
                        record.expected = came + 1;
                    } else if gaps.remove(&came) {
                        record.late += 1;
                    } else {
                        record.twice += 1;
                    }
                }
                Event::Offline(peers) => {
                    let mut record = mine.lock();
                    record.astray += u32::from(peers != [other]);
                    record.offline += 1;
                }
                Event::Closed(_) => return,
                _ => {}
            },
            _ = beat.tick() => {
                let next = {
                    let mut record = mine.lock();
                    record.sent += 1;
                    record.sent - 1
                };
                if client.send(&other, &next.to_be_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}
