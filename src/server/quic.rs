//! The QUIC listener: a UDP socket with buffers that take bursts, and handshakes that are limited in number and in time.
//!
//! One endpoint serves all peers (`docs/adr/0036`). Each handshake has a task of its own: a slow one holds up nobody.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::{
    Connection, ConnectionError, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime,
    TransportErrorCode,
};
use rustls::AlertDescription;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use crate::admission::Permit;
use crate::peer::HANDSHAKE_TIMEOUT;
use crate::relay::Relay;
use crate::sockets;
use crate::stack::drain::Watch;
use crate::telemetry::instruments::Instruments;
use crate::telemetry::log_limit::log_rarely;
use crate::telemetry::spans::ConnectionSpan;
use crate::tls::{self, Certificates};
use crate::transport::quic::{self, QuicConnection};
use crate::transport::tls::TlsError;
use crate::transport::{RemoteAddr, TransportKind};

/// From so many handshakes on, or half of an address's share if that is less, an address must prove that it is no forgery before anything
/// is computed for it (RFC 9000, section 8.1): that costs real clients a round trip, and a flood from forged addresses everything.
const HANDSHAKES_UNPROVEN: usize = 256;

/// What the socket's buffer should hold of what has come: the 6,400 messages that 50 peers have in flight (`docs/adr/0047`). Linux lets
/// a process have so much as its sysctl says.
const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;

/// And of what is to leave: a quarter of a second at 128 Mbit/s.
const SEND_BUFFER: usize = 4 * 1024 * 1024;

/// How long the last closes may take to leave.
const CLOSE_LINGER: Duration = Duration::from_millis(500);

/// A UDP socket for QUIC; says what to do if the kernel gives it too little room for bursts.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    prepare(sockets::bind_udp(address)?.into_std()?)
}

/// As [`bind`], for a socket that is bound.
pub(super) fn prepare(socket: UdpSocket) -> io::Result<UdpSocket> {
    let options = socket2::SockRef::from(&socket);
    // What was refused shows in what was granted.
    let _ = options.set_recv_buffer_size(RECEIVE_BUFFER);
    let _ = options.set_send_buffer_size(SEND_BUFFER);
    let (receive, send) = (options.recv_buffer_size()?, options.send_buffer_size()?);
    for (what, wanted, told, sysctl) in [
        ("receive", RECEIVE_BUFFER, receive, "net.core.rmem_max"),
        ("send", SEND_BUFFER, send, "net.core.wmem_max"),
    ] {
        if let Some(granted) = shortfall(wanted, told) {
            warn!(
                granted,
                wanted,
                "the kernel gives QUIC's UDP socket a smaller {what} buffer than asked for, and will drop what a burst brings: \
                 sysctl -w {sysctl}={wanted}"
            );
        }
    }
    Ok(socket)
}

/// The bytes that were granted, if those are too few. Linux doubles what is asked for, and counts its own heads in it.
fn shortfall(wanted: usize, told: usize) -> Option<usize> {
    let granted = if cfg!(target_os = "linux") {
        told / 2
    } else {
        told
    };
    (granted < wanted).then_some(granted)
}

/// The QUIC side of the peers' listener, bound.
#[derive(Debug)]
pub(super) struct QuicListener {
    pub(super) socket: UdpSocket,
    pub(super) config: ServerConfig,
}

impl QuicListener {
    pub(super) fn new(socket: UdpSocket, certificates: &Certificates, initial_mtu: u16) -> Self {
        let tls = tls::server_config(certificates, &[quic::ALPN]);
        let config = quic::server_config(tls, initial_mtu)
            .expect("the provider has the cipher that QUIC begins with");
        Self { socket, config }
    }

    /// Accepts peers until the drain starts, then refuses newcomers until `closed`, and lets the last closes leave.
    pub(super) async fn serve(
        self,
        relay: &Relay,
        mut stop: Watch,
        closed: impl Future<Output = ()>,
    ) {
        relay.instruments().offers(TransportKind::Quic as usize);
        relay.instruments().expect_tls_failures(&TlsError::REASONS);
        let endpoint = Endpoint::new(
            EndpointConfig::default(),
            Some(self.config),
            self.socket,
            Arc::new(TokioRuntime),
        );
        let endpoint = match endpoint {
            Ok(endpoint) => endpoint,
            Err(error) => {
                return warn!(%error, "no QUIC: the UDP socket cannot be used, peers fall back to WebSocket");
            }
        };
        loop {
            let incoming = tokio::select! {
                incoming = endpoint.accept() => incoming,
                () = stop.started() => break,
            };
            let Some(incoming) = incoming else {
                warn!("QUIC has ended: its UDP socket failed, and peers fall back to WebSocket");
                break;
            };
            if let Some((incoming, permit)) = admit(incoming, relay) {
                tokio::spawn(connection(incoming, permit, relay.clone()));
            }
        }
        endpoint.set_server_config(None);
        closed.await;
        // Who does not hear it will find out by itself.
        let _ = timeout(CLOSE_LINGER, endpoint.wait_idle()).await;
    }
}

/// Whether a newcomer may try; who may not has been told so, or asked to prove its address first.
fn admit(incoming: Incoming, relay: &Relay) -> Option<(Incoming, Permit)> {
    let client = RemoteAddr::from(incoming.remote_address());
    if !relay.has_memory() {
        debug!(client.address = %client, error.type = "no_memory", "connection refused: too little memory left for one more peer");
        incoming.refuse();
        return None;
    }
    // Before the limits for each address are asked: else a flood would use up the places of those whose addresses it forges.
    let admission = relay.admission();
    let unproven = HANDSHAKES_UNPROVEN.min(admission.handshakes_per_address() / 2);
    if admission.handshakes() >= unproven
        && !incoming.remote_address_validated()
        && incoming.may_retry()
    {
        // It can: that has just been asked.
        let _ = incoming.retry();
        return None;
    }
    // Nobody waits for its turn here: what quinn holds of a newcomer is more than a socket.
    let admitted = relay.admission().admit(client);
    match admitted.and_then(|permit| permit.try_begin_handshake(client).map(|()| permit)) {
        Ok(permit) => Some((incoming, permit)),
        Err(_) => {
            incoming.refuse();
            None
        }
    }
}

/// One connection, from its handshake to its end.
async fn connection(incoming: Incoming, permit: Permit, relay: Relay) {
    let mut drain = relay.drain().watch();
    let client = RemoteAddr::from(incoming.remote_address());
    let shaken = tokio::select! {
        // Boxed, so that the task of a connection that is through is small.
        shaken = Box::pin(handshake(incoming, client, relay.instruments())) => shaken,
        () = drain.started() => None,
    };
    let Some(connection) = shaken else {
        return;
    };
    let remote = RemoteAddr::from(connection.remote_address());
    let Some(connection) = QuicConnection::new(connection) else {
        relay.instruments().handshake_refused("no_datagrams");
        let limit = relay.instruments().log_limit();
        log_rarely!(info, limit, "no_datagrams", client.address = %client, "connection refused: the client takes no QUIC datagrams, or too small ones");
        return;
    };
    let span = ConnectionSpan::start(&remote, TransportKind::Quic.name(), None);
    // How it went has been logged.
    let _ = relay.accept_within(span, connection, remote, permit).await;
}

/// The handshake; none if it failed, which has been counted and logged then. Cancelled, it ends the connection.
async fn handshake(
    incoming: Incoming,
    client: RemoteAddr,
    instruments: &Instruments,
) -> Option<Connection> {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let shaking = async { incoming.accept()?.await };
    match timeout_at(deadline, shaking).await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => {
            let reason = reason(&error);
            instruments.tls_handshake_failed(reason);
            if reason == "connection_lost" {
                debug!(client.address = %client, error.type = reason, %error, "no QUIC");
            } else {
                log_rarely!(info, instruments.log_limit(), reason, client.address = %client, %error, "connection refused: QUIC handshake");
            }
            None
        }
        Err(_) => {
            instruments.handshake_timed_out("tls");
            log_rarely!(info, instruments.log_limit(), "timeout", client.address = %client, "connection refused: no QUIC handshake within 10 s");
            None
        }
    }
}

/// Why a handshake failed, in the words of [`TlsError::REASONS`].
fn reason(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::VersionMismatch => "incompatible",
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
            Some(alert) => TlsError::Handshake(rustls::Error::AlertReceived(alert)).reason(),
            None => "connection_lost",
        },
        ConnectionError::TransportError(error) => match alert(error.code) {
            Some(AlertDescription::NoApplicationProtocol | AlertDescription::HandshakeFailure) => {
                "incompatible"
            }
            _ => "protocol_violation",
        },
        ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => "connection_lost",
    }
}

/// The TLS alert in a QUIC error code (RFC 9001, section 4.8).
fn alert(code: TransportErrorCode) -> Option<AlertDescription> {
    let code = u64::from(code).checked_sub(0x100)?;
    u8::try_from(code).ok().map(AlertDescription::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_small_a_buffer_is_told_as_what_was_granted() {
        assert_eq!(shortfall(SEND_BUFFER, 2 * SEND_BUFFER), None);
        assert_eq!(shortfall(SEND_BUFFER, 2 * SEND_BUFFER + 1), None);
        assert_eq!(shortfall(SEND_BUFFER, 425_984), Some(212_992));
    }
}
