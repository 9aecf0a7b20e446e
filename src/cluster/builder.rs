//! The fabric, put together: what it is told, the order in which its parts start, and the handle that stops them.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::Meter;
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, watch};
use tokio::task::AbortHandle;
use tower::ServiceExt as _;
use tracing::warn;

use super::dial::{Dial, TcpDial};
use super::discovery::{Discovered, Discovery, Dns, INTERVAL, Resolver, Source};
use super::hello::{ClusterSecrets, Identity};
use super::listen::Accept;
use super::owners::{Owners, OwnersConfig};
use super::streams::{Streams, StreamsConfig};
use super::tls::PodTls;
use crate::crosspod::{CrossPod, Directory, LocalPeers, Locate, PodAddr};
use crate::outbox::QueuePolicy;
use crate::sockets;
use crate::telemetry::counters::Counters;
use crate::time::Clock;

/// What may wait for one pod by default, in bytes.
const QUEUE_BYTES: usize = 16 << 20;

/// The relay that a fabric serves, as the fabric sees it.
pub trait Host {
    /// Its peers.
    fn local_peers(&self) -> Arc<dyn LocalPeers>;
    /// Where messages are counted.
    fn counters(&self) -> &Arc<Counters>;
    /// The limits of its queues, and the memory for all of them.
    fn queue_policy(&self) -> &Arc<QueuePolicy>;
    /// Where the fabric's metrics are registered.
    fn meter(&self) -> &Meter;
    /// From now on it is one of several. False if it already is.
    fn join(&self, forwarder: Box<dyn CrossPod>, directory: &Arc<dyn Directory>) -> bool;
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// Nobody can be found.
    #[error("a cluster needs a name or a list of its pods")]
    NoSources,
    /// What is announced must be dialed by others.
    #[error("{0} cannot be announced: give an address and a port that other pods can dial")]
    Announced(SocketAddr),
    /// A queue that would hold nothing.
    #[error("a queue of {0} bytes for a pod is too small: give at least 1 MiB")]
    Queue(usize),
    /// Discovery would ask without end.
    #[error("a discovery interval of zero")]
    Interval,
    /// The port is taken, or not ours.
    #[error("cannot listen for pods on {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The relay is in a cluster already.
    #[error("the relay is in a cluster already")]
    AlreadyJoined,
}

/// Says how a pod is one of several; made by [`Cluster::builder`].
pub struct ClusterBuilder {
    announced: SocketAddr,
    sources: Vec<Source>,
    resolver: Option<Resolver>,
    interval: Duration,
    accept: Option<Box<dyn Accept>>,
    dial: Option<Dial>,
    secrets: ClusterSecrets,
    allow_one_way: bool,
    queue_bytes: usize,
    tls: Option<PodTls>,
    clock: Clock,
    seed: Option<u64>,
}

impl fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterBuilder")
            .field("announced", &self.announced)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

impl ClusterBuilder {
    /// Where the other pods are found; may be called several times. This pod may be among them.
    #[must_use]
    pub fn sources(mut self, sources: impl IntoIterator<Item = Source>) -> Self {
        self.sources.extend(sources);
        self
    }

    /// Who answers questions for names. Default: the system's DNS.
    #[must_use]
    pub fn resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// The longest time between two questions, and between two tries to reach a pod. Default: 10 s.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Where streams of other pods come from. Default: the announced port, on all addresses.
    #[must_use]
    pub fn accept(mut self, accept: impl Accept) -> Self {
        self.accept = Some(Box::new(accept));
        self
    }

    /// What opens streams to other pods. Default: TCP.
    #[must_use]
    pub fn dial(mut self, dial: Dial) -> Self {
        self.dial = Some(dial);
        self
    }

    /// The secrets pods prove themselves with. Default: none.
    #[must_use]
    pub fn secrets(mut self, secrets: ClusterSecrets) -> Self {
        self.secrets = secrets;
        self
    }

    /// Whether messages of peers may go to pods that were dialed and have not proven a secret. Default: no.
    #[must_use]
    pub fn allow_one_way(mut self, allow: bool) -> Self {
        self.allow_one_way = allow;
        self
    }

    /// What may wait for one pod, in bytes. Default: 16 MiB.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// Mutual TLS between pods. Default: none.
    #[must_use]
    pub fn tls(mut self, tls: PodTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// What registrations and HELLOs are dated with. Default: the system's clock.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Where the chance in the pauses between tries comes from, for tests that repeat. Default: chance.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Starts, in order: the listener, the owner table, the relay's membership, the streams, discovery. Needs a tokio runtime. When a
    /// step fails, what was built before it is gone.
    ///
    /// # Errors
    /// Those of [`ClusterError`].
    pub fn start(self, relay: &impl Host) -> Result<ClusterHandle, ClusterError> {
        let announced = self.announced;
        if announced.ip().is_unspecified() || announced.port() == 0 {
            return Err(ClusterError::Announced(announced));
        }
        if self.sources.is_empty() {
            return Err(ClusterError::NoSources);
        }
        if self.queue_bytes < 1 << 20 {
            return Err(ClusterError::Queue(self.queue_bytes));
        }
        if self.interval.is_zero() {
            return Err(ClusterError::Interval);
        }
        let accept = match self.accept {
            Some(accept) => accept,
            None => Box::new(listen(announced.port())?),
        };
        if self.secrets.is_empty() {
            warn!(
                "there is no cluster secret: whoever reaches the cluster's port can join it and read who is where"
            );
        }
        let own = PodAddr(announced.to_string());
        let policy = relay.queue_policy().for_pods(self.queue_bytes);
        let meter = relay.meter();
        let owners = Owners::new(OwnersConfig {
            us: own.clone(),
            clock: self.clock.clone(),
            counters: Arc::clone(relay.counters()),
            policy: Arc::clone(&policy),
            local: Arc::downgrade(&relay.local_peers()),
            meter: meter.clone(),
        });
        let directory: Arc<dyn Directory> = Arc::clone(&owners) as Arc<_>;
        if !relay.join(owners.forwarder(), &directory) {
            return Err(ClusterError::AlreadyJoined);
        }
        let mut tasks = vec![tokio::spawn(Arc::clone(&owners).run()).abort_handle()];
        let resolver = self
            .resolver
            .unwrap_or_else(|| Resolver::new(Dns::system().map_err(Into::into)));
        let (discovery, discovered) =
            Discovery::new(announced, self.sources, resolver, self.interval, meter);
        let streams = Streams::start(
            StreamsConfig {
                identity: Identity {
                    own,
                    secrets: self.secrets,
                    clock: self.clock,
                },
                policy,
                meter: meter.clone(),
                allow_one_way: self.allow_one_way,
                tls: self.tls,
                accept,
                dial: self
                    .dial
                    .unwrap_or_else(|| Dial::new(TcpDial.map_err(Into::into))),
                backoff_most: self.interval,
                seed: self.seed.unwrap_or_else(rand::random),
            },
            Arc::clone(&owners) as Arc<_>,
            discovered.clone(),
        );
        tasks.push(tokio::spawn(discovery.run()).abort_handle());
        Ok(ClusterHandle(Arc::new(Running {
            announced,
            discovered,
            streams,
            owners,
            tasks,
            stopped: OnceCell::new(),
        })))
    }
}

/// A listening socket on all addresses, or on those of IPv4 where the kernel has no IPv6.
fn listen(port: u16) -> Result<TcpListener, ClusterError> {
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    sockets::listen(all)
        .or_else(|_| sockets::listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))
        .map_err(|source| ClusterError::Bind {
            address: all,
            source,
        })
}

/// Several relays that act as one.
#[derive(Debug, Clone, Copy)]
pub struct Cluster;

impl Cluster {
    /// A pod that announces this address, by which the others dial it.
    #[must_use]
    pub fn builder(announced: SocketAddr) -> ClusterBuilder {
        ClusterBuilder {
            announced: SocketAddr::new(announced.ip().to_canonical(), announced.port()),
            sources: Vec::new(),
            resolver: None,
            interval: INTERVAL,
            accept: None,
            dial: None,
            secrets: ClusterSecrets::default(),
            allow_one_way: false,
            queue_bytes: QUEUE_BYTES,
            tls: None,
            clock: Clock::system(),
            seed: None,
        }
    }
}

#[derive(Debug)]
struct Running {
    announced: SocketAddr,
    discovered: watch::Receiver<Discovered>,
    streams: Arc<Streams>,
    owners: Arc<Owners>,
    /// In the order in which they were started.
    tasks: Vec<AbortHandle>,
    stopped: OnceCell<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in self.tasks.iter().rev() {
            task.abort();
        }
    }
}

/// A fabric at work; cheap to clone. When the last clone is dropped without [`stop`](Self::stop), discovery ends and streams go on.
#[derive(Debug, Clone)]
pub struct ClusterHandle(Arc<Running>);

impl ClusterHandle {
    /// The address that this pod announces.
    #[must_use]
    pub fn announced(&self) -> SocketAddr {
        self.0.announced
    }

    /// What discovery has found so far; its first successful round makes the pod ready.
    #[must_use]
    pub fn discovered(&self) -> watch::Receiver<Discovered> {
        self.0.discovered.clone()
    }

    /// Waits until the first discovery round is done. Cancel-safe.
    pub async fn ready(&self) {
        let mut discovered = self.0.discovered.clone();
        // An error means that discovery has been stopped: there is nothing left to wait for.
        let _ = discovered.wait_for(|found| found.rounds > 0).await;
    }

    /// How many pods there is a stream to.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.0.streams.links.len()
    }

    /// How many peers are connected to any pod, as far as this pod knows.
    #[must_use]
    pub fn known_peers(&self) -> usize {
        self.0.owners.len()
    }

    /// Asks which other pod has a peer.
    #[must_use]
    pub fn locate(&self) -> Locate {
        self.0.owners.locate_service()
    }

    /// Stops, in reverse: discovery, then the streams, once what is queued has been written, then the owner table. Once, however
    /// often it is called: a second call waits for the first. Cancel-safe: another call goes on.
    pub async fn stop(&self) {
        let stop = async {
            let mut tasks = self.0.tasks.iter().rev();
            if let Some(discovery) = tasks.next() {
                discovery.abort();
            }
            self.0.streams.stop().await;
            for task in tasks {
                task.abort();
            }
        };
        self.0.stopped.get_or_init(|| stop).await;
    }
}
