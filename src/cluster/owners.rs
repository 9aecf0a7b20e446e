//! Who owns which peer: every pod's view of all pods (cluster-protocol.md, faults 6, 7 and 8).
//!
//! One table, in shards. What is said of one peer, here and on the wire, is said under the lock of its shard, so that
//! no pod hears of two changes in the wrong order. Whoever remembers a route compares the generation of its shard: any change
//! to the shard makes it look again.
//!
//! Lock order: presence, then a shard, then the pods, or the registry, or an outbox. The relay's
//! [`place_changed`](LocalPeers::place_changed) is called with none of them held.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::metrics::Meter;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::asks::Asks;
use super::exchange::Exchanges;
use super::held::HoldBudget;
use super::lookup::Pending;
use super::owner_metrics::OwnerMetrics;
use super::pods::{PodNumber, Pods};
use super::timeline::{Due, Timeline};
use crate::crosspod::{Directory, LocalPeers, Place, PodAddr};
use crate::outbox::QueuePolicy;
use crate::proto::PeerId;
use crate::proto::cluster::{Seqno, encode_i_have, encode_lost};
use crate::telemetry::counters::Counters;
use crate::time::Clock;

/// Shards, so that those who look up different peers rarely meet, and that a change makes few others look again.
const SHARDS: usize = 256;

/// How long it is believed that a peer of a lost or draining pod comes back, in milliseconds (cluster-protocol.md, *Leaving
/// without a trace*).
pub(super) const LINGER: u64 = 5_000;

/// How long it is known of a peer that it is gone, in milliseconds: as long as what was said of it before may be on its way.
/// Its next registration gets a higher number.
const GONE_REMEMBERED: u64 = 30_000;

/// How long what a stock pod said is believed, in milliseconds (cluster-protocol.md, *Fixed facts*: owner cache).
const STOCK_BELIEVED: u64 = 300_000;

/// A number below this is a stock pod's counter of its answers; ours are Unix seconds (cluster-protocol.md, fault 6).
const STOCK_BELOW: u32 = 1_000_000_000;

/// Whether a number is a stock pod's.
pub(super) fn is_stock(seqno: Seqno) -> bool {
    seqno.0 < STOCK_BELOW
}

/// What is known of a peer's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The peer is connected to this pod.
    Here,
    /// Another pod says that it has the peer.
    There,
    /// The pod that had the peer has it no more, and the peer is expected elsewhere: nothing can be sent to it, but it counts as
    /// online.
    Lingering,
    /// The peer is gone.
    Gone,
}

/// What is known of one peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    /// The number of its registration.
    pub(super) seqno: Seqno,
    /// When this was learnt, in milliseconds, cut to 32 bits: only compared.
    pub(super) stamp: u32,
    pub(super) pod: PodNumber,
    /// The pod's epoch in which it said so.
    epoch: u8,
    pub(super) state: State,
}

// With what the map adds, this is what a peer anywhere in the cluster costs each pod.
const _: () = assert!(size_of::<(PeerId, Owner)>() == 48);

/// What to make of a pod's word that it has a peer.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is news.
    Newer,
    /// It is what we know.
    Confirmed,
    /// We know better.
    Older,
}

/// Some of the peers.
#[derive(Debug, Default)]
pub(super) struct ShardState {
    pub(super) owners: HashMap<PeerId, Owner, RandomState>,
    /// Peers whose owner is being looked for, with what waits for them.
    pub(super) pending: HashMap<PeerId, Pending, RandomState>,
    /// Peers that nobody had when we asked, and until when that is believed, in milliseconds.
    pub(super) absent: HashMap<PeerId, u64, RandomState>,
    /// Peers that a second pod says it has, too, and has not taken back yet. When the one that counts loses such a peer, the
    /// other may still have it: it is asked. Between pods that hear each other this takes a moment.
    contested: HashSet<PeerId, RandomState>,
}

#[derive(Debug, Default)]
struct Shard {
    /// Changes with every change of an owner.
    generation: AtomicU32,
    state: Mutex<ShardState>,
}

/// A shard of the table, locked.
pub(super) struct Locked<'a> {
    shard: &'a Shard,
    state: MutexGuard<'a, ShardState>,
}

impl std::ops::Deref for Locked<'_> {
    type Target = ShardState;

    fn deref(&self) -> &ShardState {
        &self.state
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut ShardState {
        &mut self.state
    }
}

impl Locked<'_> {
    /// Routes that are remembered must be looked up again.
    fn changed(&self) {
        self.shard.generation.fetch_add(1, Ordering::Release);
    }

    pub(super) fn generation(&self) -> u32 {
        self.shard.generation.load(Ordering::Acquire)
    }
}

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
    /// Lookups in progress.
    pub(super) lookups: AtomicUsize,
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
            lookups: AtomicUsize::new(0),
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
        let shard = &self.shards[shard];
        Locked {
            shard,
            state: shard.state.lock(),
        }
    }

    pub(super) fn lock(&self, peer: &PeerId) -> Locked<'_> {
        self.lock_shard(self.shard_of(peer))
    }

    /// What the routes of a shard are compared by.
    #[inline]
    pub(super) fn generation(&self, shard: usize) -> u32 {
        self.shards[shard].generation.load(Ordering::Acquire)
    }

    /// How many peers are connected somewhere, as far as this pod knows.
    pub(crate) fn len(&self) -> usize {
        let count = |shard: &Shard| {
            let state = shard.state.lock();
            let is_there = |owner: &&Owner| matches!(owner.state, State::Here | State::There);
            state.owners.values().filter(is_there).count()
        };
        self.shards.iter().map(count).sum()
    }

    /// Tells all pods.
    fn broadcast(&self, frame: &[u8]) {
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

    /// What to make of it that `pod` has a peer of which `known` is known.
    fn judge(&self, known: &Owner, pod: PodNumber, seqno: Seqno) -> Verdict {
        let is_newer = || match seqno.cmp(&known.seqno) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => self.pods.is_larger(pod, known.pod),
            std::cmp::Ordering::Greater => true,
        };
        let newer_if = |newer| {
            if newer {
                Verdict::Newer
            } else {
                Verdict::Older
            }
        };
        match known.state {
            // Nothing is known that could be better, whatever the number: our own question may have been answered.
            State::Gone => Verdict::Newer,
            State::Lingering | State::There if known.pod == pod => {
                if seqno == known.seqno || is_stock(seqno) && is_stock(known.seqno) {
                    Verdict::Confirmed
                } else {
                    Verdict::Newer
                }
            }
            State::Lingering => Verdict::Newer,
            // A stock pod never says so of itself. It answers what we asked before the peer came here, and cannot say since when
            // it has the peer.
            State::Here => newer_if(!is_stock(seqno) && is_newer()),
            // Its pod is lost.
            State::There if known.epoch != self.pods.epoch(known.pod) => Verdict::Newer,
            State::There if is_stock(seqno) || is_stock(known.seqno) => Verdict::Newer,
            State::There => newer_if(is_newer()),
        }
    }

    /// A pod says that it has a peer.
    pub(super) fn claimed(&self, pod: PodNumber, peer: &PeerId, seqno: Seqno) {
        let now = self.now();
        let mut shard = self.lock(peer);
        let known = shard.owners.get(peer);
        let verdict = known.map_or(Verdict::Newer, |known| self.judge(known, pod, seqno));
        let is_contested = known.is_some_and(|known| {
            known.pod != pod && matches!(known.state, State::Here | State::There)
        });
        if is_contested {
            shard.contested.insert(*peer);
        }
        let known = shard.owners.get(peer);
        if verdict == Verdict::Older {
            return;
        }
        let routable = known.is_some_and(|known| known.state == State::There);
        let was_here = known.is_some_and(|known| known.state == State::Here);
        let stamp = now as u32;
        let owner = Owner {
            seqno,
            stamp,
            pod,
            epoch: self.pods.epoch(pod),
            state: State::There,
        };
        shard.owners.insert(*peer, owner);
        shard.absent.remove(peer);
        if was_here {
            // Those that the new pod cannot reach would believe for ever that the peer is here. "Not here" and not "gone": for all
            // others it is a move, which they hear of in a moment.
            self.broadcast(&encode_lost(peer, Seqno(0)));
        }
        if verdict == Verdict::Newer || !routable {
            shard.changed();
            if is_stock(seqno) {
                self.timeline
                    .add(now + STOCK_BELIEVED, Due::StockOwner(*peer, stamp));
            }
        }
        self.settle(&mut shard, peer);
        drop(shard);
        if verdict == Verdict::Newer {
            self.place_changed(peer);
        }
    }

    /// A pod says that it has a peer no more, or (number 0) that it does not have it.
    pub(super) fn lost(&self, pod: PodNumber, peer: &PeerId, seqno: Seqno) {
        let now = self.now();
        let mut shard = self.lock(peer);
        let Some(known) = shard.owners.get(peer).copied() else {
            return;
        };
        let is_meant = known.pod == pod && matches!(known.state, State::There | State::Lingering);
        if !is_meant || (seqno != Seqno(0) && seqno < known.seqno) {
            if known.pod != pod {
                shard.contested.remove(peer);
            }
            return;
        }
        if seqno == Seqno(0) {
            // It says nothing of where the peer is, which may be on its way from pod to pod.
            self.linger(&mut shard, peer, now);
            return;
        }
        if !self.ask_the_other(&mut shard, peer, now) {
            self.gone(&mut shard, peer, now);
            drop(shard);
            self.after_gone(peer);
        }
    }

    /// If a second pod had said that it has the peer, too, it is asked whether it still has; false: there is none.
    fn ask_the_other(&self, shard: &mut Locked<'_>, peer: &PeerId, now: u64) -> bool {
        let is_contested = shard.contested.remove(peer);
        if is_contested {
            self.linger(shard, peer, now);
            self.ask(peer, |_| true);
        }
        is_contested
    }

    /// A peer is expected to show up again in a moment.
    pub(super) fn linger(&self, shard: &mut Locked<'_>, peer: &PeerId, now: u64) {
        if let Some(known) = shard.owners.get_mut(peer)
            && known.state != State::Lingering
        {
            known.state = State::Lingering;
            known.stamp = now as u32;
            let due = Due::Lingering(*peer, known.stamp);
            shard.changed();
            self.timeline.add(now + LINGER, due);
        }
    }

    /// A peer is gone; what waits for it waits no longer.
    pub(super) fn gone(&self, shard: &mut Locked<'_>, peer: &PeerId, now: u64) {
        if let Some(known) = shard.owners.get_mut(peer) {
            known.state = State::Gone;
            known.stamp = now as u32;
            let due = Due::Gone(*peer, known.stamp);
            shard.changed();
            self.timeline.add(now + GONE_REMEMBERED, due);
        }
        self.give_up(shard, peer);
    }

    /// What follows when a peer went, with no lock held.
    pub(super) fn after_gone(&self, peer: &PeerId) {
        self.place_changed(peer);
        // Stock pods do not tell when it comes to them.
        self.ask_if_watched(peer);
    }

    /// A peer has not come back, or has it?
    pub(super) fn lingered(&self, peer: &PeerId, stamp: u32) {
        let now = self.now();
        let mut shard = self.lock(peer);
        let Some(known) = shard
            .owners
            .get(peer)
            .copied()
            .filter(|known| known.state == State::Lingering && known.stamp == stamp)
        else {
            return;
        };
        self.gone(&mut shard, peer, now);
        if known.pod == PodNumber::US {
            // It left this pod while the pod was draining, and that was kept back.
            self.broadcast(&encode_lost(peer, known.seqno));
        }
        drop(shard);
        self.after_gone(peer);
    }

    /// Forgets that a peer is gone.
    pub(super) fn forget_gone(&self, peer: &PeerId, stamp: u32) {
        let mut shard = self.lock(peer);
        let is_meant = |known: &Owner| known.state == State::Gone && known.stamp == stamp;
        if shard.owners.get(peer).is_some_and(is_meant) {
            shard.owners.remove(peer);
            shard.contested.remove(peer);
            if shard.owners.capacity() > 4 * shard.owners.len() + 64 {
                shard.owners.shrink_to_fit();
            }
        }
    }

    /// What a stock pod said long ago is not believed any longer: the next message asks again. A peer that is watched has been
    /// asked for all the time.
    pub(super) fn stock_owner_is_old(&self, peer: &PeerId, stamp: u32) {
        let now = self.now();
        let mut shard = self.lock(peer);
        let Some(known) = shard
            .owners
            .get(peer)
            .copied()
            .filter(|known| known.state == State::There && is_stock(known.seqno))
        else {
            return;
        };
        if known.stamp != stamp {
            // Confirmed since.
            let age = u64::from((now as u32).wrapping_sub(known.stamp));
            self.timeline.add(
                now + STOCK_BELIEVED.saturating_sub(age).max(1),
                Due::StockOwner(*peer, known.stamp),
            );
            return;
        }
        shard.owners.remove(peer);
        shard.changed();
        drop(shard);
        self.place_changed(peer);
    }

    /// The peers in one shard that a lost pod had and that have not been confirmed since are gone.
    pub(super) fn sweep_pod(&self, shard: usize, pod: PodNumber) {
        let now = self.now();
        let epoch = self.pods.epoch(pod);
        let mut locked = self.lock_shard(shard);
        let mut unconfirmed: Vec<PeerId> = locked
            .owners
            .iter()
            .filter(|(_, known)| {
                known.pod == pod && known.state == State::There && known.epoch != epoch
            })
            .map(|(peer, _)| *peer)
            .collect();
        unconfirmed.retain(|peer| !self.ask_the_other(&mut locked, peer, now));
        for peer in &unconfirmed {
            self.gone(&mut locked, peer, now);
        }
        drop(locked);
        for peer in &unconfirmed {
            self.after_gone(peer);
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
        let Some(known) = shard
            .owners
            .get(peer)
            .copied()
            .filter(|known| known.state == State::Here)
        else {
            return;
        };
        if self.draining.load(Ordering::Relaxed) {
            return self.linger(&mut shard, peer, now);
        }
        if !self.ask_the_other(&mut shard, peer, now) {
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
