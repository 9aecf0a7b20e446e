//! Telling everybody to stop, and knowing when they have.
//!
//! A [`Watch`] is held by whoever must be waited for; it also tells its holder that the end has begun.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tower::{BoxError, Layer, Service};

/// The side that says stop.
#[derive(Debug)]
pub struct Drain(watch::Sender<bool>);

/// Held by what must end before the drain is done.
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<bool>);

impl Default for Drain {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Drain {
    /// A watch on this drain.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
    }

    /// Says stop; saying it twice changes nothing.
    pub fn start(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was said.
    #[must_use]
    pub fn is_started(&self) -> bool {
        *self.0.borrow()
    }

    /// Whether there is no watch now.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until every watch is gone. Cancel-safe.
    pub async fn done(&self) {
        self.0.closed().await;
    }
}

impl Watch {
    /// Waits until the drain starts. Cancel-safe.
    pub async fn started(&mut self) {
        // An error means that the drain itself is gone: nobody will ever wait for us, so this is an end, too.
        let _ = self.0.wait_for(|started| *started).await;
    }

    /// Whether the drain has started.
    #[must_use]
    pub fn is_started(&self) -> bool {
        *self.0.borrow()
    }
}

/// The drain started before the service had answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shutting down")]
pub struct Draining;

/// Gives a service up when the drain starts.
#[derive(Debug, Clone)]
pub struct DrainLayer(Watch);

impl DrainLayer {
    /// A layer that listens to `watch`.
    #[must_use]
    pub const fn new(watch: Watch) -> Self {
        Self(watch)
    }
}

impl<S> Layer<S> for DrainLayer {
    type Service = DrainAware<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DrainAware {
            inner,
            watch: self.0.clone(),
        }
    }
}

/// The service of [`DrainLayer`]. Ready when the inner one is.
#[derive(Debug, Clone)]
pub struct DrainAware<S> {
    inner: S,
    watch: Watch,
}

impl<R, S> Service<R> for DrainAware<S>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let mut watch = self.watch.clone();
        let response = self.inner.call(request);
        Box::pin(async move {
            tokio::select! {
                biased;
                response = response => response.map_err(Into::into),
                () = watch.started() => Err(Draining.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_every_watch() {
        let drain = Drain::default();
        let mut first = drain.watch();
        let second = first.clone();
        assert!(!first.is_started());
        drain.start();
        first.started().await;
        drop(first);
        assert!(
            tokio::time::timeout(Duration::from_secs(1), drain.done())
                .await
                .is_err()
        );
        drop(second);
        drain.done().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_what_would_wait_for_ever() {
        let drain = Drain::default();
        let mut service =
            DrainLayer::new(drain.watch()).layer(tower::service_fn(|wait: bool| async move {
                if wait {
                    std::future::pending::<()>().await;
                }
                Ok::<_, BoxError>(7)
            }));
        assert_eq!(service.call(false).await.unwrap(), 7);
        let waiting = service.call(true);
        drain.start();
        assert!(waiting.await.unwrap_err().is::<Draining>());
    }
}
