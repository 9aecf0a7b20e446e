//! Is QUIC reachable from outside? The relay dials its own public address and says what it found.
//!
//! A firewall that eats UDP, or a Service that forwards TCP alone, shows in nothing but the share of WebSocket peers. So the probe
//! goes the whole way of a peer: handshake, a datagram, the answer. It is NetBird's health-check probe, which no relay lets in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use quinn::{ConnectionError, Endpoint, VarInt};
use tokio::net::lookup_host;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, info, warn};

use crate::auth;
use crate::proto::peer::encode_auth;
use crate::telemetry::instruments::Instruments;
use crate::telemetry::names;
use crate::tls::any_certificate;
use crate::transport::quic::{ALPN, INITIAL_MTU, client_config};

/// How often it is tried.
const INTERVAL: Duration = Duration::from_secs(60);

/// How long the handshake, and then the answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// After so many failures in a row QUIC counts as not reachable: one may be lost packets, or a rollout.
const FAILURES: u32 = 2;

/// Why QUIC is not reachable.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("the name cannot be looked up ({0})")]
    Lookup(#[source] io::Error),
    #[error("no UDP socket can be had here ({0})")]
    Socket(#[source] io::Error),
    #[error(
        "nothing comes back: a firewall or security group drops UDP, or the Service or load balancer forwards TCP alone"
    )]
    Silence,
    #[error("something else speaks QUIC there, an HTTP/3 proxy perhaps ({0})")]
    Foreign(#[source] ConnectionError),
    #[error(
        "the handshake gets through and the datagram does not: is it a relay that answers there?"
    )]
    NoAnswer,
}

/// Probes for ever. Dropping the future ends it.
pub(super) async fn run(via: &str, instruments: &Instruments) {
    // 0: not known yet, 1: not reachable, 2: reachable.
    let state = Arc::new(AtomicU8::new(0));
    let shown = Arc::downgrade(&state);
    instruments
        .meter()
        .u64_observable_gauge(names::QUIC_REACHABLE)
        .with_description(
            "Whether the relay reaches itself with QUIC at the address of --probe-quic-via.",
        )
        .with_callback(move |observer| {
            let state = shown.upgrade().map(|state| state.load(Ordering::Relaxed));
            if let Some(known @ 1..) = state {
                observer.observe(u64::from(known == 2), &[]);
            }
        })
        .build();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    loop {
        ticks.tick().await;
        match probe(via).await {
            Ok(()) => {
                failures = 0;
                if state.swap(2, Ordering::Relaxed) != 2 {
                    info!(via, "QUIC is reachable from outside");
                }
            }
            Err(error) => {
                failures += 1;
                debug!(via, %error, failures, "QUIC probe failed");
                if failures >= FAILURES && state.swap(1, Ordering::Relaxed) != 1 {
                    warn!(
                        via,
                        "QUIC is not reachable from outside, and peers fall back to WebSocket: {error}"
                    );
                }
            }
        }
    }
}

async fn probe(via: &str) -> Result<(), ProbeError> {
    let mut found = lookup_host(via).await.map_err(ProbeError::Lookup)?;
    let address = found.next().ok_or_else(|| {
        ProbeError::Lookup(io::Error::new(io::ErrorKind::NotFound, "it has no address"))
    })?;
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    };
    let endpoint = Endpoint::client(any).map_err(ProbeError::Socket)?;
    // Whose certificate it is does not matter here: what is asked is whether datagrams pass.
    let config = client_config(any_certificate(&[ALPN]), INITIAL_MTU)
        .expect("the provider has the cipher that QUIC begins with");
    let host = via.rsplit_once(':').map_or(via, |(host, _)| host);
    let connecting = endpoint
        .connect_with(config, address, host.trim_matches(['[', ']']))
        .map_err(|error| ProbeError::Lookup(io::Error::other(error)))?;
    let connection = match timeout(PATIENCE, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(ConnectionError::TimedOut)) | Err(_) => return Err(ProbeError::Silence),
        Ok(Err(error)) => return Err(ProbeError::Foreign(error)),
    };
    let (peer, token) = auth::health_probe();
    let message = encode_auth(&peer, &token).expect("its token is short");
    // A relay closes the connection without a word, and with the code of a normal closure; one that lets everybody in answers.
    let answered = async {
        connection.send_datagram(message.into()).ok()?;
        match connection.read_datagram().await {
            Ok(_) => Some(()),
            Err(ConnectionError::ApplicationClosed(close)) => {
                (close.error_code == VarInt::from_u32(0)).then_some(())
            }
            Err(_) => None,
        }
    };
    match timeout(PATIENCE, answered).await {
        Ok(Some(())) => Ok(()),
        Ok(None) | Err(_) => Err(ProbeError::NoAnswer),
    }
}
