//! What an operator writes to say where the pods are.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::resolve::{Answer, Family, Question};

/// Where pods are found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// An address that needs no question.
    Fixed(SocketAddr),
    /// All addresses behind a host name, on this port.
    Hosts {
        /// A name; without a dot at its end the search domains of resolv.conf apply.
        name: Arc<str>,
        /// The port of all of them.
        port: u16,
    },
    /// The targets behind a service name, `_service._proto.name`, each with its own port.
    Services {
        /// The whole name.
        name: Arc<str>,
    },
}

/// A text that names no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSource {
    /// Neither an address nor a name with a port, nor a service name.
    #[error("neither host:port nor _service._proto.name")]
    Form,
    /// Nobody listens on port 0.
    #[error("port 0 cannot be dialed")]
    PortZero,
    /// `0.0.0.0` or `[::]`.
    #[error("an unspecified address cannot be dialed")]
    Unspecified,
}

/// The longest name in the DNS, in characters (RFC 1035, section 2.3.4).
const NAME_MAX: usize = 253;

/// Letters, digits, `-`, `_` and dots, with something that is no digit: that would be a mistyped IPv4 address.
fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let labels = text.strip_suffix('.').unwrap_or(text).split('.');
    text.len() <= NAME_MAX
        && text.chars().all(allowed)
        && text.chars().any(|c| !c.is_ascii_digit() && c != '.')
        && labels
            .into_iter()
            .all(|label| (1..=63).contains(&label.len()))
}

impl Source {
    /// The pods behind a headless Service: a service name (`_...`) is asked for SRV records, any other name for addresses, all
    /// on `port`.
    ///
    /// # Errors
    /// If it is no name.
    pub fn headless(name: &str, port: u16) -> Result<Self, InvalidSource> {
        if name.starts_with('_') || name.parse::<IpAddr>().is_ok() {
            return name.parse();
        }
        if !is_name(name) {
            return Err(InvalidSource::Form);
        }
        Ok(Self::Hosts {
            name: name.into(),
            port,
        })
    }

    /// What is known without a question, for ever.
    pub(super) fn fixed(&self) -> Answer {
        let pods = match self {
            Self::Fixed(address) => BTreeSet::from([*address]),
            Self::Hosts { .. } | Self::Services { .. } => BTreeSet::new(),
        };
        Answer {
            pods,
            ttl: Duration::MAX,
        }
    }

    /// What has to be asked, if anything; addresses of `family` are wanted.
    pub(super) fn question(&self, family: Family) -> Option<Question> {
        match self {
            Self::Fixed(_) => None,
            Self::Hosts { name, port } => Some(Question::Hosts {
                name: Arc::clone(name),
                port: *port,
                family,
            }),
            Self::Services { name } => Some(Question::Services {
                name: Arc::clone(name),
                family,
            }),
        }
    }
}

impl FromStr for Source {
    type Err = InvalidSource;

    /// `10.0.0.1:7090`, `[2001:db8::1]:7090`, `relay-1.example.com:7090` or `_relay._tcp.example.com`.
    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let Some((host, port)) = text.rsplit_once(':') else {
            return if text.starts_with('_') && text.contains('.') && is_name(text) {
                Ok(Self::Services { name: text.into() })
            } else {
                Err(InvalidSource::Form)
            };
        };
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidSource::Form);
        }
        let port: u16 = port.parse().map_err(|_| InvalidSource::Form)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let ip = match bracketed {
            Some(inner) => Some(IpAddr::V6(
                inner.parse::<Ipv6Addr>().map_err(|_| InvalidSource::Form)?,
            )),
            // Without brackets, the last group of an IPv6 address would be taken for a port.
            None => host.parse().ok().filter(IpAddr::is_ipv4),
        };
        if port == 0 {
            return Err(InvalidSource::PortZero);
        }
        match ip {
            Some(ip) if ip.is_unspecified() => Err(InvalidSource::Unspecified),
            Some(ip) => Ok(Self::Fixed(SocketAddr::new(ip.to_canonical(), port))),
            None if is_name(host) => Ok(Self::Hosts {
                name: host.into(),
                port,
            }),
            None => Err(InvalidSource::Form),
        }
    }
}

/// As it is written by an operator.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) => address.fmt(f),
            Self::Hosts { name, port } => write!(f, "{name}:{port}"),
            Self::Services { name } => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts(name: &str, port: u16) -> Source {
        Source::Hosts {
            name: name.into(),
            port,
        }
    }

    #[test]
    fn every_form_of_a_source() {
        let fixed = |text: &str| Source::Fixed(text.parse().unwrap());
        let services = |name: &str| Source::Services { name: name.into() };
        for (text, expected) in [
            ("10.0.0.1:7090", fixed("10.0.0.1:7090")),
            ("[2001:db8::1]:1", fixed("[2001:db8::1]:1")),
            ("[::ffff:10.0.0.1]:7", fixed("10.0.0.1:7")),
            (
                "relay-1.example.com:7090",
                hosts("relay-1.example.com", 7090),
            ),
            ("my_host.:65535", hosts("my_host.", 65535)),
            (
                "_relay._tcp.example.com",
                services("_relay._tcp.example.com"),
            ),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for (text, expected) in [
            ("", InvalidSource::Form),
            ("relay", InvalidSource::Form),
            ("relay:", InvalidSource::Form),
            (":7090", InvalidSource::Form),
            ("relay:+1", InvalidSource::Form),
            ("relay:70000", InvalidSource::Form),
            ("2001:db8::1:7090", InvalidSource::Form),
            ("10.0.0:7090", InvalidSource::Form),
            ("a..b:7090", InvalidSource::Form),
            ("a b:7090", InvalidSource::Form),
            ("_relay", InvalidSource::Form),
            ("relay:0", InvalidSource::PortZero),
            ("0.0.0.0:7090", InvalidSource::Unspecified),
            ("[::]:7090", InvalidSource::Unspecified),
        ] {
            assert_eq!(text.parse::<Source>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_headless_name_has_the_port_of_all_pods_and_a_service_name_has_its_own() {
        assert_eq!(
            Source::headless("relay.ns.svc", 7090),
            Ok(hosts("relay.ns.svc", 7090))
        );
        let service = "_cluster._tcp.relay.ns.svc";
        assert_eq!(Source::headless(service, 7090), service.parse());
        for wrong in ["", "relay:7090", "10.0.0.1", "::1", "a b"] {
            assert!(Source::headless(wrong, 7090).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_written_as_it_is_read(text in "\\PC{0,40}") {
            if let Ok(source) = text.parse::<Source>() {
                prop_assert_eq!(source.to_string().parse(), Ok(source));
            }
        }
    }
}
