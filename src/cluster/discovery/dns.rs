//! Questions to the DNS, by hickory-resolver.
//!
//! Owns which records are asked for, and in which order names are tried. The wire (UDP, TCP for answers that do not fit, several
//! servers, retries) and `/etc/hosts` are the library's. It keeps no cache: when to ask again is the caller's business, who is told the TTL.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Refusal, NetError};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use parking_lot::Mutex;
use tower::Service;

use super::resolve::{Answer, Family, Question};

/// Where the system says which servers to ask.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How long one server is given for one answer at most, whatever resolv.conf says: a lost packet must not cost the round.
const SERVER_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long an answer that there is nothing may be believed when the DNS does not say.
const NOTHING_TTL: Duration = Duration::from_secs(5);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// What says which servers to ask is missing or holds no server.
    #[error("{} is of no use: {reason}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is no name of the DNS.
    #[error("{0:?} is not a name")]
    Name(String),
    /// The servers did not answer, or that they cannot.
    #[error("{name}: {source}")]
    Lookup {
        /// The name that was asked for.
        name: String,
        /// What happened.
        source: NetError,
    },
}

/// The resolver and what it was made from.
#[derive(Debug, Clone)]
struct Servers {
    resolver: TokioResolver,
    /// Domains to put behind a short name, in the order in which they are tried.
    search: Arc<[Name]>,
    /// With so many dots a name is tried as it is before the search domains are.
    ndots: usize,
}

/// The DNS, as resolv.conf has it. Cheap to clone. Always ready; nothing is retried beyond what resolv.conf says.
#[derive(Debug, Clone)]
pub struct Dns {
    path: PathBuf,
    port: Option<u16>,
    /// None: resolv.conf is to be read (again).
    servers: Arc<Mutex<Option<Servers>>>,
}

impl Dns {
    /// The system's, by `/etc/resolv.conf`, which is read at the first question, and again after one that had no answer.
    #[must_use]
    pub fn system() -> Self {
        Self::at(Path::new(RESOLV_CONF))
    }

    /// By another file of that form.
    #[must_use]
    pub fn at(resolv_conf: &Path) -> Self {
        Self {
            path: resolv_conf.to_owned(),
            port: None,
            servers: Arc::default(),
        }
    }

    /// Asks the servers on this port in the place of 53, which resolv.conf has no way to say.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    fn servers(&self) -> Result<Servers, DnsError> {
        let mut servers = self.servers.lock();
        if let Some(servers) = &*servers {
            return Ok(servers.clone());
        }
        let useless = |reason: String| DnsError::Configuration {
            path: self.path.clone(),
            reason,
        };
        // A few lines of a local file, at the start and after a failure.
        let text = std::fs::read(&self.path).map_err(|error| useless(error.to_string()))?;
        let (config, options) =
            parse_resolv_conf(text).map_err(|error| useless(error.to_string()))?;
        let new =
            Servers::new(config, options, self.port).map_err(|error| useless(error.to_string()))?;
        Ok(servers.insert(new).clone())
    }

    async fn answer(self, question: Question) -> Result<Answer, DnsError> {
        let servers = self.servers()?;
        let answer = match &question {
            Question::Hosts { name, port, family } => servers.hosts(name, *port, *family).await,
            Question::Services { name, family } => servers.services(name, *family).await,
        };
        if answer.is_err() {
            // Perhaps the servers have changed.
            *self.servers.lock() = None;
        }
        answer
    }
}

impl Service<Question> for Dns {
    type Response = Answer;
    type Error = DnsError;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, DnsError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DnsError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, question: Question) -> Self::Future {
        Box::pin(self.clone().answer(question))
    }
}

impl Servers {
    fn new(
        config: ResolverConfig,
        mut options: ResolverOpts,
        port: Option<u16>,
    ) -> Result<Self, NetError> {
        let search = config.search().into();
        let ndots = options.ndots;
        let (domain, search_domains, mut servers) = config.into_parts();
        for server in &mut servers {
            for connection in &mut server.connections {
                connection.port = port.unwrap_or(connection.port);
            }
        }
        options.cache_size = 0;
        options.timeout = options.timeout.min(SERVER_TIMEOUT);
        let config = ResolverConfig::from_parts(domain, search_domains, servers);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Ok(Self {
            resolver: builder.build()?,
            search,
            ndots,
        })
    }

    /// The full names to try for one that was written, as resolv.conf(5) has it. The library would do this, too, but counts a
    /// server's failure at one of them as if there were no such name when a later one does not exist.
    fn candidates(&self, written: &str) -> Result<Vec<Name>, DnsError> {
        let wrong = || DnsError::Name(written.to_owned());
        let mut name = Name::from_str_relaxed(written).map_err(|_| wrong())?;
        if name.is_fqdn() {
            return Ok(vec![name]);
        }
        let searched = self
            .search
            .iter()
            .filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut candidates: Vec<Name> = searched.collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        name.set_fqdn(true);
        let place = if dots >= self.ndots {
            0
        } else {
            candidates.len()
        };
        candidates.insert(place, name);
        Ok(candidates)
    }

    /// The records of one type of the first candidate that has any; none: there are none.
    async fn lookup(&self, name: Name, kind: RecordType) -> Result<Option<Lookup>, DnsError> {
        let text = name.to_string();
        match self.resolver.lookup(name, kind).await {
            Ok(lookup) => Ok(Some(lookup)),
            Err(NetError::Dns(Refusal::NoRecordsFound(_))) => Ok(None),
            Err(source) => Err(DnsError::Lookup { name: text, source }),
        }
    }

    async fn hosts(&self, name: &str, port: u16, family: Family) -> Result<Answer, DnsError> {
        let mut failure = None;
        for candidate in self.candidates(name)? {
            match self.addresses(&candidate, port, family).await {
                Ok(answer) if answer.pods.is_empty() => {}
                Ok(answer) => return Ok(answer),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or_else(|| Ok(nothing()), Err)
    }

    /// The addresses of one full name: those of `family`, or the others where it has none.
    async fn addresses(&self, name: &Name, port: u16, family: Family) -> Result<Answer, DnsError> {
        let (v4, v6) = tokio::join!(
            self.lookup(name.clone(), RecordType::A),
            self.lookup(name.clone(), RecordType::AAAA),
        );
        let (wanted, other) = match family {
            Family::V4 => (v4, v6),
            Family::V6 => (v6, v4),
        };
        // That the wanted ones could not be asked for says nothing about whether they are there.
        let answer = match wanted? {
            Some(lookup) => addresses(lookup.answers(), port),
            None => nothing(),
        };
        if !answer.pods.is_empty() {
            return Ok(answer);
        }
        Ok(other?.map_or_else(nothing, |lookup| addresses(lookup.answers(), port)))
    }

    async fn services(&self, name: &str, family: Family) -> Result<Answer, DnsError> {
        let mut failure = None;
        for candidate in self.candidates(name)? {
            match self.lookup(candidate, RecordType::SRV).await {
                Ok(Some(lookup)) => return self.targets(&lookup, family).await,
                Ok(None) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or_else(|| Ok(nothing()), Err)
    }

    /// The addresses of all targets. Kubernetes sends them along, and then nothing more is asked. Priorities and weights say
    /// where to go first; here every pod is dialed.
    async fn targets(&self, lookup: &Lookup, family: Family) -> Result<Answer, DnsError> {
        let mut found = Answer {
            pods: BTreeSet::new(),
            ttl: Duration::MAX,
        };
        let asked = lookup.answers().iter().filter_map(|record| {
            let RData::SRV(service) = &record.data else {
                return None;
            };
            found.ttl = found.ttl.min(ttl(record));
            // RFC 2782: a target of "." says that there is decidedly no such service.
            (!service.target.is_root()).then_some((&service.target, service.port))
        });
        let asked: Vec<(&Name, u16)> = asked.collect();
        let answers = asked.into_iter().map(|(target, port)| {
            let glue = lookup
                .additionals()
                .iter()
                .filter(|record| record.name == *target);
            let known = addresses_of(glue, port, family);
            async move {
                if known.pods.is_empty() {
                    self.addresses(target, port, family).await
                } else {
                    Ok(known)
                }
            }
        });
        for answer in join_all(answers).await {
            let answer = answer?;
            found.ttl = found.ttl.min(answer.ttl);
            found.pods.extend(answer.pods);
        }
        Ok(found)
    }
}

fn nothing() -> Answer {
    Answer {
        pods: BTreeSet::new(),
        ttl: NOTHING_TTL,
    }
}

fn ttl(record: &Record) -> Duration {
    Duration::from_secs(record.ttl.into())
}

fn ip(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(IpAddr::from(address.0).to_canonical()),
        _ => None,
    }
}

fn addresses<'a>(records: impl IntoIterator<Item = &'a Record>, port: u16) -> Answer {
    let mut answer = Answer {
        pods: BTreeSet::new(),
        ttl: Duration::MAX,
    };
    for record in records {
        if let Some(ip) = ip(record) {
            answer.pods.insert(SocketAddr::new(ip, port));
            answer.ttl = answer.ttl.min(ttl(record));
        }
    }
    answer
}

/// Those of `family`.
fn addresses_of<'a>(
    records: impl Iterator<Item = &'a Record>,
    port: u16,
    family: Family,
) -> Answer {
    addresses(
        records.filter(|record| ip(record).is_some_and(|ip| Family::of(ip) == family)),
        port,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(resolv_conf: &str) -> Servers {
        let (config, options) = parse_resolv_conf(resolv_conf).unwrap();
        Servers::new(config, options, None).unwrap()
    }

    fn tried(servers: &Servers, name: &str) -> Vec<String> {
        let names = servers.candidates(name).unwrap();
        names.iter().map(Name::to_string).collect()
    }

    #[tokio::test]
    async fn short_names_get_the_search_domains_and_long_ones_are_tried_as_they_are_first() {
        let kubernetes = servers(
            "nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local\noptions ndots:5\n",
        );
        assert_eq!(
            tried(&kubernetes, "relay"),
            [
                "relay.ns.svc.cluster.local.",
                "relay.svc.cluster.local.",
                "relay."
            ]
        );
        assert_eq!(
            tried(&kubernetes, "relay.ns.svc.cluster.local"),
            [
                "relay.ns.svc.cluster.local.ns.svc.cluster.local.",
                "relay.ns.svc.cluster.local.svc.cluster.local.",
                "relay.ns.svc.cluster.local."
            ]
        );
        assert_eq!(tried(&kubernetes, "relay."), ["relay."]);
        let plain = servers("nameserver 127.0.0.1\nsearch example.com\n");
        assert_eq!(tried(&plain, "a.b"), ["a.b.", "a.b.example.com."]);
        assert_eq!(tried(&plain, "a"), ["a.example.com.", "a."]);
        assert!(plain.candidates(&"x".repeat(300)).is_err());
    }

    #[tokio::test]
    async fn a_file_without_a_server_is_of_no_use_and_says_so() {
        let dns = Dns::at(Path::new("/no/such/resolv.conf"));
        let error = dns.servers().unwrap_err().to_string();
        assert!(
            error.starts_with("/no/such/resolv.conf is of no use: "),
            "{error}"
        );
    }
}
