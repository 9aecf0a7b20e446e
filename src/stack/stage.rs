//! One stage of a connection's life before the next: runs a service and hands its response on as the next one's request.
//!
//! Unlike `AndThen` it frees what the first stage needed before the second begins. A connection spends milliseconds in its
//! handshake and days in its loop: it may not carry the handshake's memory about with it.

use std::pin::Pin;
use std::task::{Context, Poll};

use tower::{Layer, Service, ServiceExt};

/// Puts the stage `first` before a service.
#[derive(Debug, Clone)]
pub struct StageLayer<F> {
    first: F,
}

impl<F> StageLayer<F> {
    /// `first` makes the requests of the service that this layer wraps.
    #[must_use]
    pub const fn new(first: F) -> Self {
        Self { first }
    }
}

impl<F: Clone, S> Layer<S> for StageLayer<F> {
    type Service = Stage<F, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Stage {
            first: self.first.clone(),
            then: inner,
        }
    }
}

/// The service of [`StageLayer`]. Ready when the first stage is; the second is made ready when its turn comes.
#[derive(Debug, Clone)]
pub struct Stage<F, S> {
    first: F,
    then: S,
}

impl<R, F, S> Service<R> for Stage<F, S>
where
    F: Service<R>,
    F::Future: Send + 'static,
    F::Error: Send,
    S: Service<F::Response, Error = F::Error> + Clone + Send + 'static,
    S::Future: Send,
    F::Response: Send,
{
    type Response = S::Response;
    type Error = F::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.first.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let first = Box::pin(self.first.call(request));
        let then = self.then.clone();
        Box::pin(async move {
            let response = first.await?;
            then.oneshot(response).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn the_first_stage_is_gone_when_the_second_runs() {
        let token = Arc::new(());
        let held = Arc::clone(&token);
        let first = service_fn(move |n: u32| {
            let held = Arc::clone(&held);
            async move {
                tokio::task::yield_now().await;
                drop(held);
                if n == 0 { Err("zero") } else { Ok(n + 1) }
            }
        });
        let before = Arc::strong_count(&token);
        let seen = Arc::clone(&token);
        let then = service_fn(move |n: u32| {
            // One more than at the start: this closure's own.
            assert_eq!(Arc::strong_count(&seen), before + 1);
            async move { Ok::<_, &str>(n * 10) }
        });
        let stage = StageLayer::new(first).layer(then);
        assert_eq!(stage.clone().oneshot(1).await, Ok(20));
        assert_eq!(stage.oneshot(0).await, Err("zero"));
    }
}
