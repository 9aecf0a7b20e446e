//! A relay as the fabric between pods sees it: the one place that knows both.

use std::sync::Arc;

use opentelemetry::metrics::Meter;

use crate::cluster::Host;
use crate::crosspod::{CrossPod, Directory, LocalPeers};
use crate::outbox::QueuePolicy;
use crate::relay::Relay;
use crate::telemetry::counters::Counters;

impl Host for Relay {
    fn local_peers(&self) -> Arc<dyn LocalPeers> {
        self.local_peers()
    }

    fn counters(&self) -> &Arc<Counters> {
        self.counters()
    }

    fn queue_policy(&self) -> &Arc<QueuePolicy> {
        self.queue_policy()
    }

    fn meter(&self) -> &Meter {
        self.instruments().meter()
    }

    fn join(&self, forwarder: Box<dyn CrossPod>, directory: &Arc<dyn Directory>) -> bool {
        self.join(forwarder, directory).is_ok()
    }
}
