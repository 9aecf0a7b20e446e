//! Whom a limit counts as one: an IPv4 address, or an IPv6 network of 64 bits, out of which a customer may use any address.

use std::net::IpAddr;

/// One source of connections or datagrams, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(u64);

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            // No global IPv6 network begins with 32 zero bits.
            IpAddr::V4(ip) => Self(u64::from(ip.to_bits())),
            IpAddr::V6(ip) => Self((ip.to_bits() >> 64) as u64),
        }
    }
}

impl Source {
    /// The IPv6 network of 48 bits that it is in, which one customer may have as a whole; an IPv4 address is in none.
    pub(crate) const fn site(self) -> Option<Site> {
        match self.0 >> 16 {
            site if site >> 16 == 0 => None,
            site => Some(Site(site)),
        }
    }
}

/// An IPv6 network of 48 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Site(u64);

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
    }

    #[test]
    fn a_site_is_an_ipv6_network_of_48_bits() {
        assert_eq!(source("255.255.255.255").site(), None);
        let site = |text| source(text).site().unwrap();
        assert_eq!(site("2001:db8:0:1::1"), site("2001:db8:0:ffff::"));
        assert_ne!(site("2001:db8:0:1::1"), site("2001:db8:1:1::1"));
    }
}
