//! What is counted of streams between pods.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};

use super::links::Links;
use crate::proto::cluster::hello::HelloRefusal;
use crate::telemetry::names;

/// The instruments of streams between pods; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct LinkMetrics {
    hello_rejects: Counter<u64>,
    pings_sent: Counter<u64>,
    pings_lost: Counter<u64>,
}

impl LinkMetrics {
    pub(super) fn new(meter: &Meter, links: &Arc<Links>) -> Self {
        let counter = |name: &'static str, what: &'static str| {
            meter.u64_counter(name).with_description(what).build()
        };
        let metrics = Self {
            hello_rejects: counter(
                names::CLUSTER_HELLO_REJECTS,
                "Streams from or to pods that were refused, by reason.",
            ),
            pings_sent: counter(names::CLUSTER_PINGS_SENT, "PINGs sent to other pods."),
            pings_lost: counter(
                names::CLUSTER_PINGS_LOST,
                "PINGs that a pod which answers them had not answered when the next one was due.",
            ),
        };
        for refusal in HelloRefusal::ALL {
            metrics
                .hello_rejects
                .add(0, &[KeyValue::new(names::REASON, refusal.reason())]);
        }
        metrics.pings_sent.add(0, &[]);
        metrics.pings_lost.add(0, &[]);
        let links = Arc::downgrade(links);
        let up = links.clone();
        meter
            .u64_observable_gauge(names::CLUSTER_STREAM_UP)
            .with_description(
                "1 for each other pod that there is a stream to which carries messages.",
            )
            .with_callback(move |observer| {
                for pod in up
                    .upgrade()
                    .map(|links| links.carrying())
                    .unwrap_or_default()
                {
                    observer.observe(1, &[KeyValue::new(names::PEER_POD, pod.0)]);
                }
            })
            .build();
        meter
            .u64_observable_gauge(names::CLUSTER_STREAMS)
            .with_description("Other pods that there is a stream to which carries messages.")
            .with_callback(move |observer| {
                if let Some(links) = links.upgrade() {
                    observer.observe(links.carrying().len() as u64, &[]);
                }
            })
            .build();
        metrics
    }

    pub(super) fn hello_refused(&self, refusal: HelloRefusal) {
        self.hello_rejects
            .add(1, &[KeyValue::new(names::REASON, refusal.reason())]);
    }

    /// A PING goes out. `lost`: the one before it was not answered.
    pub(super) fn ping_sent(&self, lost: bool) {
        self.pings_sent.add(1, &[]);
        if lost {
            self.pings_lost.add(1, &[]);
        }
    }
}
