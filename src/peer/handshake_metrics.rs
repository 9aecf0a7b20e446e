//! Counts and logs what becomes of handshakes.

use std::pin::Pin;
use std::task::{Context, Poll};

use tower::{Layer, Service};
use tracing::{Instrument as _, Span, debug, info, warn};

use super::{HandshakeError, Incoming};
use crate::auth::AuthError;
use crate::telemetry::instruments::Instruments;
use crate::telemetry::spans;
use crate::transport::RemoteAddr;

/// Counts refusals by reason, measures successes, writes a line for each refusal.
#[derive(Debug, Clone)]
pub(super) struct HandshakeMetricsLayer {
    pub(super) instruments: Instruments,
    /// What the handshake runs in.
    pub(super) span: Span,
}

impl<S> Layer<S> for HandshakeMetricsLayer {
    type Service = HandshakeMetrics<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HandshakeMetrics {
            inner,
            instruments: self.instruments.clone(),
            span: self.span.clone(),
        }
    }
}

/// The service of [`HandshakeMetricsLayer`]. Ready when the inner one is.
#[derive(Debug, Clone)]
pub(super) struct HandshakeMetrics<S> {
    inner: S,
    instruments: Instruments,
    span: Span,
}

impl<T, S> Service<Incoming<T>> for HandshakeMetrics<S>
where
    S: Service<Incoming<T>, Error = HandshakeError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = HandshakeError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, HandshakeError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, incoming: Incoming<T>) -> Self::Future {
        let instruments = self.instruments.clone();
        let (remote, accepted) = (incoming.remote, incoming.accepted);
        // Taken out: it ends with the handshake, not with the connection.
        let span = std::mem::replace(&mut self.span, Span::none());
        let response = span.in_scope(|| self.inner.call(incoming));
        let handshake = async move {
            let result = response.await;
            match &result {
                Ok(_) => instruments.authenticated(accepted.elapsed()),
                Err(error) => refused(&instruments, error, remote),
            }
            result
        };
        Box::pin(handshake.instrument(span))
    }
}

fn refused(instruments: &Instruments, error: &HandshakeError, client: RemoteAddr) {
    let reason = error.reason();
    spans::failed(reason);
    match error {
        HandshakeError::Probe => {
            debug!(client.address = %client, "health-check probe answered by closing");
            return;
        }
        HandshakeError::TimedOut => instruments.handshake_timed_out("auth"),
        HandshakeError::Refused { .. } => instruments.authentication_failed(reason),
        _ => instruments.handshake_refused(reason),
    }
    match error {
        HandshakeError::Refused { peer, error: cause } => match cause {
            // Our side's trouble, and nobody can connect: louder than a bad token.
            AuthError::Unavailable(_) => {
                warn!(relay.peer.id = %peer, client.address = %client, error.type = reason, "peer refused: {cause}");
            }
            _ => {
                info!(relay.peer.id = %peer, client.address = %client, error.type = reason, "peer refused: {cause}");
            }
        },
        HandshakeError::Overloaded | HandshakeError::NoMemory | HandshakeError::Internal(_) => {
            warn!(client.address = %client, error.type = reason, "connection refused: {error}");
        }
        _ => info!(client.address = %client, error.type = reason, "connection refused: {error}"),
    }
}
