//! The proxies that are believed.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderMap;
use ipnet::{IpNet, Ipv4Net};

use super::headers::{self, Claims};
use crate::transport::RemoteAddr;

/// Addresses whose word about their client is believed; cheap to clone. The default believes nobody.
///
/// ```
/// use trunkline::proxies::TrustedProxies;
///
/// let trusted: TrustedProxies = "10.0.0.0/8, 192.0.2.7, fd00::/8".parse()?;
/// assert!(trusted.contains("10.1.2.3".parse()?));
/// assert!(!trusted.contains("192.0.2.8".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Arc<[IpNet]>);

/// An entry of the list that is neither an IP address nor a CIDR prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an IP address nor a CIDR prefix")]
pub struct NotAPrefix(pub String);

impl TrustedProxies {
    /// Whether there is nobody in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a proxy at this address is believed. An IPv4 address mapped into IPv6 is the IPv4 address.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|prefix| prefix.contains(&ip))
    }

    /// Whether the other end of this connection is believed; one that nobody knows is not.
    #[must_use]
    pub fn trusts(&self, connection: RemoteAddr) -> bool {
        connection
            .get()
            .is_some_and(|addr| self.contains(addr.ip()))
    }

    /// Where the client of a request comes from. `connection` is the other end of the connection that brought it, behind a
    /// PROXY header if there was one; only if that is a trusted proxy do the headers count, and in this order:
    ///
    /// 1. `X-Real-Ip` and `X-Real-Port`, both there, unless they name a trusted proxy in their turn;
    /// 2. `Forwarded` (RFC 7239), the rightmost `for` that is not a trusted proxy;
    /// 3. `X-Forwarded-For`, likewise.
    ///
    /// If the first that is there is malformed or names nobody, the answer is `connection`: nothing is guessed. A list is read
    /// from the right up to the first hop that is not trusted or has no address (`unknown`, `_hidden`, garbage); what lies
    /// beyond that is what somebody untrusted says. A port that is not told is 0.
    #[must_use]
    pub fn client_address(&self, connection: RemoteAddr, headers: &HeaderMap) -> RemoteAddr {
        if !self.trusts(connection) {
            return connection;
        }
        let claims = Claims::read(headers, |ip| self.contains(ip));
        claims.client().map_or(connection, RemoteAddr::from)
    }

    /// Whether the headers of this request contradict each other about its client: then the proxy in front passes on a header
    /// that its own client has written.
    pub(crate) fn is_contradictory(&self, connection: RemoteAddr, headers: &HeaderMap) -> bool {
        self.trusts(connection)
            && headers::may_contradict(headers)
            && Claims::read(headers, |ip| self.contains(ip)).contradict()
    }
}

impl FromStr for TrustedProxies {
    type Err = NotAPrefix;

    /// Reads addresses and prefixes with commas between them. A prefix may have bits behind its length; they mean nothing.
    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        text.split(',').map(|entry| prefix(entry.trim())).collect()
    }
}

impl FromIterator<IpNet> for TrustedProxies {
    fn from_iter<T: IntoIterator<Item = IpNet>>(prefixes: T) -> Self {
        Self(prefixes.into_iter().map(canonical).collect())
    }
}

impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, prefix) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{prefix}")?;
        }
        Ok(())
    }
}

fn prefix(text: &str) -> Result<IpNet, NotAPrefix> {
    let address = || text.parse::<IpAddr>().map(IpNet::from).ok();
    text.parse()
        .ok()
        .or_else(address)
        .ok_or_else(|| NotAPrefix(text.to_owned()))
}

/// Without host bits, and a prefix of mapped IPv4 addresses as what it is: addresses are compared in that form.
fn canonical(prefix: IpNet) -> IpNet {
    let mapped = match prefix {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6
            .addr()
            .to_ipv4_mapped()
            .and_then(|v4| Ipv4Net::new(v4, v6.prefix_len() - 96).ok()),
        _ => None,
    };
    mapped.map_or(prefix, IpNet::V4).trunc()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> TrustedProxies {
        text.parse().unwrap()
    }

    #[test]
    fn takes_addresses_and_prefixes_and_shows_them_again() {
        let trusted = list("10.1.2.3/8, 192.0.2.7,fd00::1/8,::ffff:198.51.100.0/120,::1");
        assert_eq!(
            trusted.to_string(),
            "10.0.0.0/8,192.0.2.7/32,fd00::/8,198.51.100.0/24,::1/128"
        );
        for inside in [
            "10.255.255.255",
            "::ffff:10.0.0.1",
            "192.0.2.7",
            "fdff::1",
            "198.51.100.9",
            "::1",
        ] {
            assert!(trusted.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["11.0.0.1", "192.0.2.8", "fe00::1", "::2", "::a00:1"] {
            assert!(!trusted.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(!TrustedProxies::default().contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn anything_else_is_named() {
        for (text, entry) in [
            ("", ""),
            ("10.0.0.0/8,", ""),
            ("10.0.0.0/33", "10.0.0.0/33"),
            ("10.0.0/8", "10.0.0/8"),
            ("::1, proxy.example.com", "proxy.example.com"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ] {
            assert_eq!(
                text.parse::<TrustedProxies>(),
                Err(NotAPrefix(entry.into()))
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_reads_what_it_writes(text in "[0-9a-f:./, ]{0,60}") {
            if let Ok(trusted) = text.parse::<TrustedProxies>() {
                prop_assert_eq!(list(&trusted.to_string()), trusted);
            }
        }
    }
}
