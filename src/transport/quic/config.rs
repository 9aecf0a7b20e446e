//! How QUIC is spoken: limits, timeouts, path MTU.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt};

/// What the relay protocol is called in the handshake.
pub const ALPN: &[u8] = b"nb-quic";

/// The size of UDP payload that a connection starts with: what IPv6 leaves of the 1280 bytes that every path carries
/// (RFC 8200, section 5), so that each handshake survives. Decided in `docs/adr/0035`.
pub const INITIAL_MTU: u16 = 1232;

/// What may be chosen in its place: QUIC's least (RFC 9000, section 14), and what discovery reaches by itself.
pub const INITIAL_MTU_RANGE: RangeInclusive<u16> = 1200..=MTU_MAX;

/// Where path MTU discovery stops: Ethernet's 1500 bytes without the heads of IPv6 and UDP.
const MTU_MAX: u16 = 1452;

/// How long a connection may be silent. Stock clients send something every 30 s.
const IDLE_TIMEOUT: VarInt = VarInt::from_u32(60_000);

/// Bytes that quinn may hold of what is to be sent to one peer, as much as a TCP socket may (`NOTSENT_LOWAT`): what lies there
/// can neither be dropped for its age nor counted against the budget.
pub(super) const SEND_BUFFER: usize = 128 * 1024;

/// Bytes that quinn may hold of what one peer has sent, before it drops the oldest. The peer loop takes them whenever it runs;
/// a burst must only fit until then.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// Connections whose first datagram has come and that nobody has looked at yet.
const INCOMING_MAX: usize = 4096;

/// Bytes that one of them, and that all of them, may have sent meanwhile.
const INCOMING_BYTES: u64 = 16 * 1024;
const INCOMING_BYTES_TOTAL: u64 = 16 * 1024 * 1024;

/// What both sides have in common: datagrams and nothing else.
fn transport(initial_mtu: u16, idle: IdleTimeout) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(idle))
        .initial_mtu(initial_mtu)
        .mtu_discovery_config(Some(discovery))
        .datagram_send_buffer_size(SEND_BUFFER)
        .datagram_receive_buffer_size(Some(RECEIVE_BUFFER));
    transport
}

/// The configuration of a listener. `tls` must offer [`ALPN`] and TLS 1.3; `initial_mtu` is of [`INITIAL_MTU_RANGE`].
///
/// A client may change its address (RFC 9000, section 9).
///
/// # Errors
/// If `tls` has no cipher that QUIC can begin with.
pub fn server_config(
    tls: Arc<rustls::ServerConfig>,
    initial_mtu: u16,
) -> Result<ServerConfig, NoInitialCipherSuite> {
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config
        .transport_config(Arc::new(transport(
            initial_mtu,
            IdleTimeout::from(IDLE_TIMEOUT),
        )))
        .migration(true)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    Ok(config)
}

/// The configuration of a client that behaves as stock clients do: keep-alive every 30 s, silent for 4 minutes at most.
///
/// # Errors
/// If `tls` has no cipher that QUIC can begin with.
pub fn client_config(
    tls: Arc<rustls::ClientConfig>,
    initial_mtu: u16,
) -> Result<ClientConfig, NoInitialCipherSuite> {
    let mut transport = transport(initial_mtu, IdleTimeout::from(VarInt::from_u32(240_000)));
    transport.keep_alive_interval(Some(Duration::from_secs(30)));
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}
