//! Counts what became of each message, in plain integers (`relay_cluster_forwards_total`). Held ones are counted when it is known.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tower::{BoxError, Layer, Service};

use super::{Dispatch, LinkGone};
use crate::cluster::owner_metrics::ForwardResult;
use crate::crosspod::Forwarded;
use crate::telemetry::counters::DropReason;

#[derive(Debug, Clone, Copy)]
pub(super) struct ForwardMetricsLayer;

impl<S> Layer<S> for ForwardMetricsLayer {
    type Service = ForwardMetrics<S>;

    fn layer(&self, inner: S) -> ForwardMetrics<S> {
        ForwardMetrics(inner)
    }
}

/// The service of [`ForwardMetricsLayer`]. Ready when the inner one is.
#[derive(Debug, Clone)]
pub(super) struct ForwardMetrics<S>(S);

impl<'a, 'm, S> Service<Dispatch<'a, 'm>> for ForwardMetrics<S>
where
    S: Service<Dispatch<'a, 'm>, Response = Forwarded, Error = BoxError>,
    S::Future: Unpin,
{
    type Response = Forwarded;
    type Error = Infallible;
    type Future = Counted<'a, 'm, S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // An inner service that fails to become ready fails the call, too, and there it is counted.
        self.0.poll_ready(cx).map(|_| Ok(()))
    }

    #[inline]
    fn call(&mut self, dispatch: Dispatch<'a, 'm>) -> Self::Future {
        Counted {
            inner: self.0.call(dispatch),
            dispatch,
        }
    }
}

/// The future of [`ForwardMetrics`]. The errors of the stack end here: each is a drop with its reason.
#[derive(Debug)]
pub(super) struct Counted<'a, 'm, F> {
    inner: F,
    dispatch: Dispatch<'a, 'm>,
}

impl<F> Future for Counted<'_, '_, F>
where
    F: Future<Output = Result<Forwarded, BoxError>> + Unpin,
{
    type Output = Result<Forwarded, Infallible>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let forwarded = match ready!(Pin::new(&mut self.inner).poll(cx)) {
            Ok(forwarded) => forwarded,
            Err(error) if error.is::<LinkGone>() => Forwarded::Dropped(DropReason::LinkGone),
            Err(_overloaded) => Forwarded::Dropped(DropReason::FabricOverloaded),
        };
        let result = match forwarded {
            Forwarded::Sent | Forwarded::Queued => Some(ForwardResult::Ok),
            Forwarded::Held => None,
            Forwarded::Dropped(reason) => Some(ForwardResult::of(reason)),
        };
        if let Some(result) = result {
            self.dispatch.memory.borrow_mut().results[result as usize] += 1;
        }
        Poll::Ready(Ok(forwarded))
    }
}
