//! The few last destinations of one sender, so that a flow costs no look-up.

use std::sync::Arc;

use super::registration::Registration;
use super::registry::Registry;
use crate::proto::PeerId;

/// Destinations remembered. A peer behind a relay talks to few others at a time.
const ENTRIES: usize = 4;

/// Remembers where the last destinations are connected.
///
/// Whoever changes a route retires the old registration, and a retired one is never used from here.
#[derive(Debug, Default)]
pub struct RouteMemo {
    entries: [Option<Arc<Registration>>; ENTRIES],
    next: usize,
}

impl RouteMemo {
    /// The connection of `peer`: remembered, or looked up and remembered.
    #[inline]
    pub fn route(&mut self, registry: &Registry, peer: &PeerId) -> Option<&Arc<Registration>> {
        let known = self.entries.iter().position(
            |entry| matches!(entry, Some(known) if known.peer() == peer && known.is_current()),
        );
        let at = match known {
            Some(at) => at,
            None => self.learn(registry, peer)?,
        };
        self.entries[at].as_ref()
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
