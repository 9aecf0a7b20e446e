//! A message on its way to another pod, as a tower stack: metrics, tower's load-shed, tower's retry with our policy, resolve, and
//! the link as the innermost service.
//!
//! Every service in it is ready when called and answers inside the call, so one poll finishes the whole stack, its retry
//! included, before the next message is read: order is kept, nothing waits, nothing is allocated. What the services need beyond
//! the message comes with the request, so that the clone that tower's retry makes of its service for each message costs nothing.

mod budget;
mod metrics;
mod reroute;
mod resolve;
mod transport;

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tower::load_shed::LoadShed;
use tower::retry::Retry;
use tower::{Service, ServiceBuilder};

use self::budget::{Budget, BudgetLayer};
use self::metrics::{ForwardMetrics, ForwardMetricsLayer};
use self::reroute::Reroute;
use self::resolve::{Resolve, ResolveLayer, Routes};
use self::transport::LinkTransport;
use super::asker::Asker;
use super::held::Hop;
use super::owner_metrics::ForwardResult;
use super::owners::Owners;
use crate::crosspod::{CrossPod, Forward, Forwarded};
use crate::telemetry::counters::DropReason;

/// What one connection remembers and counts between its messages.
#[derive(Debug)]
struct Memory {
    owners: Arc<Owners>,
    asker: Asker,
    routes: Routes,
    results: [u64; ForwardResult::ALL.len()],
}

/// A message with what its connection remembers.
#[derive(Debug, Clone, Copy)]
struct Dispatch<'a, 'm> {
    forward: Forward<'a>,
    memory: &'a RefCell<&'m mut Memory>,
}

/// Nothing of the message was written: another try cannot duplicate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("link is gone, and nothing of the message was written")]
struct LinkGone;

type Stack = ForwardMetrics<LoadShed<Budget<Retry<Reroute, Resolve<LinkTransport>>>>>;

fn stack(owners: &Arc<Owners>) -> Stack {
    ServiceBuilder::new()
        // Outermost: once for a message, whatever happens below.
        .layer(ForwardMetricsLayer)
        // Drops at once where the budget below says that the queues are full.
        .load_shed()
        .layer(BudgetLayer::new(&owners.policy))
        // Once, and only if surely nothing was written: the route is forgotten, and looked up again.
        .retry(Reroute::once())
        .layer(ResolveLayer)
        .service(LinkTransport)
}

/// Forwards the messages of one connection.
#[derive(Debug)]
pub(super) struct Forwarder {
    stack: Stack,
    memory: Memory,
}

impl Forwarder {
    pub(super) fn new(owners: &Arc<Owners>, hop: Hop) -> Self {
        Self {
            stack: stack(owners),
            memory: Memory {
                owners: Arc::clone(owners),
                asker: Asker::new(hop),
                routes: Routes::default(),
                results: [0; ForwardResult::ALL.len()],
            },
        }
    }
}

impl CrossPod for Forwarder {
    fn forward(&mut self, forward: Forward<'_>) -> Forwarded {
        const SHED: Forwarded = Forwarded::Dropped(DropReason::FabricOverloaded);
        let mut cx = Context::from_waker(Waker::noop());
        let memory = RefCell::new(&mut self.memory);
        let dispatch = Dispatch {
            forward,
            memory: &memory,
        };
        // Load-shed is always ready, and says later what it thinks.
        let Poll::Ready(Ok(())) = Service::<Dispatch<'_, '_>>::poll_ready(&mut self.stack, &mut cx)
        else {
            return SHED;
        };
        match pin!(self.stack.call(dispatch)).poll(&mut cx) {
            Poll::Ready(Ok(forwarded)) => forwarded,
            Poll::Ready(Err(_)) | Poll::Pending => SHED,
        }
    }

    #[inline]
    fn forward_again(&mut self, forward: Forward<'_>) -> Option<Forwarded> {
        let Memory { owners, routes, .. } = &self.memory;
        // A peer that registers here changes the generation of its shard, and with it this.
        routes.find(owners, &forward.destination)?;
        Some(self.forward(forward))
    }

    fn flush(&mut self) {
        self.memory.routes.flush();
        for result in ForwardResult::ALL {
            let count = std::mem::take(&mut self.memory.results[result as usize]);
            self.memory.owners.metrics.forwarded(result, count);
        }
    }

    fn fork(&self) -> Box<dyn CrossPod> {
        Box::new(Self::new(&self.memory.owners, self.memory.asker.hop()))
    }
}

impl Owners {
    /// What the relay forwards with.
    pub(crate) fn forwarder(self: &Arc<Self>) -> Box<dyn CrossPod> {
        Box::new(Forwarder::new(self, Hop::First))
    }
}
