//! Where to listen: how it is written, and what is to be bound.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
};

use super::mistakes::{Wrong, quoted};
use super::values::{decimal, host_name};

/// Where to listen, as written by the operator: `:443`, `127.0.0.1:443`, `[::1]:443` or `localhost:443`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// None: all addresses, IPv4 and IPv6.
    host: Option<Host>,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

impl ListenAddress {
    /// All addresses of this machine, IPv4 and IPv6, on `port` (0: any free one).
    pub fn all(port: u16) -> Self {
        Self { host: None, port }
    }

    /// The port; 0 means any free one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket addresses to try, best first: bind the first that can be bound, and only that one.
    ///
    /// All addresses (`:443`, `[::]:443`) give `[::]:443`, to be bound dual-stack (`IPV6_V6ONLY` off), which
    /// serves IPv4 too. `:443` falls back on `0.0.0.0:443` where the kernel has no IPv6. A name gives what it
    /// resolves to, IPv4 first as the Go relays have it.
    ///
    /// # Errors
    /// That of the resolver, for a name. The call then blocks on DNS; for the other forms it does no I/O.
    pub fn bind_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let at = |ip: IpAddr| SocketAddr::new(ip, self.port);
        match &self.host {
            None => Ok(vec![
                at(Ipv6Addr::UNSPECIFIED.into()),
                at(Ipv4Addr::UNSPECIFIED.into()),
            ]),
            Some(Host::Ip(ip)) => Ok(vec![at(*ip)]),
            Some(Host::Name(name)) => {
                let mut found: Vec<SocketAddr> =
                    (name.as_str(), self.port).to_socket_addrs()?.collect();
                found.sort_by_key(SocketAddr::is_ipv6);
                Ok(found)
            }
        }
    }

    /// Whether two listeners surely get in each other's way: same port, and the same host or all addresses.
    pub(super) fn collides_with(&self, other: &Self) -> bool {
        self.port != 0
            && self.port == other.port
            && (self.host == other.host || self.is_unspecified() || other.is_unspecified())
    }

    fn is_unspecified(&self) -> bool {
        match &self.host {
            None => true,
            Some(Host::Ip(ip)) => ip.is_unspecified(),
            Some(Host::Name(_)) => false,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            None => write!(f, ":{}", self.port),
            Some(Host::Ip(ip)) => SocketAddr::new(*ip, self.port).fmt(f),
            Some(Host::Name(name)) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// An address that is to be listened on, in one of the forms above.
pub(super) fn parse(text: &str) -> Result<ListenAddress, Wrong> {
    let wrong = || {
        Wrong::new(
            format!("{} is not an address to listen on", quoted(text)),
            "give :port for all addresses, or host:port, ip:port, [ipv6]:port",
        )
    };
    let (host, number) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = decimal::<u16>(number).ok_or_else(wrong)?;
    let host = if host.is_empty() {
        None
    } else if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(Host::Ip(IpAddr::V6(inner.parse().map_err(|_| wrong())?)))
    } else if let Ok(ip) = host.parse::<Ipv4Addr>() {
        Some(Host::Ip(IpAddr::V4(ip)))
    } else if host_name(host) {
        Some(Host::Name(host.to_owned()))
    } else {
        return Err(wrong());
    };
    Ok(ListenAddress { host, port })
}

/// A host and a port to connect to, as they are.
pub(super) fn host_and_port(text: &str) -> Result<String, Wrong> {
    match parse(text) {
        Ok(address) if address.host.is_some() && address.port != 0 => Ok(text.to_owned()),
        _ => Err(Wrong::new(
            format!("{} is no address to connect to", quoted(text)),
            "give host:port, ip:port or [ipv6]:port",
        )),
    }
}
