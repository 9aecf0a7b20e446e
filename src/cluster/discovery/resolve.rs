//! One question for the addresses behind a name, and its answer.
//!
//! The one who answers is a tower [`Service`](tower::Service), so that an embedder or a test can put another in the DNS's place.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tower::BoxError;
use tower::util::BoxCloneSyncService;

/// Answers [`Question`]s. An error means that nothing is known, and an empty [`Answer`] that there is nothing.
pub type Resolver = BoxCloneSyncService<Question, Answer, BoxError>;

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4: A records.
    V4,
    /// IPv6: AAAA records.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// What is asked for. Of a name with addresses of both families only those of `family` are wanted: they are two ways to the same
/// pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Question {
    /// The pods behind a host name (A and AAAA records), all on one port.
    Hosts {
        /// The name, as the operator wrote it.
        name: Arc<str>,
        /// Their port.
        port: u16,
        /// Which addresses are wanted where there are both.
        family: Family,
    },
    /// The pods behind a service name (SRV records, RFC 2782), each on a port of its own.
    Services {
        /// The name, such as `_relay._tcp.relay.example.com`.
        name: Arc<str>,
        /// Which addresses are wanted where there are both.
        family: Family,
    },
}

impl Question {
    /// The name that is asked for.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Hosts { name, .. } | Self::Services { name, .. } => name,
        }
    }
}

/// What there is behind a name now; nothing at all is an answer, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The addresses, the port with each.
    pub pods: BTreeSet<SocketAddr>,
    /// For how long this may be believed (the lowest TTL).
    pub ttl: Duration,
}
