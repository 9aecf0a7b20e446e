//! Authentication: the only place that makes an [`Authenticated`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{Layer, Service, ServiceExt};
use tracing::Instrument as _;

use super::{HandshakeError, Hello, Incoming};
use crate::auth::{AuthRequest, DynValidator, is_health_probe};
use crate::proto::PeerId;
use crate::telemetry::spans;
use crate::transport::MessageTransport;

/// A connection whose token the validator took. Its fields are private: nothing but the layer below can make one.
#[derive(Debug)]
pub struct Authenticated<T> {
    peer: PeerId,
    incoming: Incoming<T>,
}

impl<T> Authenticated<T> {
    /// Who it is.
    #[must_use]
    pub const fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// The connection.
    #[must_use]
    pub const fn incoming(&self) -> &Incoming<T> {
        &self.incoming
    }

    pub(super) fn into_parts(self) -> (PeerId, Incoming<T>) {
        (self.peer, self.incoming)
    }
}

/// Asks the validator: [`Hello`] becomes [`Authenticated`].
#[derive(Debug, Clone)]
pub struct AuthLayer {
    validator: Arc<dyn DynValidator>,
}

impl AuthLayer {
    /// A layer that asks `validator`.
    #[must_use]
    pub fn new(validator: Arc<dyn DynValidator>) -> Self {
        Self { validator }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authenticate {
            inner,
            validator: Arc::clone(&self.validator),
        }
    }
}

/// The service of [`AuthLayer`]. Always ready; it makes the inner service ready when the validator has agreed.
#[derive(Debug, Clone)]
pub struct Authenticate<S> {
    inner: S,
    validator: Arc<dyn DynValidator>,
}

impl<T, S> Service<Hello<T>> for Authenticate<S>
where
    T: MessageTransport,
    S: Service<Authenticated<T>, Error = HandshakeError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = HandshakeError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, HandshakeError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, hello: Hello<T>) -> Self::Future {
        let inner = self.inner.clone();
        let validator = Arc::clone(&self.validator);
        Box::pin(async move {
            let Hello {
                peer,
                token,
                incoming,
            } = hello;
            let request = AuthRequest {
                peer: &peer,
                token: token.as_bytes(),
                remote: incoming.remote.get(),
            };
            spans::peer(&peer);
            let validated = validator.validate_boxed(&request);
            match validated.instrument(spans::authenticate()).await {
                Ok(()) => inner.oneshot(Authenticated { peer, incoming }).await,
                Err(_) if is_health_probe(&request) => Err(HandshakeError::Probe),
                Err(error) => Err(HandshakeError::Refused { peer, error }),
            }
        })
    }
}
