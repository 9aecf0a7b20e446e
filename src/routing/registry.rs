//! The peers of this pod, by ID.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::registration::Registration;
use crate::proto::PeerId;

/// Shards, so that senders who look up different peers rarely meet.
const SHARDS: usize = 64;

type Shard = RwLock<HashMap<PeerId, Arc<Registration>, RandomState>>;

/// Peer ID to the newest connection of that peer.
///
/// The hash is keyed: whoever holds a token may claim any ID, and must not be able to choose colliding ones.
#[derive(Debug)]
pub struct Registry {
    hasher: RandomState,
    shards: Box<[Shard]>,
    len: AtomicUsize,
}

impl Default for Registry {
    fn default() -> Self {
        let hasher = RandomState::new();
        Self {
            shards: (0..SHARDS)
                .map(|_| RwLock::new(HashMap::with_hasher(hasher.clone())))
                .collect(),
            hasher,
            len: AtomicUsize::new(0),
        }
    }
}

impl Registry {
    fn shard(&self, peer: &PeerId) -> &Shard {
        // The map uses the low bits and the top seven of the same hash; these are others.
        let hash = self.hasher.hash_one(peer);
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// The connection to which messages for `peer` go.
    #[must_use]
    pub fn get(&self, peer: &PeerId) -> Option<Arc<Registration>> {
        self.shard(peer).read().get(peer).cloned()
    }

    /// Whether `peer` is connected.
    #[must_use]
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.shard(peer).read().contains_key(peer)
    }

    /// How many peers are connected.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether nobody is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes `registration` the connection of its peer and returns the one whose place it took, which is told nothing yet.
    pub(super) fn insert(&self, registration: Arc<Registration>) -> Option<Arc<Registration>> {
        let mut shard = self.shard(registration.peer()).write();
        let old = shard.insert(*registration.peer(), registration);
        match &old {
            Some(old) => old.retire(),
            None => {
                self.len.fetch_add(1, Ordering::Relaxed);
            }
        }
        old
    }

    /// Removes this very connection; false if a newer one has its place, which then stays.
    pub(super) fn remove(&self, registration: &Registration) -> bool {
        let mut shard = self.shard(registration.peer()).write();
        let Entry::Occupied(entry) = shard.entry(*registration.peer()) else {
            return false;
        };
        if entry.get().serial() != registration.serial() {
            return false;
        }
        entry.remove().retire();
        self.len.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Calls `visit` with every connection; one shard at a time is locked, so it is no snapshot.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<Registration>)) {
        for shard in &self.shards {
            shard.read().values().for_each(&mut visit);
        }
    }
}
