//! Who owns which peer: every pod's view of all pods (cluster-protocol.md, faults 6, 7 and 8).
//!
//! One table, in shards. What is said of one peer, here and on the wire, is said under the lock of its shard, so that
//! no pod hears of two changes in the wrong order. Whoever remembers a route compares the generation of its shard: any change
//! to the shard makes it look again.
//!
//! Lock order: presence, then a shard, then the pods, or the registry, or an outbox. The relay's
//! [`place_changed`](LocalPeers::place_changed) is called with none of them held.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::metrics::Meter;
use tokio::time::Instant;

use super::asker::Lookups;
use super::asks::Asks;
use super::exchange::Exchanges;
use super::held::HoldBudget;
use super::owner_metrics::OwnerMetrics;
use super::pods::{PodNumber, Pods};
use super::shard::{Locked, Owner, Shard, State};
use super::timeline::Timeline;
use crate::crosspod::{Directory, LocalPeers, Place, PodAddr};
use crate::outbox::QueuePolicy;
use crate::proto::PeerId;
use crate::proto::cluster::{Seqno, encode_i_have, encode_lost};
use crate::telemetry::counters::Counters;
use crate::time::Clock;

/// Shards, so that those who look up different peers rarely meet, and that a change makes few others look again.
const SHARDS: usize = 256;

/// What the owner table needs of its pod.
#[derive(Debug)]
pub(crate) struct OwnersConfig {
    /// This pod's announced address.
    pub(crate) us: PodAddr,
    /// Registrations are dated with it.
    pub(crate) clock: Clock,
    /// The relay's counters.
    pub(crate) counters: Arc<Counters>,
    /// The memory of all queues, of which held messages get a part.
    pub(crate) policy: Arc<QueuePolicy>,
    /// The peers of this pod.
    pub(crate) local: Weak<dyn LocalPeers>,
    /// Where metrics go.
    pub(crate) meter: Meter,
}

/// The owner table, with what is held and looked for.
#[derive(Debug)]
pub(crate) struct Owners {
    hasher: RandomState,
    shards: Box<[Shard]>,
    pub(super) pods: Pods,
    pub(super) timeline: Timeline,
    pub(super) holds: Arc<HoldBudget>,
    pub(super) lookups: Lookups,
    pub(super) lookup_number: AtomicU32,
    pub(super) asks: Asks,
    pub(super) exchanges: Exchanges,
    pub(super) counters: Arc<Counters>,
    pub(super) policy: Arc<QueuePolicy>,
    pub(super) metrics: Arc<OwnerMetrics>,
    local: Weak<dyn LocalPeers>,
    clock: Clock,
    started: Instant,
    draining: AtomicBool,
}

impl Owners {
    /// An empty table. Somebody must [`run`](Self::run) it.
    pub(crate) fn new(config: OwnersConfig) -> Arc<Self> {
        let hasher = RandomState::new();
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher,
            pods: Pods::new(config.us),
            timeline: Timeline::default(),
            holds: HoldBudget::new(&config.policy),
            lookups: Lookups::default(),
            lookup_number: AtomicU32::new(0),
            asks: Asks::default(),
            exchanges: Exchanges::default(),
            counters: config.counters,
            policy: config.policy,
            metrics: OwnerMetrics::new(&config.meter),
            local: config.local,
            clock: config.clock,
            started: Instant::now(),
            draining: AtomicBool::new(false),
        })
    }

    /// Milliseconds since the table was made.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When such a millisecond is.
    pub(super) fn instant(&self, milliseconds: u64) -> Instant {
        self.started + Duration::from_millis(milliseconds)
    }

    /// The peers of this pod; none when the relay is gone.
    pub(super) fn local(&self) -> Option<Arc<dyn LocalPeers>> {
        self.local.upgrade()
    }

    /// The number of the shard that a peer is in.
    pub(super) fn shard_of(&self, peer: &PeerId) -> usize {
        // The map uses the low bits and the top seven of a hash with another key.
        (self.hasher.hash_one(peer) >> 32) as usize % SHARDS
    }

    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    pub(super) fn lock_shard(&self, shard: usize) -> Locked<'_> {
        self.shards[shard].lock()
    }

    pub(super) fn lock(&self, peer: &PeerId) -> Locked<'_> {
        self.lock_shard(self.shard_of(peer))
    }

    /// What the routes of a shard are compared by.
    #[inline]
    pub(super) fn generation(&self, shard: usize) -> u32 {
        self.shards[shard].generation()
    }

    /// How many peers are connected somewhere, as far as this pod knows.
    pub(crate) fn len(&self) -> usize {
        let count = |shard: &Shard| {
            let is_there = |owner: &&Owner| matches!(owner.state, State::Here | State::There);
            shard.lock().owners.values().filter(is_there).count()
        };
        self.shards.iter().map(count).sum()
    }

    /// Tells all pods.
    pub(super) fn broadcast(&self, frame: &[u8]) {
        for link in self.pods.links().iter() {
            if link.carries_peers() {
                // A link that takes it no more is lost, and all is told anew when the next one is up.
                link.control(frame);
            }
        }
    }

    /// Lets the relay look where a peer is by now.
    pub(super) fn place_changed(&self, peer: &PeerId) {
        if let Some(local) = self.local() {
            local.place_changed(peer);
        }
    }
}

impl Directory for Owners {
    fn registered(&self, peer: &PeerId) {
        let now = self.now();
        let mut shard = self.lock(peer);
        let date = u32::try_from(self.clock.now_unix()).unwrap_or(u32::MAX);
        let seqno = Seqno(
            shard
                .owners
                .get(peer)
                .map_or(date, |known| date.max(known.seqno.0.saturating_add(1))),
        );
        let owner = Owner {
            seqno,
            stamp: now as u32,
            pod: PodNumber::US,
            epoch: 0,
            state: State::Here,
        };
        shard.owners.insert(*peer, owner);
        shard.absent.remove(peer);
        shard.changed();
        self.broadcast(&encode_i_have(peer, seqno));
        self.settle(&mut shard, peer);
    }

    fn ended(&self, peer: &PeerId) {
        let now = self.now();
        let mut shard = self.lock(peer);
        let Some(known) = shard.owner_if(peer, |known| known.state == State::Here) else {
            return;
        };
        if self.draining.load(Ordering::Relaxed) {
            return self.linger(&mut shard, peer, now);
        }
        if !self.rivals_answer(&mut shard, peer, now) {
            self.gone(&mut shard, peer, now);
        }
        self.broadcast(&encode_lost(peer, known.seqno));
    }

    fn place(&self, peer: &PeerId) -> Place {
        match self.lock(peer).owners.get(peer).map(|known| known.state) {
            Some(State::Here) => Place::Here,
            Some(State::There | State::Lingering) => Place::Elsewhere,
            Some(State::Gone) | None => Place::Nowhere,
        }
    }

    fn watched(&self, peers: &[PeerId]) {
        self.ask_for(peers);
    }

    fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}
