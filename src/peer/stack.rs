//! The tower stack of one connection, inside out.

use std::sync::Arc;

use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::auth_layer::{AuthLayer, Authenticated};
use super::closed::Closed;
use super::handshake_metrics::HandshakeMetricsLayer;
use super::hello::HelloLayer;
use super::peer_loop::PeerLoop;
use super::{HANDSHAKE_TIMEOUT, HandshakeError, Incoming, Shared};
use crate::stack::drain::DrainLayer;
use crate::stack::stage::StageLayer;
use crate::telemetry::spans::ConnectionSpan;
use crate::transport::MessageTransport;

/// Takes one connection from its first byte to its close. Every transport goes through here.
///
/// # Errors
/// If it never became a peer; that has been counted and logged.
pub(crate) async fn accept<T: MessageTransport>(
    shared: &Arc<Shared>,
    incoming: Incoming<T>,
    span: ConnectionSpan,
) -> Result<Closed, HandshakeError> {
    // Held from the first byte to the last: a shutdown that begins between two stages waits for what comes of it.
    let _watch = shared.drain.watch();
    // Unauthenticated connections, and only those.
    let handshake = ServiceBuilder::new()
        // Outermost, so that whatever happens below is counted and logged once.
        .layer(HandshakeMetricsLayer {
            instruments: shared.instruments.clone(),
            span: span.into_span(),
        })
        .map_err(HandshakeError::fold)
        // A silent connection never holds up a shutdown.
        .layer(DrainLayer::new(shared.drain.watch()))
        // A peer more would be one too many for those who are here.
        .filter({
            let shared = Arc::clone(shared);
            move |incoming| match shared.has_memory() {
                true => Ok::<Incoming<T>, HandshakeError>(incoming),
                false => Err(HandshakeError::NoMemory),
            }
        })
        // Refuses at once where the limit below would queue: who waits there would only time out later.
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(
            &shared.handshakes,
        )))
        // For the handshake, never for the peer loop: see `StageLayer`.
        .timeout(HANDSHAKE_TIMEOUT)
        .layer(HelloLayer)
        .layer(AuthLayer::new(Arc::clone(&shared.validator)))
        .service(service_fn(admit));
    let stack = ServiceBuilder::new()
        .layer(StageLayer::new(handshake))
        .service(PeerLoop(Arc::clone(shared)));
    // The builder is gone by now, and its copy of the handshake with it: nothing of that outlives the first stage.
    stack.oneshot(incoming).await
}

/// The innermost service of the handshake: the permit, the timer and the token are given back when it has answered.
async fn admit<T>(authenticated: Authenticated<T>) -> Result<Authenticated<T>, HandshakeError> {
    Ok(authenticated)
}
