//! The TLS step of the listener: handshakes, limited in number and in time, counted by what came of them.

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info};

use crate::relay::Relay;
use crate::telemetry::instruments::Instruments;
use crate::tls::{ACME_TLS_ALPN, Certificates, server_config};
use crate::transport::RemoteAddr;
use crate::transport::tls::{TlsError, TlsStream};

/// Handshakes at once. Each costs some 20 KiB while it lasts; who comes when there are so many already is refused at once, and a
/// real client tries again.
const HANDSHAKES: usize = 16_384;

/// What WebSocket's upgrade is spoken in, best first: HTTP/2 is for those who speak nothing else
/// (`docs/adr/0041-http2.md`). Last, what an ACME authority asks for to see a challenge.
const ALPN: &[&[u8]] = &[b"http/1.1", super::http2::ALPN, ACME_TLS_ALPN];

/// Turns accepted connections into TLS streams; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct TlsLayer {
    config: Arc<ServerConfig>,
    handshakes: Arc<Semaphore>,
    instruments: Instruments,
}

impl TlsLayer {
    pub(super) fn new(certificates: &Certificates, relay: &Relay) -> Self {
        relay.instruments().expect_tls_failures(&TlsError::REASONS);
        Self {
            config: server_config(certificates, ALPN),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            instruments: relay.instruments().clone(),
        }
    }

    /// The handshake; none if it failed, which has been counted and logged then. Cancelled, it ends the connection.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        client: RemoteAddr,
        deadline: Instant,
    ) -> Option<TlsStream> {
        let Ok(_permit) = self.handshakes.try_acquire() else {
            self.instruments.handshake_refused("tls_overloaded");
            debug!(client.address = %client, error.type = "tls_overloaded", "connection refused: too many TLS handshakes at once");
            return None;
        };
        // Boxed, so that the task of a connection that is through is small.
        let handshake = Box::pin(TlsStream::accept(stream, Arc::clone(&self.config)));
        match timeout_at(deadline, handshake).await {
            Ok(Ok(mut stream)) if stream.alpn().as_deref() == Some(ACME_TLS_ALPN) => {
                info!(client.address = %client, "ACME challenge answered");
                // It has seen what it came for; whether it hears our last word is its own affair.
                let _ = timeout_at(deadline, stream.shutdown()).await;
                None
            }
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                self.instruments.tls_handshake_failed(error.reason());
                match error {
                    // Port scans and health checks of load balancers: nothing that an operator could mend.
                    TlsError::Lost(_) => {
                        debug!(client.address = %client, error.type = error.reason(), %error, "no TLS");
                    }
                    _ => {
                        info!(client.address = %client, error.type = error.reason(), %error, "connection refused");
                    }
                }
                None
            }
            Err(_) => {
                self.instruments.handshake_timed_out("tls");
                info!(client.address = %client, error.type = "timeout", "connection refused: no TLS handshake within 10 s");
                None
            }
        }
    }
}
