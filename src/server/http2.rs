//! An HTTP/2 connection on the peers' listener: WebSockets by extended CONNECT (RFC 8441), one on each stream.
//!
//! Made for ingresses that speak HTTP/2 to what is behind them. Each stream asks for a place of its own; the connection has one
//! besides, and goes when it carries nobody.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::ServiceBuilder;
use tracing::debug;

use super::listener::{REQUEST_HEAD_MAX, no_upgrade};
use crate::admission::Permit;
use crate::http::StreamUse;
use crate::relay::Relay;
use crate::stack::drain::Drain;
use crate::transport::RemoteAddr;

/// Its name in TLS.
pub(super) const ALPN: &[u8] = b"h2";

/// Streams at once on one connection. A proxy that has more peers opens a further connection, which another core may serve.
const STREAMS: u32 = 128;

/// Bytes that one stream, and all streams together, may send before we have read them. The relay reads at once, so this is the
/// line between proxy and relay: 256 KiB at a round trip of 1 ms are 2 Gbit/s for each peer.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Bytes of one stream that may wait here for the other side to take them, besides the peer's queue.
const SEND_BUFFER: usize = 128 * 1024;

/// How long a connection without a peer is kept for the next one.
const IDLE: Duration = Duration::from_secs(60);

/// How long the other side may take to read what there is to say at the end.
const LINGER: Duration = Duration::from_secs(1);

/// Serves the connection to its end, which comes when the other side wants it, when it carries nobody for a while, or, its peers
/// told and gone, when the relay's drain starts. Its first stream is waited for until `deadline`.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    (remote, permit): (SocketAddr, Permit),
    deadline: Instant,
    router: Router,
    relay: Relay,
) {
    let client = RemoteAddr::from(remote);
    let mut drain = relay.drain().watch();
    let streams = Arc::<Drain>::default();
    let asked = Arc::<AtomicBool>::default();
    let held = (Arc::clone(&streams), Arc::clone(&asked), permit.clone());
    let service = ServiceBuilder::new()
        .layer(Extension(ConnectInfo(remote)))
        .map_request(move |request: http::Request<Incoming>| {
            let (streams, asked, permit) = &held;
            asked.store(true, Ordering::Relaxed);
            // From here on each stream counts by itself.
            permit.end_handshake();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(StreamUse(streams.watch()));
            request
        })
        .service(router);
    let connection = http2::Builder::new(TokioExecutor::new())
        .enable_connect_protocol()
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(REQUEST_HEAD_MAX as u32)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    let useless = async {
        sleep_until(deadline).await;
        if !asked.load(Ordering::Relaxed) {
            no_upgrade(client, &relay);
            return;
        }
        loop {
            streams.done().await;
            sleep(IDLE).await;
            if streams.is_done() {
                debug!(client.address = %client, "connection carries nobody and ends");
                return;
            }
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = useless => None,
        () = drain.started() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            loop {
                match timeout(LINGER, connection.as_mut()).await {
                    Ok(ended) => break ended,
                    // Nobody is left, and the other side does not take its leave.
                    Err(_) if streams.is_done() => return,
                    Err(_) => {}
                }
            }
        }
    };
    if let Err(error) = ended {
        debug!(client.address = %client, %error, "HTTP/2 connection lost");
    }
}
