//! The limits that all queues of a relay share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use super::trim::{self, Suspects};
use super::{CONTROL_HEADROOM, POD_CONTROL_HEADROOM};
use crate::buffers::BUFFER_LEN;
use crate::telemetry::counters::Counters;
use crate::ticks::Ticks;

/// What all outboxes of one relay to receivers of one kind share: their limits, the budget, the counters and the clock.
#[derive(Debug)]
pub struct QueuePolicy {
    /// What one queue may hold in all.
    pub(super) peer_bytes: usize,
    /// What it may hold of anything but handshakes, which have the rest for themselves.
    pub(super) data_bytes: usize,
    /// Up to where nobody asks whose messages they are; beyond it each sender may only have its share.
    pub(super) calm_bytes: usize,
    /// What its control messages may occupy.
    pub(super) control_bytes: usize,
    pub(super) max_age: u32,
    pub(super) receiver: Receiver,
    pub(super) counters: Arc<Counters>,
    pub(super) ticks: Ticks,
    pub(super) memory: Arc<Memory>,
}

/// Who is at the other end of a queue: what was written to it is counted accordingly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiver {
    /// A peer: its messages are delivered.
    Peer,
    /// Another pod: its messages are forwarded.
    Pod,
}

/// The memory of all queues of a relay, whoever their receivers are.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) budget: usize,
    pub(super) used: AtomicUsize,
    pub(super) suspects: Suspects,
    pub(super) trim_wanted: AtomicBool,
    /// When a round found nothing to trim, in ticks.
    pub(super) nothing_to_trim_at: AtomicU32,
}

impl QueuePolicy {
    /// `peer_bytes`: what one receiver may have queued (the first half by anybody, then each sender its share, and the
    /// last sixteenth by handshakes). `max_age`: how long a message may wait. `budget`: bytes of slabs in
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
            data_bytes: peer_bytes - peer_bytes / 16,
            calm_bytes: peer_bytes / 2,
            control_bytes: CONTROL_HEADROOM,
            // Half of what fits, so that a quarter more still does.
            max_age: u32::try_from(max_age.as_millis())
                .map_or(u32::MAX / 2, |ms| ms.min(u32::MAX / 2)),
            receiver: Receiver::Peer,
            counters,
            ticks,
            memory: Arc::new(Memory {
                budget,
                used: AtomicUsize::new(0),
                suspects: Suspects::default(),
                trim_wanted: AtomicBool::new(false),
                nothing_to_trim_at: AtomicU32::new(u32::MAX),
            }),
        })
    }

    /// The limits for queues to other pods: `pod_bytes` each, in the same budget. What is written to them counts as forwarded.
    #[must_use]
    pub fn for_pods(&self, pod_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            peer_bytes: pod_bytes,
            data_bytes: pod_bytes - pod_bytes / 16,
            calm_bytes: pod_bytes / 2,
            control_bytes: POD_CONTROL_HEADROOM,
            max_age: self.max_age,
            receiver: Receiver::Pod,
            counters: Arc::clone(&self.counters),
            ticks: self.ticks.clone(),
            memory: Arc::clone(&self.memory),
        })
    }

    /// Counts messages that were handed to the kernel, with their bytes.
    pub(super) fn written(&self, messages: u64, bytes: u64) {
        match self.receiver {
            Receiver::Peer => self.counters.delivered(messages, bytes),
            Receiver::Pod => self.counters.forwarded(messages),
        }
    }

    /// Takes so many bytes out of the budget, if it has them.
    #[must_use]
    pub fn reserve(&self, bytes: usize) -> bool {
        self.reserve_up_to(bytes, self.data_budget())
    }

    /// The same for a handshake, for which some is left when data has taken the rest.
    #[must_use]
    pub fn reserve_for_handshake(&self, bytes: usize) -> bool {
        self.reserve_up_to(bytes, self.memory.budget)
    }

    /// As [`QueuePolicy::reserve`], for those who may use all of the budget and those who may not.
    pub(super) fn reserve_up_to(&self, bytes: usize, budget: usize) -> bool {
        let used = self.memory.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used > self.trim_from() && !self.memory.trim_wanted.load(Ordering::Relaxed) {
            self.memory.trim_wanted.store(true, Ordering::Relaxed);
        }
        if used > budget {
            self.unreserve(bytes);
            return false;
        }
        true
    }

    /// Takes so many bytes out of the budget although it may not have them: for what is small, and bounded elsewhere.
    pub(super) fn overdraw(&self, bytes: usize) {
        self.memory.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives bytes back to the budget.
    pub fn unreserve(&self, bytes: usize) {
        self.memory.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What everything but handshakes may use of the budget.
    pub(super) fn data_budget(&self) -> usize {
        self.memory.budget - self.memory.budget / 32 / BUFFER_LEN * BUFFER_LEN
    }

    /// From where on the largest queues are trimmed.
    fn trim_from(&self) -> usize {
        self.memory.budget / 8 * 7
    }

    /// Whether so much is used that it is time to know who the large ones are.
    pub(super) fn is_half_used(&self) -> bool {
        self.used() > self.memory.budget / 2
    }

    /// Whether so little is left, although the largest queues have been trimmed, that a further peer would be one too many.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.used() > self.memory.budget / 16 * 15
    }

    /// Whether nothing at all is left, not even for a handshake.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.used() >= self.memory.budget
    }

    /// Cuts the largest queues if that is due. No outbox may be locked by the caller.
    #[inline]
    pub(super) fn trim_if_wanted(&self) {
        if self.memory.trim_wanted.load(Ordering::Relaxed)
            && self.memory.nothing_to_trim_at.load(Ordering::Relaxed) != self.ticks.now()
        {
            trim::trim(self);
        }
    }

    /// Bytes of slabs held by all queues at this moment.
    #[must_use]
    pub fn used(&self) -> usize {
        self.memory.used.load(Ordering::Relaxed)
    }

    /// Bytes of slabs that all queues together may hold.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.memory.budget
    }
}
