//! The tower stack of one connection, inside out.

use std::future::ready;
use std::sync::Arc;

use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::auth_layer::{AuthLayer, Authenticated};
use super::closed::Closed;
use super::handshake_metrics::HandshakeMetricsLayer;
use super::hello::HelloLayer;
use super::peer_loop::PeerLoop;
use super::{HANDSHAKE_TIMEOUT, HandshakeError, Incoming, Shared};
use crate::admission::Permit;
use crate::stack::drain::DrainLayer;
use crate::stack::stage::StageLayer;
use crate::telemetry::spans::ConnectionSpan;
use crate::transport::MessageTransport;

/// Takes one connection from its first message to its close, and keeps its place until then. Every transport goes through here.
///
/// # Errors
/// If it never became a peer; that has been counted and logged.
pub(crate) async fn accept<T: MessageTransport>(
    shared: &Arc<Shared>,
    incoming: Incoming<T>,
    span: ConnectionSpan,
    permit: Permit,
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
            let (shared, permit) = (Arc::clone(shared), permit.clone());
            move |incoming: Incoming<T>| {
                if !shared.has_memory() {
                    return Err(HandshakeError::NoMemory);
                }
                // Most have begun already, with their first byte; that changes nothing.
                match permit.try_begin_handshake(incoming.remote) {
                    Ok(()) => Ok(incoming),
                    Err(_) => Err(HandshakeError::Overloaded),
                }
            }
        })
        // For the handshake, never for the peer loop: see `StageLayer`.
        .timeout(HANDSHAKE_TIMEOUT)
        .layer(HelloLayer)
        .layer(AuthLayer::new(Arc::clone(&shared.validator)))
        .service({
            let permit = permit.clone();
            service_fn(move |authenticated: Authenticated<T>| {
                permit.end_handshake();
                ready(Ok::<_, HandshakeError>(authenticated))
            })
        });
    let stack = ServiceBuilder::new()
        .layer(StageLayer::new(handshake))
        .service(PeerLoop(Arc::clone(shared)));
    // The builder is gone by now, and its copy of the handshake with it: nothing of that outlives the first stage.
    stack.oneshot(incoming).await
}
