//! Ready while there is memory for a message of any kind: how much of it data may use, and what is left for handshakes, is the outbox's to judge.

use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{Layer, Service};

use crate::outbox::QueuePolicy;

/// Makes a service not ready while the memory of all queues is used up to the last.
#[derive(Debug, Clone)]
pub(super) struct BudgetLayer(Arc<QueuePolicy>);

impl BudgetLayer {
    pub(super) fn new(policy: &Arc<QueuePolicy>) -> Self {
        Self(Arc::clone(policy))
    }
}

impl<S> Layer<S> for BudgetLayer {
    type Service = Budget<S>;

    fn layer(&self, inner: S) -> Budget<S> {
        Budget {
            inner,
            policy: Arc::clone(&self.0),
        }
    }
}

/// The service of [`BudgetLayer`]. When it is not ready, nobody is woken when it is again: it is for what sheds.
#[derive(Debug, Clone)]
pub(super) struct Budget<S> {
    inner: S,
    policy: Arc<QueuePolicy>,
}

impl<R, S: Service<R>> Service<R> for Budget<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.policy.is_used_up() {
            return Poll::Pending;
        }
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: R) -> S::Future {
        self.inner.call(request)
    }
}
