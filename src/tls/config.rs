//! How TLS is spoken: versions, ciphers, tickets, ALPN.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, version};

use super::{Certificates, records};

/// The configuration of a listener for WebSocket over TLS 1.2 and 1.3 that offers the protocols `alpn`, best first. A client
/// that asks for none of them by ALPN is refused, as RFC 7301 wants it; one that does not speak ALPN is let in.
///
/// Sessions resume by ticket, under keys that change every few hours and never leave this process; nothing is kept for a
/// client that is gone.
///
/// # Panics
/// If the system has no randomness to make keys of.
#[must_use]
pub fn server_config(certificates: &Certificates, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(records::provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .expect("the provider has ciphers for both versions")
        .with_no_client_auth()
        .with_cert_resolver(certificates.resolver());
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.ticketer = Ticketer::new().expect("the system has randomness");
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // One is enough for a client that comes back, and each costs every client that does not.
    config.send_tls13_tickets = 1;
    // For `transport::tls`, which moves the data of TLS 1.3 itself.
    config.enable_secret_extraction = true;
    Arc::new(config)
}
