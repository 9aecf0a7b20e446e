//! The few last destinations of one sender, so that a flow costs no look-up.

use std::sync::Arc;

use super::registration::Registration;
use super::registry::Registry;
use crate::proto::PeerId;

/// Destinations remembered. A peer behind a relay talks to few others at a time.
const ENTRIES: usize = 4;

/// Remembers where the last destinations are connected, and which of them have been sent something in this batch.
///
/// Whoever changes a route retires the old registration, and a retired one is never used from here.
#[derive(Debug, Default)]
pub struct RouteMemo {
    entries: [Option<Arc<Registration>>; ENTRIES],
    next: usize,
    /// A bit for each entry that has something to flush.
    unflushed: u32,
}

impl RouteMemo {
    /// The connection of `peer`: remembered, or looked up and remembered. Whoever pushes to its outbox says so with
    /// [`RouteMemo::flush`] at the end of the batch.
    #[inline]
    pub fn route(&mut self, registry: &Registry, peer: &PeerId) -> Option<&Arc<Registration>> {
        let at = match self.find(peer) {
            Some(at) => at,
            None => self.learn(registry, peer)?,
        };
        self.unflushed |= 1 << at;
        self.entries[at].as_ref()
    }

    /// Whether the connection of `peer` is remembered.
    #[inline]
    #[must_use]
    pub fn knows(&self, peer: &PeerId) -> bool {
        self.find(peer).is_some()
    }

    #[inline]
    fn find(&self, peer: &PeerId) -> Option<usize> {
        self.entries.iter().position(
            |entry| matches!(entry, Some(known) if known.peer() == peer && known.is_current()),
        )
    }

    /// Flushes the outboxes of all connections that were routed to since the last call.
    #[inline]
    pub fn flush(&mut self) {
        while self.unflushed != 0 {
            let at = self.unflushed.trailing_zeros() as usize;
            self.flush_entry(at);
        }
    }

    fn flush_entry(&mut self, at: usize) {
        self.unflushed &= !(1 << at);
        if let Some(receiver) = &self.entries[at] {
            receiver.outbox().flush();
        }
    }

    #[cold]
    fn learn(&mut self, registry: &Registry, peer: &PeerId) -> Option<usize> {
        let found = registry.get(peer)?;
        let at = self
            .entries
            .iter()
            .position(|entry| !matches!(entry, Some(known) if known.is_current()))
            .unwrap_or_else(|| {
                self.next = (self.next + 1) % ENTRIES;
                self.next
            });
        // What was pushed to the one that is forgotten must not wait for somebody else's flush.
        self.flush_entry(at);
        self.entries[at] = Some(found);
        Some(at)
    }

    /// Forgets connections that have ended, so that their memory can go.
    pub fn release(&mut self) {
        for entry in &mut self.entries {
            if entry.as_ref().is_some_and(|known| !known.is_current()) {
                *entry = None;
            }
        }
    }
}
