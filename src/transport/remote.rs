//! The address of a client, as far as it is known.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Where a connection came from. Only for logs and limits: it proves nothing. Behind a proxy it is the client's address, as far
/// as the proxy is trusted and tells it; a port of 0 is one that it has not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoteAddr(Option<SocketAddr>);

impl RemoteAddr {
    /// An address nobody told us: an embedding server without connect info.
    #[must_use]
    pub const fn unknown() -> Self {
        Self(None)
    }

    /// The socket address, if known.
    #[must_use]
    pub const fn get(self) -> Option<SocketAddr> {
        self.0
    }
}

impl From<SocketAddr> for RemoteAddr {
    /// An IPv4 address that reached a dual-stack socket is shown as what it is.
    fn from(addr: SocketAddr) -> Self {
        let ip = match addr.ip() {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
            v4 @ IpAddr::V4(_) => v4,
        };
        Self(Some(SocketAddr::new(ip, addr.port())))
    }
}

impl fmt::Display for RemoteAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(addr) if addr.port() == 0 => addr.ip().fmt(f),
            Some(addr) => addr.fmt(f),
            None => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_mapped_ipv4_plainly() {
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:4000".parse().unwrap();
        assert_eq!(RemoteAddr::from(mapped).to_string(), "192.0.2.7:4000");
        assert_eq!(RemoteAddr::unknown().to_string(), "unknown");
        let portless = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0));
        assert_eq!(RemoteAddr::from(portless).to_string(), "::1");
    }
}
