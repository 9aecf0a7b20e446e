//! The relay without listeners: a cheaply cloned handle that is fed with connections.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use opentelemetry::metrics::{Meter, MeterProvider};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::auth::{DynValidator, Validator};
use crate::crosspod::{CrossPod, DeliverError, LocalPeers, Locate};
use crate::memory;
use crate::outbox::QueuePolicy;
use crate::peer::{self, Closed, HandshakeError, Incoming, Shared};
use crate::proto::limits::{MESSAGE_MAX, TRANSPORT_HEADER_LEN};
use crate::proto::peer::{CLOSE, EncodeError, MessageType, encode_auth_response, message_type};
use crate::proto::{InstanceUrl, InstanceUrlError, PeerId};
use crate::routing::{EndReason, Presence, Registration, Registry};
use crate::stack::drain::Drain;
use crate::telemetry::counters::{Counters, DropReason};
use crate::telemetry::instruments::{self, Gauges, Instruments};
use crate::ticks::Ticks;
use crate::transport::{IntoTransport, RemoteAddr, TransportKind};

/// The longest a shutdown may take (peer-protocol.md, *A connected peer*, Shutdown).
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// A peer that sent something within this time is active (operations.md, *Metrics*).
const ACTIVE: Duration = Duration::from_secs(30);

/// Smallest queue of one receiver: less would not hold two of the longest messages.
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
    max_handshakes: usize,
    max_subscriptions: usize,
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
            max_handshakes: 16_384,
            max_subscriptions: 65_536,
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

    /// How many connections may be authenticating at once; more are refused. Default: 16,384.
    #[must_use]
    pub fn max_handshakes(mut self, connections: usize) -> Self {
        self.max_handshakes = connections.min(Semaphore::MAX_PERMITS);
        self
    }

    /// How many IDs one peer may be subscribed to. Default: 65,536.
    #[must_use]
    pub fn max_subscriptions(mut self, ids: usize) -> Self {
        self.max_subscriptions = ids;
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
            instruments: Instruments::new(
                &meter,
                &counters,
                &TransportKind::ALL.map(TransportKind::name),
            ),
            counters,
            ticks,
            drain: Drain::default(),
            handshakes: Arc::new(Semaphore::new(self.max_handshakes)),
            cross_pod: self.cross_pod,
            locate: self.locate,
            auth_response,
            health_check_threshold: self.health_check_threshold,
            max_subscriptions: self.max_subscriptions,
            serial: AtomicU64::new(0),
        });
        instruments::observe_gauges(&meter, &shared);
        Ok(Relay {
            shared,
            instance_url: Arc::new(instance_url),
            path: self.path.into(),
        })
    }
}

impl Gauges for Shared {
    fn active_and_idle(&self) -> (u64, u64) {
        let (mut active, mut all) = (0, 0);
        self.registry.for_each(|registration| {
            all += 1;
            let silent = Duration::from_millis(u64::from(self.ticks.since(registration.heard())));
            active += u64::from(silent <= ACTIVE);
        });
        (active, all - active)
    }

    fn queue_bytes_and_budget(&self) -> (u64, u64) {
        (self.policy.used() as u64, self.policy.budget() as u64)
    }
}

/// A relay without listeners. Clones are handles to the same relay.
#[derive(Debug, Clone)]
pub struct Relay {
    shared: Arc<Shared>,
    instance_url: Arc<InstanceUrl>,
    path: Arc<str>,
}

impl Relay {
    /// Starts building one.
    #[must_use]
    pub fn builder() -> RelayBuilder {
        RelayBuilder::default()
    }

    /// What clients are told to connect to.
    #[must_use]
    pub fn instance_url(&self) -> &InstanceUrl {
        &self.instance_url
    }

    /// The path of the WebSocket route.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Takes one connection from its first message to its close; the future is the connection. Dropping it ends the
    /// connection without a word.
    ///
    /// # Errors
    /// If the connection never became a peer; that has been counted and logged.
    pub async fn accept(
        &self,
        connection: impl IntoTransport,
        remote: RemoteAddr,
    ) -> Result<Closed, HandshakeError> {
        self.shared.ticks.start();
        let incoming = Incoming {
            transport: connection.into_transport(&self.shared.policy),
            remote,
            accepted: Instant::now(),
        };
        peer::accept(&self.shared, incoming).await
    }

    /// Who is connected here.
    #[must_use]
    pub fn peers(&self) -> Peers<'_> {
        Peers(&self.shared)
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The peers of this pod as a fabric between pods sees them.
    #[must_use]
    pub fn local_peers(&self) -> Arc<dyn LocalPeers> {
        Arc::clone(&self.shared) as Arc<dyn LocalPeers>
    }

    /// Whether a shutdown has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.drain.is_started()
    }

    /// Takes no more peers, tells those connected *close*, and waits until all connections have ended, at most 30 s.
    /// Returns the number of peers that were still connected then. Cancel-safe; calling it again waits again.
    pub async fn shutdown(&self) -> usize {
        self.shared.drain.start();
        self.shared
            .registry
            .for_each(|registration| peer::say_goodbye(registration));
        // Who does not end in time is cut off with the process.
        let _ = timeout(SHUTDOWN_TIMEOUT, self.shared.drain.done()).await;
        self.shared.registry.len()
    }

    pub(crate) fn instruments(&self) -> &Instruments {
        &self.shared.instruments
    }

    pub(crate) fn drain(&self) -> &Drain {
        &self.shared.drain
    }
}

/// The peers connected to a relay: for looking, not for changing; only connections themselves come and go.
#[derive(Debug, Clone, Copy)]
pub struct Peers<'a>(&'a Arc<Shared>);

impl Peers<'_> {
    /// How many are connected.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.registry.len()
    }

    /// Whether none is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this peer is connected.
    #[must_use]
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.0.registry.contains(peer)
    }

    /// A handle to this peer's connection.
    #[must_use]
    pub fn get(&self, peer: &PeerId) -> Option<Peer> {
        self.0.registry.get(peer).map(|registration| Peer {
            registration,
            counters: Arc::clone(&self.0.counters),
        })
    }

    /// The IDs of all connected peers, in no order; no snapshot, as peers come and go meanwhile.
    #[must_use]
    pub fn ids(&self) -> Vec<PeerId> {
        let mut ids = Vec::with_capacity(self.len());
        self.0
            .registry
            .for_each(|registration| ids.push(*registration.peer()));
        ids
    }
}

/// A handle to the connection of one peer. It stays bound to that connection, also when the peer connects anew.
#[derive(Debug, Clone)]
pub struct Peer {
    registration: Arc<Registration>,
    counters: Arc<Counters>,
}

impl Peer {
    /// Whose connection it is.
    #[must_use]
    pub fn id(&self) -> &PeerId {
        self.registration.peer()
    }

    /// Where it comes from.
    #[must_use]
    pub fn remote(&self) -> RemoteAddr {
        self.registration.remote()
    }

    /// What carries it.
    #[must_use]
    pub fn transport(&self) -> TransportKind {
        self.registration.kind()
    }

    /// Whether this is still the connection to which messages for the peer go.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.registration.is_current()
    }

    /// Queues a transport message as it is (38 to 8820 bytes, stamped by its sender). Never waits.
    ///
    /// # Errors
    /// As [`LocalPeers::deliver`].
    pub fn send(&self, message: &[u8]) -> Result<(), DeliverError> {
        deliver(&self.registration, &self.counters, message)
    }

    /// Ends the connection at once, without *close*.
    pub fn close(&self) {
        self.registration.end(EndReason::Requested);
        self.registration.outbox().abort();
    }

    /// Writes what is queued, then *close*, and ends the connection; a peer that does not take it is cut off after 3 s.
    pub fn close_gracefully(&self) {
        self.registration.outbox().finish(Some(&CLOSE), &[]);
        self.registration.end(EndReason::Requested);
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id().fmt(f)
    }
}

fn deliver(
    registration: &Registration,
    counters: &Counters,
    message: &[u8],
) -> Result<(), DeliverError> {
    if !(TRANSPORT_HEADER_LEN..=MESSAGE_MAX).contains(&message.len())
        || message_type(message) != Ok(MessageType::Transport)
    {
        counters.dropped(DropReason::Malformed, 1);
        return Err(DeliverError::Malformed);
    }
    registration.outbox().push(message).map_err(|reason| {
        counters.dropped(reason, 1);
        DeliverError::Refused(reason)
    })?;
    registration.outbox().flush();
    Ok(())
}

impl LocalPeers for Shared {
    fn deliver(&self, destination: &PeerId, message: &[u8]) -> Result<(), DeliverError> {
        let registration = self
            .registry
            .get(destination)
            .ok_or(DeliverError::LocalPeerGone)?;
        deliver(&registration, &self.counters, message)
    }

    fn has_peer(&self, peer: &PeerId) -> bool {
        self.registry.contains(peer)
    }
}
