//! The TLS step of the listener: handshakes, limited in number (`src/admission/`) and in time, counted by what came of them.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info};

use crate::admission::Permit;
use crate::relay::Relay;
use crate::telemetry::instruments::Instruments;
use crate::telemetry::log_limit::log_rarely;
use crate::tls::{ACME_TLS_ALPN, Certificates, server_config};
use crate::transport::RemoteAddr;
use crate::transport::tls::{TlsError, TlsStream};

/// What WebSocket's upgrade is spoken in, best first: HTTP/2 is for those who speak nothing else
/// (`docs/adr/0041-http2.md`). Last, what an ACME authority asks for to see a challenge.
const ALPN: &[&[u8]] = &[b"http/1.1", super::http2::ALPN, ACME_TLS_ALPN];

/// Turns accepted connections into TLS streams; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct TlsLayer {
    config: Arc<ServerConfig>,
    instruments: Instruments,
}

impl TlsLayer {
    pub(super) fn new(certificates: &Certificates, relay: &Relay) -> Self {
        relay.instruments().expect_tls_failures(&TlsError::REASONS);
        Self {
            config: server_config(certificates, ALPN),
            instruments: relay.instruments().clone(),
        }
    }

    /// The handshake; none if it failed, which has been counted and logged then. Cancelled, it ends the connection.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        client: RemoteAddr,
        permit: &Permit,
        deadline: Instant,
    ) -> Option<TlsStream> {
        let limit = self.instruments.log_limit();
        // Who says nothing costs a socket, and takes nobody's place; from the first byte on it costs some 20 KiB. What the peek
        // brings is seen again by the handshake.
        match timeout_at(deadline, stream.peek(&mut [0])).await {
            Ok(Ok(0) | Err(_)) => {
                let lost = TlsError::Lost(io::ErrorKind::UnexpectedEof.into());
                self.failed(client, &lost);
                return None;
            }
            Ok(Ok(_)) => {}
            Err(_) => {
                self.timed_out(client);
                return None;
            }
        }
        permit.begin_handshake(client, deadline).await.ok()?;
        // Boxed, so that the task of a connection that is through is small.
        let handshake = Box::pin(TlsStream::accept(stream, Arc::clone(&self.config)));
        match timeout_at(deadline, handshake).await {
            Ok(Ok(mut stream)) if stream.alpn() == Some(ACME_TLS_ALPN) => {
                // Who asks for it may be anybody.
                if let Some(more) = limit.due(module_path!(), "acme") {
                    info!(more, client.address = %client, "ACME challenge answered");
                }
                // It has seen what it came for; whether it hears our last word is its own affair.
                let _ = timeout_at(deadline, stream.shutdown()).await;
                None
            }
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                self.failed(client, &error);
                None
            }
            Err(_) => {
                self.timed_out(client);
                None
            }
        }
    }

    fn failed(&self, client: RemoteAddr, error: &TlsError) {
        self.instruments.tls_handshake_failed(error.reason());
        match error {
            // Port scans and health checks of load balancers: nothing that an operator could mend.
            TlsError::Lost(_) => {
                debug!(client.address = %client, error.type = error.reason(), %error, "no TLS");
            }
            _ => {
                let limit = self.instruments.log_limit();
                log_rarely!(info, limit, error.reason(), client.address = %client, %error, "connection refused");
            }
        }
    }

    fn timed_out(&self, client: RemoteAddr) {
        self.instruments.handshake_timed_out("tls");
        let limit = self.instruments.log_limit();
        log_rarely!(info, limit, "timeout", client.address = %client, "connection refused: no TLS handshake within 10 s");
    }
}

#[cfg(test)]
mod tests {

    use rustls::ClientConfig;
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::ServerName;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::auth::AllowAll;
    use crate::peer::HANDSHAKE_TIMEOUT;
    use crate::tls::{AnyCertificate, Certificate};

    /// Certificates with a challenge that is shown to whoever asks for it.
    fn challenged(domain: &str) -> Certificates {
        let certificates = Certificates::new();
        let certificate = Certificate::self_signed(domain);
        certificates.show_challenge(domain, certificate.key());
        certificates.set(certificate);
        certificates
    }

    /// Who asks for a challenge, as anybody may while there is one, gets it and the end, whether it wants to stay or not.
    #[tokio::test]
    async fn acme_connections_that_are_held_open_hold_no_place() {
        let domain = "relay.example.com";
        let builder = Relay::builder().exposed_address(domain);
        let relay = builder.validator(AllowAll).build().unwrap();
        let layer = TlsLayer::new(&challenged(domain), &relay);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut config = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(
                aws_lc_rs::default_provider().into(),
            )))
            .with_no_client_auth();
        config.alpn_protocols = vec![ACME_TLS_ALPN.to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let mut held = Vec::new();
        for number in 0..20 {
            let tcp = TcpStream::connect(addr).await.unwrap();
            let (accepted, remote) = listener.accept().await.unwrap();
            let client = RemoteAddr::from(remote);
            let permit = relay.admission().admit(client).unwrap();
            let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
            let served = async {
                let served = layer.handshake(accepted, client, &permit, deadline).await;
                assert!(served.is_none());
                drop(permit);
            };
            if number % 2 == 0 {
                // It is shown the challenge, and stays.
                let name = ServerName::try_from(domain).unwrap();
                let (shown, ()) = tokio::join!(connector.connect(name, tcp), served);
                let mut shown = shown.unwrap();
                assert_eq!(shown.get_ref().1.alpn_protocol(), Some(ACME_TLS_ALPN));
                assert_eq!(shown.read(&mut [0; 8]).await.unwrap(), 0, "the end");
                held.push(shown);
            } else {
                // It stops in the middle, and has the time of all handshakes.
                let mut tcp = tcp;
                tcp.write_all(&[22, 3, 1]).await.unwrap();
                tokio::time::pause();
                served.await;
                tokio::time::resume();
                drop(tcp);
            }
            assert_eq!(relay.admission().open(), 0);
            assert_eq!(relay.admission().handshakes(), 0);
        }
        drop(held);
    }
}
