//! What a relay is told before it starts, checked as a whole.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::metrics::{Meter, MeterProvider};

use super::Relay;
use crate::admission::{Admission, Limits};
use crate::auth::{DynValidator, Validator};
use crate::crosspod::{CrossPod, Locate};
use crate::memory::{self, MemoryGuard};
use crate::outbox::QueuePolicy;
use crate::peer::Shared;
use crate::proto::peer::{EncodeError, encode_auth_response};
use crate::proto::{InstanceUrl, InstanceUrlError};
use crate::proxies::TrustedProxies;
use crate::routing::{Presence, Registry};
use crate::stack::drain::Drain;
use crate::telemetry::counters::Counters;
use crate::telemetry::instruments::{self, Instruments};
use crate::ticks::Ticks;
use crate::transport::TransportKind;

/// Smallest queue of one receiver: less would not hold a few of the longest messages.
pub const PEER_QUEUE_MIN: usize = 64 * 1024;

/// Why a relay could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The exposed address makes no instance URL.
    #[error("exposed address: {0}")]
    ExposedAddress(#[from] InstanceUrlError),
    /// The instance URL is too long to be told to clients.
    #[error("exposed address: {0}")]
    InstanceUrl(#[from] EncodeError),
    /// No validator was given.
    #[error("no validator given: a relay must know whom to let in")]
    NoValidator,
    /// The route is no path.
    #[error(
        "relay path {0:?} must start with '/' and hold none of '?', '#', '{{', '}}', '*' or spaces"
    )]
    Path(String),
    /// A queue that could not hold messages.
    #[error("a peer's queue of {0} bytes is too small, {PEER_QUEUE_MIN} is the least")]
    PeerQueue(usize),
}

/// Makes a [`Relay`].
///
/// ```
/// use trunkline::auth::AllowAll;
/// use trunkline::Relay;
///
/// let relay = Relay::builder().exposed_address("relay.example.com:443").validator(AllowAll).build()?;
/// assert_eq!(relay.instance_url().as_str(), "rel://relay.example.com:443");
/// # Ok::<(), trunkline::BuildError>(())
/// ```
#[derive(Debug)]
pub struct RelayBuilder {
    exposed_address: String,
    tls: bool,
    path: String,
    validator: Option<Arc<dyn DynValidator>>,
    meter: Option<Meter>,
    cross_pod: Option<Box<dyn CrossPod>>,
    locate: Option<Locate>,
    health_check_threshold: u32,
    peer_queue_bytes: usize,
    queue_max_age: Duration,
    memory_limit: Option<usize>,
    max_subscriptions: usize,
    limits: Limits,
    trusted_proxies: TrustedProxies,
}

impl Default for RelayBuilder {
    fn default() -> Self {
        Self {
            exposed_address: String::new(),
            tls: false,
            path: "/relay".to_owned(),
            validator: None,
            meter: None,
            cross_pod: None,
            locate: None,
            health_check_threshold: 1,
            peer_queue_bytes: 512 * 1024,
            queue_max_age: Duration::from_secs(1),
            memory_limit: None,
            max_subscriptions: 65_536,
            limits: Limits::default(),
            trusted_proxies: TrustedProxies::default(),
        }
    }
}

impl RelayBuilder {
    /// The address that clients are told to use: `host[:port]`, `rel://...` or `rels://...`. Required.
    #[must_use]
    pub fn exposed_address(mut self, address: impl Into<String>) -> Self {
        self.exposed_address = address.into();
        self
    }

    /// Whether TLS ends in this process: an exposed address without a scheme then becomes `rels://`. Default: no.
    #[must_use]
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// The path of the WebSocket route. Default: `/relay`.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Who is let in. Required.
    #[must_use]
    pub fn validator(mut self, validator: impl Validator) -> Self {
        self.validator = Some(Arc::new(validator));
        self
    }

    /// Where metrics go. Default: nowhere.
    #[must_use]
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Takes messages for peers that are not here. Default: they are dropped and counted.
    #[must_use]
    pub fn cross_pod(mut self, fabric: impl CrossPod + 'static) -> Self {
        self.cross_pod = Some(Box::new(fabric));
        self
    }

    /// Answers on which other pod a peer is, for subscriptions. Default: nobody is asked.
    #[must_use]
    pub fn locate(mut self, locate: Locate) -> Self {
        self.locate = Some(locate);
        self
    }

    /// So many windows of 45 s without an answered health check end a connection. Default: 1.
    #[must_use]
    pub fn health_check_threshold(mut self, windows: u32) -> Self {
        self.health_check_threshold = windows.max(1);
        self
    }

    /// Bytes that may wait for one receiver. Default: 512 KiB.
    #[must_use]
    pub fn peer_queue_bytes(mut self, bytes: usize) -> Self {
        self.peer_queue_bytes = bytes;
        self
    }

    /// How long a message may wait for its receiver. Default: 1 s.
    #[must_use]
    pub fn queue_max_age(mut self, age: Duration) -> Self {
        self.queue_max_age = age;
        self
    }

    /// Bytes of memory that all queues together may hold. Default: half of what the machine or the control group has.
    #[must_use]
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// How many connections may be on their way to being peers at once, from their first byte on; more are refused. One IPv4
    /// address or IPv6 /64 may have a sixteenth of them, 64 in any case; its others wait for their turn. 0: no limit.
    /// Default: 16,384.
    #[must_use]
    pub fn max_handshakes(mut self, connections: usize) -> Self {
        self.limits.handshakes = connections;
        self
    }

    /// How many connections there may be, peers and others; more are refused. 0: no limit. Default: 0.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.limits.connections = connections;
        self
    }

    /// How many of them one IPv4 address or one IPv6 /64 may have. 0: no limit. Default: 16,384.
    #[must_use]
    pub fn max_connections_per_address(mut self, connections: usize) -> Self {
        self.limits.connections_per_address = connections;
        self
    }

    /// How many connections a second one such address may make in the long run; at once it may make as many as it may have.
    /// 0: no limit. Default: 500.
    #[must_use]
    pub fn handshake_rate_per_address(mut self, per_second: u32) -> Self {
        self.limits.handshake_rate_per_address = per_second;
        self
    }

    /// How many IDs one peer may be subscribed to. Default: 65,536.
    #[must_use]
    pub fn max_subscriptions(mut self, ids: usize) -> Self {
        self.max_subscriptions = ids;
        self
    }

    /// Proxies whose word about their client's address is believed, by the routes of [`Relay::router`] and by a listener with
    /// the PROXY protocol ([`ServerBuilder::proxy_protocol`](crate::ServerBuilder::proxy_protocol)). Default: none.
    #[must_use]
    pub fn trusted_proxies(mut self, proxies: TrustedProxies) -> Self {
        self.trusted_proxies = proxies;
        self
    }

    /// Checks everything and builds the relay. Nothing is bound and no task is started.
    ///
    /// # Errors
    /// If something required is missing or cannot be used.
    pub fn build(self) -> Result<Relay, BuildError> {
        let instance_url = InstanceUrl::from_exposed_address(&self.exposed_address, self.tls)?;
        if instance_url.is_plain_over_tls() {
            tracing::warn!(
                instance_url = instance_url.as_str(),
                "the exposed address says rel://, but TLS is on: clients will be told to connect without it"
            );
        }
        let auth_response = encode_auth_response(instance_url.as_str())?;
        let validator = self.validator.ok_or(BuildError::NoValidator)?;
        let forbidden = |c: char| matches!(c, '?' | '#' | '{' | '}' | '*') || c.is_whitespace();
        if !self.path.starts_with('/') || self.path.contains(forbidden) {
            return Err(BuildError::Path(self.path));
        }
        if self.peer_queue_bytes < PEER_QUEUE_MIN {
            return Err(BuildError::PeerQueue(self.peer_queue_bytes));
        }
        let counters = Arc::<Counters>::default();
        let ticks = Ticks::default();
        let meter = self.meter.unwrap_or_else(|| {
            opentelemetry::metrics::noop::NoopMeterProvider::new().meter("trunkline")
        });
        let registry = Arc::<Registry>::default();
        let shared = Arc::new(Shared {
            validator,
            presence: Arc::new(Presence::new(Arc::clone(&registry), Arc::clone(&counters))),
            registry,
            policy: QueuePolicy::new(
                self.peer_queue_bytes,
                self.queue_max_age,
                self.memory_limit.unwrap_or_else(memory::queue_budget),
                Arc::clone(&counters),
                ticks.clone(),
            ),
            memory: MemoryGuard::new(ticks.clone()),
            instruments: Instruments::new(
                &meter,
                &counters,
                &TransportKind::ALL.map(TransportKind::name),
            ),
            counters,
            ticks,
            drain: Drain::default(),
            cross_pod: self.cross_pod.map_or_else(OnceLock::new, OnceLock::from),
            locate: self.locate,
            auth_response,
            health_check_threshold: self.health_check_threshold,
            max_subscriptions: self.max_subscriptions,
            serial: AtomicU64::new(0),
        });
        instruments::observe_gauges(&meter, &shared);
        Ok(Relay {
            admission: Admission::new(self.limits, &shared.instruments),
            shared,
            instance_url: Arc::new(instance_url),
            path: self.path.into(),
            trusted_proxies: self.trusted_proxies,
        })
    }
}
