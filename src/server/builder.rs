//! Binds the listeners, then runs them until a future says stop.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use super::bind::{BindError, Listener, bind};
use super::quic::{self, QuicListener};
use super::quic_probe;
use super::tls::TlsLayer;
use super::{admin, listener};
use crate::cluster::ClusterHandle;
use crate::http::{Readiness, health_router, metrics_router};
use crate::proxies::ProxyProtocol;
use crate::relay::Relay;
use crate::sockets;
use crate::stack::drain::Drain;
use crate::stun;
use crate::systemd::Inherited;
use crate::telemetry::prometheus::PrometheusMetrics;
use crate::telemetry::udp::{UdpInode, observe_drops};
use crate::time::Clock;
use crate::tls::Certificates;
use crate::transport::quic::{INITIAL_MTU, INITIAL_MTU_RANGE};

/// How long answers to operators that are on their way at the end may take.
const ADMIN_LINGER: Duration = Duration::from_millis(200);

/// How many free ports of TCP are tried until one is free for UDP, too.
const PORT_ATTEMPTS: u32 = 16;

/// What to do about a socket that nobody listens on.
const UNCLAIMED: &str = "no setting listens there: ListenStream= or ListenDatagram= and \
                         the setting must name the same address";

/// Says where to listen; made by [`Server::builder`].
///
/// Each list of addresses is tried in its order, and the first that can be bound is used: `[::]:443` serves IPv4, too, and
/// `0.0.0.0:443` is for kernels without IPv6.
#[derive(Debug)]
pub struct ServerBuilder {
    relay: Relay,
    listen: Vec<SocketAddr>,
    health: Vec<SocketAddr>,
    metrics: Option<(Vec<SocketAddr>, PrometheusMetrics)>,
    stun: Vec<Vec<SocketAddr>>,
    clock: Clock,
    tls: Option<Certificates>,
    quic: bool,
    quic_initial_mtu: u16,
    probe_quic_via: Option<String>,
    proxy_protocol: ProxyProtocol,
    inherited: Inherited,
    drain: (Duration, Duration),
    cluster: Option<ClusterHandle>,
}

impl ServerBuilder {
    /// The fabric that makes this relay one of several: the server is ready when the first discovery round is done, and stops the
    /// fabric when all peers are gone.
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterHandle) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// What a shutdown gives the other pods of a cluster: for the `delay` it goes on as before, but for `/readyz`, so that no new
    /// peers are sent here; then the closes are spread evenly over the `window`. Default: none of both, all peers are closed at once.
    #[must_use]
    pub fn drain(mut self, delay: Duration, window: Duration) -> Self {
        self.drain = (delay, window);
        self
    }

    /// Where peers connect.
    #[must_use]
    pub fn listen(mut self, addresses: impl Into<Vec<SocketAddr>>) -> Self {
        self.listen = addresses.into();
        self
    }

    /// Lets peers connect with TLS, and only so, and shows them what is in this store. Tell the relay, too
    /// ([`RelayBuilder::tls`](crate::RelayBuilder::tls)). Default: no TLS.
    #[must_use]
    pub fn tls(mut self, certificates: Certificates) -> Self {
        self.tls = Some(certificates);
        self
    }

    /// Whether peers may also connect with QUIC, on UDP of the same address and port. Only with TLS. Default: yes.
    #[must_use]
    pub fn quic(mut self, quic: bool) -> Self {
        self.quic = quic;
        self
    }

    /// The UDP payload that a QUIC connection starts with, in bytes; path MTU discovery goes on from there. Anything outside
    /// [`INITIAL_MTU_RANGE`] is taken for the nearest within. Default: 1232.
    #[must_use]
    pub fn quic_initial_mtu(mut self, bytes: u16) -> Self {
        let range = INITIAL_MTU_RANGE;
        self.quic_initial_mtu = bytes.clamp(*range.start(), *range.end());
        self
    }

    /// Dials this `host:port`, the relay's own public address, once a minute with QUIC, shows what came of it as
    /// `relay_quic_reachable`, and logs a warning with the likely cause when it does not get through. Default: no probe.
    #[must_use]
    pub fn probe_quic_via(mut self, address: impl Into<String>) -> Self {
        self.probe_quic_via = Some(address.into());
        self
    }

    /// Whether peers' connections begin with a PROXY header, in front of TLS. Name the proxies that may send one with
    /// [`RelayBuilder::trusted_proxies`](crate::RelayBuilder::trusted_proxies). Default: they do not.
    #[must_use]
    pub fn proxy_protocol(mut self, mode: ProxyProtocol) -> Self {
        self.proxy_protocol = mode;
        self
    }

    /// Where `/healthz`, `/readyz` and `/health` are. Default: nowhere.
    #[must_use]
    pub fn health(mut self, addresses: impl Into<Vec<SocketAddr>>) -> Self {
        self.health = addresses.into();
        self
    }

    /// Where `/metrics` is. Default: nowhere.
    #[must_use]
    pub fn metrics(
        mut self,
        addresses: impl Into<Vec<SocketAddr>>,
        metrics: PrometheusMetrics,
    ) -> Self {
        self.metrics = Some((addresses.into(), metrics));
        self
    }

    /// Where the STUN server (RFC 8489, binding requests over UDP) answers; a further call adds a further socket. Default: nowhere.
    #[must_use]
    pub fn stun(mut self, addresses: impl Into<Vec<SocketAddr>>) -> Self {
        self.stun.push(addresses.into());
        self
    }

    /// The sockets that a service manager has bound already: each is used in the place of the one that would be bound for its address.
    /// Default: none.
    #[must_use]
    pub fn inherited(mut self, sockets: Inherited) -> Self {
        self.inherited = sockets;
        self
    }

    /// Binds all listeners. Connections queue in the kernel until [`Server::run`].
    ///
    /// # Errors
    /// The first listener that cannot be bound, or an inherited socket that none of them is; those bound before are closed.
    pub fn bind(mut self) -> Result<Server, BindError> {
        let mut inherited = std::mem::take(&mut self.inherited);
        let bound = self.bind_all(&mut inherited);
        match (inherited.left(), &bound) {
            (None, _) => bound,
            // An address that is in use may be so because the manager holds it: then that is the news.
            (Some(left), Err(error))
                if error.addresses.iter().all(|at| at.port() != left.port()) =>
            {
                bound
            }
            (Some(left), _) => Err(BindError {
                listener: Listener::Unclaimed,
                addresses: vec![left],
                source: io::Error::new(io::ErrorKind::InvalidInput, UNCLAIMED),
            }),
        }
    }

    fn bind_all(self, inherited: &mut Inherited) -> Result<Server, BindError> {
        let (peers, quic) = self.bind_peers(inherited)?;
        let mut tcp = |listener, addresses: &[SocketAddr]| {
            let passed = inherited.take_tcp(addresses).map(TcpListener::from_std);
            bind(listener, addresses, passed, sockets::listen)
        };
        let health = match self.health.as_slice() {
            [] => None,
            addresses => Some(tcp(Listener::Health, addresses)?),
        };
        let metrics = match self.metrics {
            Some((addresses, metrics)) => Some((tcp(Listener::Metrics, &addresses)?, metrics)),
            None => None,
        };
        let stun = self
            .stun
            .iter()
            .map(|addresses| {
                let passed = inherited.take_udp(addresses).map(UdpSocket::from_std);
                bind(Listener::Stun, addresses, passed, sockets::bind_udp)
            })
            .collect::<Result<_, _>>()?;
        Ok(Server {
            relay: self.relay,
            peers,
            health,
            metrics,
            stun,
            readiness: Readiness::default(),
            clock: self.clock,
            tls: self.tls,
            quic,
            probe_quic_via: self.probe_quic_via,
            proxy_protocol: self.proxy_protocol,
            drain: self.drain,
            cluster: self.cluster,
        })
    }

    /// TCP, and UDP of the same port if there is to be QUIC.
    fn bind_peers(
        &self,
        inherited: &mut Inherited,
    ) -> Result<(TcpListener, Option<QuicListener>), BindError> {
        let mut attempts = 0;
        loop {
            let passed = inherited.take_tcp(&self.listen).map(TcpListener::from_std);
            let tcp = bind(Listener::Peers, &self.listen, passed, sockets::listen)?;
            let Some(certificates) = self.tls.as_ref().filter(|_| self.quic) else {
                return Ok((tcp, None));
            };
            let address = tcp.local_addr().map_err(|source| BindError {
                listener: Listener::Peers,
                addresses: self.listen.clone(),
                source,
            })?;
            let passed = inherited.take_udp(&[address]).map(quic::prepare);
            match bind(Listener::Quic, &[address], passed, quic::bind) {
                Ok(socket) => {
                    let quic = QuicListener::new(socket, certificates, self.quic_initial_mtu);
                    return Ok((tcp, Some(quic)));
                }
                // Any free port was asked for, and this one is free for TCP alone.
                Err(_) if attempts < PORT_ATTEMPTS && !self.names_port(address.port()) => {
                    attempts += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn names_port(&self, port: u16) -> bool {
        self.listen.iter().any(|address| address.port() == port)
    }
}

/// A relay with bound listeners.
///
/// ```no_run
/// use trunkline::auth::AllowAll;
/// use trunkline::{Relay, Server};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let relay = Relay::builder().exposed_address("localhost").validator(AllowAll).build()?;
/// let server = Server::builder(relay).listen(["127.0.0.1:0".parse()?]).bind()?;
/// println!("peers connect to {}", server.local_addr()?);
/// server.run(async { tokio::time::sleep(std::time::Duration::from_secs(60)).await }).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    relay: Relay,
    peers: TcpListener,
    health: Option<TcpListener>,
    metrics: Option<(TcpListener, PrometheusMetrics)>,
    stun: Vec<UdpSocket>,
    readiness: Readiness,
    clock: Clock,
    tls: Option<Certificates>,
    quic: Option<QuicListener>,
    probe_quic_via: Option<String>,
    proxy_protocol: ProxyProtocol,
    drain: (Duration, Duration),
    cluster: Option<ClusterHandle>,
}

impl Server {
    /// Starts with a relay, and no listener.
    #[must_use]
    pub fn builder(relay: Relay) -> ServerBuilder {
        ServerBuilder {
            relay,
            listen: Vec::new(),
            health: Vec::new(),
            metrics: None,
            stun: Vec::new(),
            clock: Clock::system(),
            tls: None,
            quic: true,
            quic_initial_mtu: INITIAL_MTU,
            probe_quic_via: None,
            proxy_protocol: ProxyProtocol::Off,
            inherited: Inherited::default(),
            drain: (Duration::ZERO, Duration::ZERO),
            cluster: None,
        }
    }

    /// The relay that is served.
    #[must_use]
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Tells when the relay takes peers, as `/readyz` does.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Where peers connect.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.peers.local_addr()
    }

    /// Where peers connect with QUIC, if they may.
    #[must_use]
    pub fn quic_addr(&self) -> Option<SocketAddr> {
        self.quic.as_ref()?.socket.local_addr().ok()
    }

    /// Where the health routes are, if anywhere.
    #[must_use]
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health.as_ref()?.local_addr().ok()
    }

    /// Where the metrics are, if anywhere.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.0.local_addr().ok()
    }

    /// Where the STUN server answers: one address for each of its sockets.
    #[must_use]
    pub fn stun_addrs(&self) -> Vec<SocketAddr> {
        let addresses = self.stun.iter().map(UdpSocket::local_addr);
        addresses.filter_map(Result::ok).collect()
    }

    /// Serves until `shutdown` resolves, then tells all peers *close*, waits for them (30 s at most) and returns. Health and
    /// metrics answer to the last.
    ///
    /// Dropping the future stops the listeners at once; connected peers stay until the runtime ends.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let relay = self.relay;
        let stop_peers = Drain::default();
        let stop_admin = Drain::default();
        let tls = self.tls.as_ref().map(|certificates| {
            certificates.observe(relay.instruments().meter());
            TlsLayer::new(certificates, &relay)
        });
        let mut admins = JoinSet::new();
        if let Some(listener) = self.health {
            let router = health_router(
                &relay,
                &self.readiness,
                &self.clock,
                self.tls.as_ref(),
                self.quic.is_some(),
            );
            admins.spawn(admin::serve("health", listener, router, stop_admin.watch()));
        }
        if let Some((listener, metrics)) = self.metrics {
            let router = metrics_router(metrics);
            admins.spawn(admin::serve(
                "metrics",
                listener,
                router,
                stop_admin.watch(),
            ));
        }
        // Dropped at the first word of the end, and the sockets with it.
        let mut stun = JoinSet::new();
        if !self.stun.is_empty() {
            relay.instruments().stun_starts(&stun::RESULTS);
        }
        let quic_inode = (self.quic.iter()).map(|quic| ("quic", UdpInode::of(&quic.socket)));
        let stun_inodes = (self.stun.iter()).map(|socket| ("stun", UdpInode::of(socket)));
        let inodes = quic_inode.chain(stun_inodes);
        let inodes = inodes.filter_map(|(server, inode)| Some((server, inode?)));
        observe_drops(relay.instruments().meter(), inodes.collect());
        for socket in self.stun {
            stun.spawn(stun::serve(socket, relay.instruments().clone()));
        }
        let protocol = self.proxy_protocol;
        // On the runtime's workers, where its connections start without waking another thread. A set of its own, so that it is
        // dropped with this future.
        let mut accepting = JoinSet::new();
        let stop_accepting = stop_peers.watch();
        accepting.spawn(listener::serve(
            self.peers,
            relay.clone(),
            tls,
            protocol,
            stop_accepting,
        ));
        let peers = async {
            if let Some(Err(error)) = accepting.join_next().await
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        };
        let (all_closed, closed) = oneshot::channel::<()>();
        let quic = async {
            if let Some(quic) = self.quic {
                // Its sender is dropped when all have been told.
                let closed = async { drop(closed.await) };
                let served = quic.serve(&relay, stop_peers.watch(), closed);
                match &self.probe_quic_via {
                    None => served.await,
                    Some(via) => tokio::select! {
                        () = served => {}
                        () = quic_probe::run(via, relay.instruments()) => {}
                    },
                }
            }
        };
        let life = async {
            let ready = async {
                if let Some(cluster) = &self.cluster {
                    cluster.ready().await;
                }
                self.readiness.set_ready();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                () = shutdown => {}
                () = ready => {}
            }
            let (delay, window) = self.drain;
            info!(peers = relay.peers().len(), "shutting down");
            self.readiness.set_stopping();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            stop_peers.start();
            stun.shutdown().await;
            let left = relay.shutdown_over(window).await;
            if left > 0 {
                warn!(
                    peers = left,
                    "peers did not take their close in time and are cut off"
                );
            }
            drop(all_closed);
            if let Some(cluster) = &self.cluster {
                cluster.stop().await;
            }
            stop_admin.start();
        };
        tokio::join!(peers, quic, life);
        // A probe that keeps its connection open does not hold up the end.
        let _ = timeout(ADMIN_LINGER, async {
            while admins.join_next().await.is_some() {}
        })
        .await;
        info!("stopped");
    }
}
