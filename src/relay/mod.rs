//! The relay without listeners: a cheaply cloned handle that is fed with connections.

mod builder;
mod goodbye;
mod peers;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use builder::{BuildError, PEER_QUEUE_MIN, RelayBuilder};
pub use peers::{Peer, Peers};

use crate::admission::{Admission, Permit};
use crate::crosspod::{CrossPod, Directory, LocalPeers};
use crate::outbox::QueuePolicy;
use crate::peer::{self, Closed, HandshakeError, Incoming, Shared};
use crate::proto::InstanceUrl;
use crate::proxies::TrustedProxies;
use crate::stack::drain::Drain;
use crate::telemetry::counters::Counters;
use crate::telemetry::instruments::{Gauges, Instruments};
use crate::telemetry::spans::ConnectionSpan;
use crate::transport::{IntoTransport, MessageTransport as _, RemoteAddr};

/// The longest a shutdown may take (peer-protocol.md, *A connected peer*, Shutdown).
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// A peer that sent something within this time is active (operations.md, *Metrics*).
const ACTIVE: Duration = Duration::from_secs(30);

/// A relay is part of one cluster at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("relay has joined a cluster already")]
pub struct AlreadyJoined;

/// A relay without listeners. Clones are handles to the same relay.
#[derive(Debug, Clone)]
pub struct Relay {
    shared: Arc<Shared>,
    admission: Admission,
    instance_url: Arc<InstanceUrl>,
    path: Arc<str>,
    trusted_proxies: TrustedProxies,
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

    /// The proxies whose word about their client's address is believed.
    #[must_use]
    pub fn trusted_proxies(&self) -> &TrustedProxies {
        &self.trusted_proxies
    }

    /// Takes one connection from its first message to its close; the future is the connection. Dropping it ends the
    /// connection without a word. It holds no place under the limits: ask [`Relay::admission`] first, and keep the permit as long as
    /// this future, where connections come from whoever likes. It counts as a handshake until it is a peer.
    ///
    /// # Errors
    /// If the connection never became a peer; that has been counted and logged.
    pub async fn accept(
        &self,
        connection: impl IntoTransport,
        remote: RemoteAddr,
    ) -> Result<Closed, HandshakeError> {
        let incoming = self.incoming(connection, remote);
        let protocol = incoming.transport.kind().name();
        let span = ConnectionSpan::start(&remote, protocol, None);
        peer::accept(&self.shared, incoming, span, self.admission.unplaced()).await
    }

    /// The same, where its span has begun already and it holds a place, which is kept to its end.
    pub(crate) async fn accept_within(
        &self,
        span: ConnectionSpan,
        connection: impl IntoTransport,
        remote: RemoteAddr,
        permit: Permit,
    ) -> Result<Closed, HandshakeError> {
        let incoming = self.incoming(connection, remote);
        peer::accept(&self.shared, incoming, span, permit).await
    }

    fn incoming<C: IntoTransport>(
        &self,
        connection: C,
        remote: RemoteAddr,
    ) -> Incoming<C::Transport> {
        self.shared.ticks.start();
        Incoming {
            transport: connection.into_transport(&self.shared.policy),
            remote,
            accepted: Instant::now(),
        }
    }

    /// Who gets a place: the limits on connections and handshakes, in all and for each address.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Who is connected here.
    #[must_use]
    pub fn peers(&self) -> Peers<'_> {
        Peers(&self.shared)
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// The limits of this relay's queues, and the memory for all of them: a fabric's queues share it.
    #[must_use]
    pub fn queue_policy(&self) -> &Arc<QueuePolicy> {
        &self.shared.policy
    }

    /// The peers of this pod as a fabric between pods sees them.
    #[must_use]
    pub fn local_peers(&self) -> Arc<dyn LocalPeers> {
        Arc::clone(&self.shared) as Arc<dyn LocalPeers>
    }

    /// Makes this relay one of several: messages for peers that are not here go to `cross_pod`, unless the builder was given one, and
    /// presence is that of all pods. A fabric that needs this relay's handles to be built joins it so. Peers that are connected already
    /// are told to the directory.
    ///
    /// # Errors
    /// If it has joined already.
    pub fn join(
        &self,
        cross_pod: Box<dyn CrossPod>,
        directory: &Arc<dyn Directory>,
    ) -> Result<(), AlreadyJoined> {
        // The directory first: whoever can send to other pods is known to them.
        if !self.shared.presence.join(directory) {
            return Err(AlreadyJoined);
        }
        self.shared
            .cross_pod
            .set(cross_pod)
            .map_err(|_| AlreadyJoined)
    }

    /// Whether a shutdown has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.drain.is_started()
    }

    pub(crate) fn instruments(&self) -> &Instruments {
        &self.shared.instruments
    }

    /// Whether there is memory for one more peer; if not, that has been counted.
    pub(crate) fn has_memory(&self) -> bool {
        let has = self.shared.has_memory();
        if !has {
            let reason = HandshakeError::NoMemory.reason();
            self.shared.instruments.handshake_refused(reason);
        }
        has
    }

    pub(crate) fn drain(&self) -> &Drain {
        &self.shared.drain
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
