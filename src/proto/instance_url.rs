//! The instance URL: how a relay names itself to its clients (peer-protocol.md, *Instance URL*).

use std::fmt;
use std::net::Ipv6Addr;

use super::limits::{AUTH_RESPONSE_MAX, HEADER_LEN};

/// The longest URL that fits into an auth response, in bytes.
const URL_MAX: usize = AUTH_RESPONSE_MAX - HEADER_LEN;

/// The URL under which clients reach this very relay: `rel://host[:port]`, or `rels://host[:port]` where TLS ends at
/// the relay or before it. Peers compare it to find out whether they are on the same relay, so it is kept as the
/// operator wrote it; only the scheme is put in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceUrl {
    text: String,
    plain_over_tls: bool,
}

/// Why an exposed address gives no instance URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceUrlError {
    /// There is no address.
    #[error("exposed address is empty")]
    Empty,
    /// `://` stands in it more than once.
    #[error("exposed address has more than one scheme")]
    SeveralSchemes,
    /// The scheme is neither `rel` nor `rels`.
    #[error("exposed address has the scheme {0:?}, only rel and rels are known")]
    Scheme(String),
    /// A scheme without a host behind it.
    #[error("exposed address has no host")]
    NoHost,
    /// A character that cannot stand where it stands: a space, a control character, or one that is not ASCII.
    #[error("exposed address holds {0:?}, which cannot stand there")]
    Character(char),
    /// Brackets that hold no IPv6 address, or an IPv6 address without them.
    #[error("exposed address has an ipv6 host that is not written as [address]")]
    Ipv6,
    /// What follows the host's colon is not a port from 1 to 65535.
    #[error("exposed address has the port {0:?}, not a number from 1 to 65535")]
    Port(String),
    /// It does not fit into an auth response.
    #[error("instance url of {len} bytes is longer than {URL_MAX}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
}

impl InstanceUrl {
    /// The URL for the address the operator exposes. Without a scheme it gets `rels` if this relay does TLS itself
    /// (`tls`), else `rel`; with one it stays as given.
    ///
    /// # Errors
    /// Any [`InstanceUrlError`]: the address is a mistake of the configuration.
    pub fn from_exposed_address(exposed: &str, tls: bool) -> Result<Self, InstanceUrlError> {
        if exposed.is_empty() {
            return Err(InstanceUrlError::Empty);
        }
        let own_scheme = if tls { "rels" } else { "rel" };
        let (scheme, rest) = match exposed.split_once("://") {
            None => (own_scheme, exposed),
            Some((_, rest)) if rest.contains("://") => {
                return Err(InstanceUrlError::SeveralSchemes);
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("rel") => ("rel", rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("rels") => ("rels", rest),
            Some((scheme, _)) => return Err(InstanceUrlError::Scheme(scheme.to_owned())),
        };
        if let Some(bad) = rest.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(InstanceUrlError::Character(bad));
        }
        check_host_and_port(host_and_port(rest))?;
        let text = format!("{scheme}://{rest}");
        if text.len() > URL_MAX {
            return Err(InstanceUrlError::TooLong { len: text.len() });
        }
        Ok(Self {
            plain_over_tls: tls && scheme == "rel",
            text,
        })
    }

    /// The host in it, a name or an IP address; IPv6 without its brackets.
    pub fn host(&self) -> &str {
        let rest = self.text.split_once("://").map_or("", |(_, rest)| rest);
        let host_and_port = host_and_port(rest);
        let host = match host_and_port.strip_prefix('[') {
            Some(bracketed) => bracketed.split(']').next(),
            None => host_and_port.split(':').next(),
        };
        host.unwrap_or_default()
    }

    /// The URL as it is sent.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the operator exposes `rel://` although this relay does TLS: its clients will then come without TLS, and
    /// fail. One reference starts all the same, the other refuses; ours starts with a warning, which the caller owes.
    pub const fn is_plain_over_tls(&self) -> bool {
        self.plain_over_tls
    }
}

impl fmt::Display for InstanceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What stands between the scheme and the path.
fn host_and_port(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // Somebody's user and password mean nothing to a client, but the Go relays start with them.
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}

fn check_host_and_port(text: &str) -> Result<(), InstanceUrlError> {
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, after) = bracketed.split_once(']').ok_or(InstanceUrlError::Ipv6)?;
        address
            .parse::<Ipv6Addr>()
            .map_err(|_| InstanceUrlError::Ipv6)?;
        match after.strip_prefix(':') {
            None if after.is_empty() => return Ok(()),
            None => return Err(InstanceUrlError::Ipv6),
            Some(port) => (None, Some(port)),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(InstanceUrlError::Ipv6),
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        }
    };
    if let Some(host) = host {
        if host.is_empty() {
            return Err(InstanceUrlError::NoHost);
        }
        let in_host = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if let Some(bad) = host.chars().find(|c| !in_host(c)) {
            return Err(InstanceUrlError::Character(bad));
        }
    }
    match port {
        Some(port) if !is_port(port) => Err(InstanceUrlError::Port(port.to_owned())),
        _ => Ok(()),
    }
}

fn is_port(text: &str) -> bool {
    // `parse` alone would take a leading plus.
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(exposed: &str) -> InstanceUrlError {
        InstanceUrl::from_exposed_address(exposed, false).expect_err(exposed)
    }

    #[test]
    fn its_host_is_known() {
        for (exposed, host) in [
            ("relay.example.com", "relay.example.com"),
            ("rels://relay.example.com:443/path", "relay.example.com"),
            ("rel://user:pass@relay", "relay"),
            ("[::1]:443", "::1"),
            ("rels://10.0.0.1:443", "10.0.0.1"),
        ] {
            let url = InstanceUrl::from_exposed_address(exposed, true).unwrap();
            assert_eq!(url.host(), host, "{exposed}");
        }
    }

    #[test]
    fn mistakes_are_told_apart() {
        use InstanceUrlError::{Character, Empty, Ipv6, NoHost, Port, Scheme, SeveralSchemes};
        let cases = [
            ("", Empty),
            ("rel://rels://example.com", SeveralSchemes),
            ("http://example.com", Scheme("http".into())),
            ("://example.com", Scheme(String::new())),
            ("rels://", NoHost),
            ("rel://:80", NoHost),
            ("/relay", NoHost),
            ("rels://user@", NoHost),
            (" ", Character(' ')),
            ("exa mple.com", Character(' ')),
            ("example.com\r\n", Character('\r')),
            ("bücher.example", Character('ü')),
            ("exam\"ple.com", Character('"')),
            ("exam%20ple.com", Character('%')),
            ("2001:db8::1", Ipv6),
            ("[2001:db8::1", Ipv6),
            ("[example.com]:80", Ipv6),
            ("[::1]80", Ipv6),
            ("example.com:", Port(String::new())),
            ("example.com:0", Port("0".into())),
            ("example.com:+80", Port("+80".into())),
            ("example.com:65536", Port("65536".into())),
            ("[::1]:https", Port("https".into())),
        ];
        for (exposed, why) in cases {
            assert_eq!(error(exposed), why, "{exposed:?}");
        }
    }

    #[test]
    fn longest_url_fills_the_auth_response() {
        let host = "a".repeat(URL_MAX - "rel://".len());
        let url = InstanceUrl::from_exposed_address(&host, false).unwrap();
        let message = crate::proto::peer::encode_auth_response(url.as_str()).unwrap();
        assert_eq!(message.len(), AUTH_RESPONSE_MAX);
        assert_eq!(
            error(&format!("{host}a")),
            InstanceUrlError::TooLong { len: URL_MAX + 1 }
        );
    }

    #[test]
    fn warns_only_of_plain_exposed_by_a_tls_relay() {
        let warns = |exposed, tls| {
            InstanceUrl::from_exposed_address(exposed, tls)
                .unwrap()
                .is_plain_over_tls()
        };
        assert!(warns("rel://example.com", true));
        assert!(!warns("rel://example.com", false));
        assert!(!warns("rels://example.com", false));
        assert!(!warns("example.com", true));
    }

    proptest! {
        #[test]
        fn never_panics_and_what_it_takes_it_takes_again(exposed in "((rel|rels|RELS)://)?[\\PC]{0,40}", tls: bool) {
            if let Ok(url) = InstanceUrl::from_exposed_address(&exposed, tls) {
                prop_assert!(url.as_str().ends_with(exposed.split("://").last().unwrap()));
                let again = InstanceUrl::from_exposed_address(url.as_str(), tls).unwrap();
                prop_assert_eq!(again.as_str(), url.as_str());
            }
        }

        #[test]
        fn every_host_and_port_is_taken(host in "[a-z0-9]([a-z0-9.-]{0,30}[a-z0-9])?", port in 1..=u16::MAX, tls: bool) {
            let scheme = if tls { "rels" } else { "rel" };
            let exposed = format!("{host}:{port}");
            let url = InstanceUrl::from_exposed_address(&exposed, tls).unwrap();
            prop_assert_eq!(url.to_string(), format!("{scheme}://{exposed}"));
        }
    }
}
