//! A relay on free loopback ports, in the test's own runtime.

use std::net::SocketAddr;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use trunkline::auth::{Secret, Secrets, TokenValidator, mint};
use trunkline::peer::{Closed, HandshakeError};
use trunkline::proto::PeerId;
use trunkline::proto::peer::{MessageType, encode_auth};
use trunkline::telemetry::counters::DropReason;
use trunkline::telemetry::prometheus::PrometheusMetrics;
use trunkline::time::Clock;
use trunkline::transport::RemoteAddr;
use trunkline::transport::memory::{self, MemoryPeer};
use trunkline::{Relay, RelayBuilder, Server, ServerBuilder};

use super::client::{payload_of, transport};
use super::clock::{PATIENCE, until};
use super::metrics::Metrics;

/// The secret of a [`TestRelay`] that was not given another validator.
pub(crate) const SECRET: &str = "wire-secret";

/// What its clock says, for ever.
pub(crate) const NOW: u64 = 1_800_000_000;

/// What it tells its clients.
pub(crate) const URL: &str = "rel://relay.example.com:80";

/// The ID of a peer of this name.
pub(crate) fn peer(name: &str) -> PeerId {
    PeerId::from_name(name.as_bytes())
}

/// A token that a [`TestRelay`] accepts.
pub(crate) fn token() -> Vec<u8> {
    mint(&Secret::new(SECRET), NOW + 60)
}

/// A whole *auth* message that it accepts.
pub(crate) fn auth_message(name: &str) -> Vec<u8> {
    encode_auth(&peer(name), &token()).unwrap()
}

/// A running relay. Dropped without [`TestRelay::stopped`], it ends with the test's runtime.
#[derive(Debug)]
pub(crate) struct TestRelay {
    /// The handle to it.
    pub(crate) relay: Relay,
    /// The secrets it accepts.
    pub(crate) secrets: Secrets,
    /// Where peers connect.
    pub(crate) addr: SocketAddr,
    /// Where health is asked for.
    pub(crate) health: SocketAddr,
    /// Where metrics are read.
    pub(crate) metrics: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl TestRelay {
    /// One with the defaults above.
    pub(crate) fn start() -> Self {
        Self::with(|builder| builder)
    }

    /// One whose settings `change` has the last word on.
    pub(crate) fn with(change: impl FnOnce(RelayBuilder) -> RelayBuilder) -> Self {
        Self::served(change, |server| server)
    }

    /// As [`TestRelay::with`]; `serve` has the last word on its listeners.
    pub(crate) fn served(
        change: impl FnOnce(RelayBuilder) -> RelayBuilder,
        serve: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> Self {
        let prometheus = PrometheusMetrics::new().unwrap();
        let validator = TokenValidator::new(vec![Secret::new(SECRET)], Clock::fixed(NOW));
        let secrets = validator.secrets();
        let builder = Relay::builder()
            .exposed_address(URL)
            .validator(validator)
            .meter(prometheus.meter());
        let any = [SocketAddr::from(([127, 0, 0, 1], 0))];
        let server = Server::builder(change(builder).build().unwrap())
            .listen(any)
            .health(any)
            .metrics(any, prometheus);
        let server = serve(server).bind().unwrap();
        let (stop, stopped) = oneshot::channel();
        Self {
            relay: server.relay().clone(),
            secrets,
            addr: server.local_addr().unwrap(),
            health: server.health_addr().unwrap(),
            metrics: server.metrics_addr().unwrap(),
            stop: Some(stop),
            running: tokio::spawn(server.run(async move {
                // Dropped unsent: the test is over.
                let _ = stopped.await;
            })),
        }
    }

    /// Says what a signal says.
    pub(crate) fn begin_shutdown(&mut self) {
        self.stop.take().expect("once").send(()).unwrap();
    }

    /// Whether the server has returned.
    pub(crate) fn has_stopped(&self) -> bool {
        self.running.is_finished()
    }

    /// Waits until the server has returned, having told it to stop if nobody has.
    pub(crate) async fn stopped(mut self) {
        if self.stop.is_some() {
            self.begin_shutdown();
        }
        let stopped = timeout(PATIENCE, self.running).await;
        stopped.expect("the server returns").unwrap();
    }

    /// One reading of its metrics.
    pub(crate) async fn read_metrics(&self) -> Metrics {
        Metrics::scrape(self.metrics).await
    }

    /// How many transport messages were dropped for this reason.
    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.relay.counters().dropped_count(reason)
    }

    /// How many messages of this type have arrived.
    pub(crate) fn received(&self, kind: MessageType) -> u64 {
        self.relay.counters().received_count(kind)
    }

    /// Waits until as many peers as this are connected.
    pub(crate) async fn peers(&self, count: usize) {
        until("the number of connected peers", || {
            self.relay.peers().len() == count
        })
        .await;
    }

    /// Waits for the quiet moment at which every message received is delivered or dropped for a counted reason, and checks
    /// that operators see the same. Returns how many were received and delivered.
    pub(crate) async fn conserved(&self) -> (u64, u64) {
        let counters = self.relay.counters();
        let accounted = || {
            let transport = DropReason::ALL.into_iter().filter(|r| r.is_transport());
            let dropped: u64 = transport.map(|reason| counters.dropped_count(reason)).sum();
            counters.sent_count(MessageType::Transport) + counters.forwarded_count() + dropped
        };
        let received = || counters.received_count(MessageType::Transport);
        // Quiet, and not only even for the moment between a delivery and the count of what was received.
        let mut before = (0, 0);
        let mut still = 0;
        until("received = delivered + forwarded + dropped", || {
            let now = (received(), accounted());
            still = if now == std::mem::replace(&mut before, now) {
                still + 1
            } else {
                0
            };
            still >= 5 && now.0 == now.1
        })
        .await;
        let metrics = self.read_metrics().await;
        let messages = |direction| {
            let labels = [("type", "transport"), ("direction", direction)];
            metrics.sum("relay_messages_total", &labels)
        };
        let unlike = ["malformed_peer_list", "unexpected", "subscription_limit"];
        let other: u64 = unlike
            .iter()
            .map(|reason| metrics.sum("relay_messages_dropped_total", &[("reason", *reason)]))
            .sum();
        let dropped = metrics.sum("relay_transport_queue_drops_total", &[])
            + metrics.sum("relay_messages_dropped_total", &[])
            - other;
        assert_eq!(
            messages("received"),
            messages("sent") + dropped,
            "{metrics:?}"
        );
        assert_eq!(
            received(),
            accounted(),
            "the relay was not quiet, or counts one message twice"
        );
        (received(), counters.sent_count(MessageType::Transport))
    }

    /// A connected peer that needs no socket.
    pub(crate) async fn memory_peer(&self, name: &str) -> MemoryClient {
        MemoryClient::connect(&self.relay, name).await
    }
}

/// A peer over the in-memory transport.
#[derive(Debug)]
pub(crate) struct MemoryClient {
    /// Its end; dropping it ends the connection abruptly.
    pub(crate) end: MemoryPeer,
    /// Its connection in the relay.
    pub(crate) connection: JoinHandle<Result<Closed, HandshakeError>>,
}

impl MemoryClient {
    /// Connects and authenticates.
    pub(crate) async fn connect(relay: &Relay, name: &str) -> Self {
        let mut client = Self::begin(relay, name).await;
        let answer = client.end.recv().await.expect("an answer");
        assert_eq!(answer[..2], [1, 7]);
        client
    }

    /// As [`RawClient::sync`](super::RawClient::sync): all that the relay had queued for this peer (`me`) by now.
    pub(crate) async fn sync(&mut self, me: &PeerId) -> Vec<Vec<u8>> {
        assert!(self.end.send(transport(me, b"sync")).await);
        let mut before = Vec::new();
        loop {
            let message = self.end.recv().await.expect("the peer stays");
            if message[1] == 3 {
                assert_eq!(payload_of(&message, me), b"sync");
                return before;
            }
            before.push(message);
        }
    }

    /// Connects and sends *auth*; the answer is still to be read.
    pub(crate) async fn begin(relay: &Relay, name: &str) -> Self {
        let (end, theirs) = memory::pair(64);
        let relay = relay.clone();
        let connection =
            tokio::spawn(async move { relay.accept(theirs, RemoteAddr::unknown()).await });
        assert!(end.send(auth_message(name)).await);
        Self { end, connection }
    }
}
