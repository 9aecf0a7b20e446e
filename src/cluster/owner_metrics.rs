//! What is counted of forwards and lookups (operations.md, *Metrics*).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

use crate::telemetry::counters::DropReason;
use crate::telemetry::names;

/// What became of a message for another pod; the label `result` of `relay_cluster_forwards_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum ForwardResult {
    Ok,
    PeerNotFound,
    StreamGone,
    SendError,
}

impl ForwardResult {
    pub(super) const ALL: [Self; 4] = [
        Self::Ok,
        Self::PeerNotFound,
        Self::StreamGone,
        Self::SendError,
    ];

    /// What a drop for this reason counts as.
    pub(super) fn of(reason: DropReason) -> Self {
        match reason {
            DropReason::NoSuchPeer | DropReason::HoldExpired => Self::PeerNotFound,
            DropReason::LinkGone | DropReason::ReceiverClosed => Self::StreamGone,
            // Its queue did not take it, whatever the reason.
            _ => Self::SendError,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::PeerNotFound => "peer_not_found",
            Self::StreamGone => "stream_gone",
            Self::SendError => "send_error",
        }
    }
}

/// How a lookup ended; the label `result` of `relay_cluster_owner_lookups_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookupResult {
    Found,
    NotFound,
}

impl LookupResult {
    fn label(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::NotFound => "not_found",
        }
    }
}

/// The instruments of the owner table.
#[derive(Debug)]
pub(super) struct OwnerMetrics {
    forwards: Arc<[AtomicU64; ForwardResult::ALL.len()]>,
    lookups: Counter<u64>,
    lookup_duration: Histogram<f64>,
}

impl OwnerMetrics {
    pub(super) fn new(meter: &Meter) -> Arc<Self> {
        let forwards = Arc::<[AtomicU64; ForwardResult::ALL.len()]>::default();
        let of = Arc::clone(&forwards);
        meter
            .u64_observable_counter(names::CLUSTER_FORWARDS)
            .with_description("Messages for peers on other pods, by what became of them here.")
            .with_callback(move |observer| {
                for result in ForwardResult::ALL {
                    let count = of[result as usize].load(Ordering::Relaxed);
                    observer.observe(count, &[KeyValue::new(names::RESULT, result.label())]);
                }
            })
            .build();
        let lookups = meter
            .u64_counter(names::CLUSTER_OWNER_LOOKUPS)
            .with_description("Questions to the other pods who has a peer, by result.")
            .build();
        for result in [LookupResult::Found, LookupResult::NotFound] {
            lookups.add(0, &[KeyValue::new(names::RESULT, result.label())]);
        }
        Arc::new(Self {
            forwards,
            lookups,
            lookup_duration: meter
                .f64_histogram(names::CLUSTER_LOOKUP_DURATION)
                .with_description("How long it took to learn who has a peer.")
                .with_unit("s")
                .with_boundaries(names::LOOKUP_BOUNDS.to_vec())
                .build(),
        })
    }

    /// This became of so many messages.
    pub(super) fn forwarded(&self, result: ForwardResult, messages: u64) {
        if messages > 0 {
            self.forwards[result as usize].fetch_add(messages, Ordering::Relaxed);
        }
    }

    /// So many messages ended so until now.
    #[cfg(test)]
    pub(super) fn forwarded_count(&self, result: ForwardResult) -> u64 {
        self.forwards[result as usize].load(Ordering::Relaxed)
    }

    /// A lookup ended.
    pub(super) fn looked_up(&self, result: LookupResult, after: Duration) {
        self.lookups
            .add(1, &[KeyValue::new(names::RESULT, result.label())]);
        self.lookup_duration.record(after.as_secs_f64(), &[]);
    }
}
