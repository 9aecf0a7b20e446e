//! A part of the owner table: what is known of some of the peers, under one lock.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::lookup::Pending;
use super::pods::PodNumber;
use crate::proto::PeerId;
use crate::proto::cluster::Seqno;

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
    pub(super) epoch: u8,
    pub(super) state: State,
}

// With what the map adds, this is what a peer anywhere in the cluster costs each pod.
const _: () = assert!(size_of::<(PeerId, Owner)>() == 48);

/// A pod that says it has a peer, too, and the epoch in which it said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rival {
    pub(super) pod: PodNumber,
    pub(super) epoch: u8,
}

/// Some of the peers.
#[derive(Debug, Default)]
pub(super) struct ShardState {
    pub(super) owners: HashMap<PeerId, Owner, RandomState>,
    /// Peers whose owner is being looked for, with what waits for them.
    pub(super) pending: HashMap<PeerId, Pending, RandomState>,
    /// Peers that nobody had when we asked, and until when that is believed, in milliseconds.
    pub(super) absent: HashMap<PeerId, u64, RandomState>,
    /// Peers that other pods say they have, too, and have not taken back yet. When the one that counts loses such a peer, the
    /// others may still have it: they are asked. Between pods that hear each other this takes a moment.
    pub(super) contested: HashMap<PeerId, Vec<Rival>, RandomState>,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    /// Changes with every change of an owner.
    generation: AtomicU32,
    state: Mutex<ShardState>,
}

impl Shard {
    pub(super) fn lock(&self) -> Locked<'_> {
        Locked {
            shard: self,
            state: self.state.lock(),
        }
    }

    /// What remembered routes are compared by.
    #[inline]
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }
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

impl ShardState {
    /// What is known of a peer, if that is `wanted`.
    pub(super) fn owner_if(&self, peer: &PeerId, wanted: impl Fn(&Owner) -> bool) -> Option<Owner> {
        self.owners.get(peer).copied().filter(wanted)
    }
}

impl Locked<'_> {
    /// A pod says that it has a peer, too.
    pub(super) fn contest(&mut self, peer: &PeerId, rival: Rival) {
        self.take_back(peer, rival.pod);
        self.contested.entry(*peer).or_default().push(rival);
    }

    /// A pod does not say so any more, or is the one that counts.
    pub(super) fn take_back(&mut self, peer: &PeerId, pod: PodNumber) {
        if let Some(rivals) = self.contested.get_mut(peer) {
            rivals.retain(|rival| rival.pod != pod);
            if rivals.is_empty() {
                self.contested.remove(peer);
            }
        }
    }

    /// Routes that are remembered must be looked up again.
    pub(super) fn changed(&self) {
        self.shard.generation.fetch_add(1, Ordering::Release);
    }

    pub(super) fn generation(&self) -> u32 {
        self.shard.generation()
    }
}
