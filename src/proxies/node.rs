//! One hop, as headers write it: an address, with or without a port.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The address in `text`: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`. A port that is not
/// told, or hidden (`_x`, RFC 7239, section 6.3), is 0. None for whatever else: `unknown`, `_hidden`, a name, garbage.
pub(super) fn node(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(at(ip, 0));
    }
    let (ip, rest) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (address, rest) = bracketed.split_once(']')?;
            (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), rest)
        }
        None => {
            let (address, _) = text.split_once(':')?;
            (IpAddr::V4(address.parse().ok()?), &text[address.len()..])
        }
    };
    if rest.is_empty() {
        return Some(at(ip, 0));
    }
    let told = rest.strip_prefix(':')?;
    if is_hidden(told) {
        return Some(at(ip, 0));
    }
    Some(at(ip, port(told)?))
}

/// A port from 1 to 65535, in digits alone.
pub(super) fn port(text: &str) -> Option<u16> {
    // `parse` alone would take a leading plus.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port != 0)
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

fn is_hidden(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.strip_prefix('_')
        .is_some_and(|name| !name.is_empty() && name.bytes().all(allowed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_of_an_address() {
        for (text, address) in [
            ("192.0.2.1", "192.0.2.1:0"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("192.0.2.1:_hidden", "192.0.2.1:0"),
            ("2001:db8::1", "[2001:db8::1]:0"),
            ("[2001:db8::1]", "[2001:db8::1]:0"),
            ("[2001:db8::1]:65535", "[2001:db8::1]:65535"),
            ("[2001:DB8::1]:_x.y-z", "[2001:db8::1]:0"),
            ("::ffff:192.0.2.1", "192.0.2.1:0"),
            ("[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
        ] {
            assert_eq!(node(text), Some(address.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn whatever_else_is_nobody() {
        for text in [
            "",
            "unknown",
            "_hidden",
            "relay.example.com",
            "192.0.2.1:",
            "192.0.2.1:0",
            "192.0.2.1:+80",
            "192.0.2.1:65536",
            "192.0.2.1:_",
            "192.0.2.1:_a b",
            "192.0.2.256",
            "192.0.2.01",
            "[192.0.2.1]:80",
            "[2001:db8::1",
            "[2001:db8::1]80",
            "[2001:db8::1]:",
            "fe80::1%eth0",
            " 192.0.2.1",
            "::1]:80",
        ] {
            assert_eq!(node(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = node(&text);
        }

        #[test]
        fn reads_every_socket_address(ip: IpAddr, port in 1..=u16::MAX) {
            let addr = SocketAddr::new(ip, port);
            let canonical = SocketAddr::new(ip.to_canonical(), port);
            prop_assert_eq!(node(&addr.to_string()), Some(canonical));
            prop_assert_eq!(node(&ip.to_string()), Some(SocketAddr::new(canonical.ip(), 0)));
        }
    }
}
