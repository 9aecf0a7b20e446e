//! The limits that all queues of a relay share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::telemetry::counters::Counters;
use crate::ticks::Ticks;

/// What all outboxes of one relay share: their limits, the budget, the counters and the clock.
#[derive(Debug)]
pub struct QueuePolicy {
    pub(super) peer_bytes: usize,
    pub(super) max_age: u32,
    pub(super) budget: usize,
    pub(super) used: AtomicUsize,
    pub(super) counters: Arc<Counters>,
    pub(super) ticks: Ticks,
}

impl QueuePolicy {
    /// `peer_bytes`: what one receiver may have queued. `max_age`: how long a message may wait. `budget`: bytes of slabs in
    /// all queues together.
    #[must_use]
    pub fn new(
        peer_bytes: usize,
        max_age: Duration,
        budget: usize,
        counters: Arc<Counters>,
        ticks: Ticks,
    ) -> Arc<Self> {
        Arc::new(Self {
            peer_bytes,
            // Half of what fits, so that a quarter more still does.
            max_age: u32::try_from(max_age.as_millis())
                .map_or(u32::MAX / 2, |ms| ms.min(u32::MAX / 2)),
            budget,
            used: AtomicUsize::new(0),
            counters,
            ticks,
        })
    }

    /// Bytes of slabs held by all queues at this moment.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes of slabs that all queues together may hold.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.budget
    }
}
