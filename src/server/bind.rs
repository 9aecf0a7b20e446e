//! One listener: the socket that the service manager passed for it, or else the first of its addresses that can be bound.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// What a socket is bound for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listener {
    /// Peers' WebSocket, on TCP.
    Peers,
    /// Peers' QUIC, on UDP of the same port.
    Quic,
    /// The health routes.
    Health,
    /// The metrics route.
    Metrics,
    /// STUN, on UDP.
    Stun,
    /// None of these: a socket that the service manager passed and no setting asks for.
    Unclaimed,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peers => "peers",
            Self::Quic => "peers with QUIC",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Stun => "STUN",
            Self::Unclaimed => "what the service manager passed",
        })
    }
}

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for {listener} on {addresses:?}: {source}")]
pub struct BindError {
    /// What was to be served there.
    pub listener: Listener,
    /// The addresses that were tried.
    pub addresses: Vec<SocketAddr>,
    /// Why the last of them failed.
    pub source: io::Error,
}

/// Takes the socket that was passed, or else opens one.
pub(super) fn bind<T>(
    listener: Listener,
    addresses: &[SocketAddr],
    passed: Option<io::Result<T>>,
    open: fn(SocketAddr) -> io::Result<T>,
) -> Result<T, BindError> {
    let failed = |source| BindError {
        listener,
        addresses: addresses.to_vec(),
        source,
    };
    if let Some(passed) = passed {
        return passed.map_err(failed);
    }
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address given");
    for &address in addresses {
        match open(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}
