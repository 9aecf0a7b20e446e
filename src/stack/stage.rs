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
    use std::sync::atomic::{AtomicBool, Ordering};

    use tower::service_fn;

    use super::*;

    /// Answers at once, and says when it is freed.
    struct First(Arc<AtomicBool>);

    impl Future for First {
        type Output = Result<u32, &'static str>;
        fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
            Poll::Ready(Ok(1))
        }
    }

    impl Drop for First {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn the_first_stage_is_gone_when_the_second_runs() {
        let freed = Arc::<AtomicBool>::default();
        let first = {
            let freed = Arc::clone(&freed);
            service_fn(move |()| First(Arc::clone(&freed)))
        };
        let then = service_fn(move |n: u32| {
            let freed = freed.load(Ordering::SeqCst);
            async move { Ok::<_, &str>((n + 1, freed)) }
        });
        let stage = StageLayer::new(first).layer(then);
        assert_eq!(stage.oneshot(()).await, Ok((2, true)));
    }

    #[tokio::test]
    async fn a_failed_first_stage_is_the_end() {
        let first = service_fn(|()| async { Err::<(), _>("refused") });
        let then = service_fn(|()| async { panic!("not to be called") as Result<(), &str> });
        let stage = StageLayer::new(first).layer(then);
        assert_eq!(stage.oneshot(()).await, Err("refused"));
    }
}
