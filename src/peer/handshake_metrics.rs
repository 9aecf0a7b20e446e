//! Counts and logs what becomes of handshakes.

use std::pin::Pin;
use std::task::{Context, Poll};

use tower::{Layer, Service};
use tracing::{Instrument as _, Span, debug};

use super::{HandshakeError, Incoming};
use crate::auth::AuthError;
use crate::telemetry::instruments::Instruments;
use crate::telemetry::log_limit::log_rarely;
use crate::telemetry::spans;
use crate::transport::RemoteAddr;

/// Counts refusals by reason, measures successes, writes a line for refusals, though not for each of thousands.
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
        // Counted and logged where places are given out.
        HandshakeError::Overloaded => return,
        HandshakeError::TimedOut => instruments.handshake_timed_out("auth"),
        HandshakeError::Refused { .. } => instruments.authentication_failed(reason),
        _ => instruments.handshake_refused(reason),
    }
    let limit = instruments.log_limit();
    match error {
        HandshakeError::Refused { peer, error: cause } => match cause {
            // Our side's trouble, and nobody can connect: louder than a bad token.
            AuthError::Unavailable(_) => {
                log_rarely!(warn, limit, reason, relay.peer.id = %peer, client.address = %client, "peer refused: {cause}");
            }
            _ => {
                log_rarely!(info, limit, reason, relay.peer.id = %peer, client.address = %client, "peer refused: {cause}");
            }
        },
        HandshakeError::NoMemory | HandshakeError::Internal(_) => {
            log_rarely!(warn, limit, reason, client.address = %client, "connection refused: {error}");
        }
        _ => {
            log_rarely!(info, limit, reason, client.address = %client, "connection refused: {error}");
        }
    }
}
