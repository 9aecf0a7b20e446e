//! The relay that the demo plays on, and its peers' way in.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{DemoError, PATIENCE, Unexpected};
use crate::auth::{Secret, TokenValidator, mint};
use crate::client::{Client, ClientError, Event};
use crate::proto::PeerId;
use crate::relay::{Relay, RelayBuilder};
use crate::server::Server;
use crate::telemetry::prometheus::PrometheusMetrics;
use crate::time::Clock;

/// The route of the relay: the one that clients ask for by themselves.
const PATH: &str = "/relay";

/// How long the peers' tokens are good, in seconds.
const TOKEN_LIFE: u64 = 3600;

/// How long a message may wait in a queue here. The default of one second is right for WireGuard; but here a laptop that was busy
/// with something else for a second would look like a relay that loses messages.
const QUEUE_MAX_AGE: Duration = Duration::from_secs(30);

/// How often a free port is looked for.
const BIND_TRIES: u32 = 20;

/// A served relay.
pub(super) struct Stage {
    relay: Relay,
    address: SocketAddr,
    health: SocketAddr,
    metrics: SocketAddr,
    secret_text: String,
    secret: Secret,
    clock: Clock,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Stage {
    /// Starts a relay on free loopback ports.
    pub(super) fn set_up() -> Result<Self, DemoError> {
        on_free_address(Self::set_up_at)
    }

    fn set_up_at(address: SocketAddr) -> Result<Self, DemoError> {
        let secret_text: String = rand::random::<[u8; 16]>()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let secret = Secret::new(&secret_text);
        let clock = Clock::system();
        let prometheus = PrometheusMetrics::new()?;
        let relay = relay_at(address, &secret, &clock)
            .meter(prometheus.meter())
            .build()?;
        let free = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        let server = Server::builder(relay.clone())
            .listen([address])
            .health(free)
            .metrics(free, prometheus)
            .bind()?;
        let (health, metrics) = (server.health_addr(), server.metrics_addr());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(server.run(async {
            // Dropping the stage stops the relay, too.
            let _ = stopped.await;
        }));
        Ok(Self {
            relay,
            address,
            health: health.expect("the health listener is bound"),
            metrics: metrics.expect("the metrics listener is bound"),
            secret_text,
            secret,
            clock,
            stop,
            served,
        })
    }

    pub(super) const fn relay(&self) -> &Relay {
        &self.relay
    }

    /// One more relay at this address, which the same peers may use.
    pub(super) fn another(&self, address: SocketAddr) -> RelayBuilder {
        relay_at(address, &self.secret, &self.clock)
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) const fn health(&self) -> SocketAddr {
        self.health
    }

    pub(super) const fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// The secret as an operator would configure it. Good for this run only.
    pub(super) fn secret_text(&self) -> &str {
        &self.secret_text
    }

    /// A token that the relay takes.
    fn token(&self) -> Vec<u8> {
        mint(&self.secret, self.clock.now_unix() + TOKEN_LIFE)
    }

    /// A token that was good until a minute ago.
    pub(super) fn expired_token(&self) -> Vec<u8> {
        mint(&self.secret, self.clock.now_unix() - 60)
    }

    /// A token that somebody else signed.
    pub(super) fn forged_token(&self) -> Vec<u8> {
        let other = Secret::new("somebody else's secret");
        mint(&other, self.clock.now_unix() + TOKEN_LIFE)
    }

    /// Connects a peer of this name.
    pub(super) async fn connect(&self, name: &str) -> Result<Client, Unexpected> {
        self.connect_at(self.address, name).await
    }

    /// Connects a peer of this name to the relay at this address.
    pub(super) async fn connect_at(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> Result<Client, Unexpected> {
        Client::connect(&address.to_string(), PATH, id(name), &self.token())
            .await
            .map_err(|error| Unexpected(format!("{name} could not connect: {error}")))
    }

    /// Connects with any token.
    pub(super) async fn connect_with(
        &self,
        name: &str,
        token: &[u8],
    ) -> Result<Client, ClientError> {
        Client::connect(&self.address.to_string(), PATH, id(name), token).await
    }

    /// Stops the relay and waits until it has stopped.
    pub(super) async fn take_down(self) -> Result<(), Unexpected> {
        // An error means that it has stopped already.
        let _ = self.stop.send(());
        match timeout(PATIENCE, self.served).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Unexpected("the relay failed".to_owned())),
            Err(_) => Err(Unexpected("the relay did not stop".to_owned())),
        }
    }
}

fn relay_at(address: SocketAddr, secret: &Secret, clock: &Clock) -> RelayBuilder {
    Relay::builder()
        .exposed_address(format!("rel://{address}"))
        .path(PATH)
        .validator(TokenValidator::new(vec![secret.clone()], clock.clone()))
        .queue_max_age(QUEUE_MAX_AGE)
}

/// Starts what listens for peers. The relay tells them the port, so that must be known before it is bound; another process may be
/// faster.
pub(super) fn on_free_address<T>(
    mut start: impl FnMut(SocketAddr) -> Result<T, DemoError>,
) -> Result<T, DemoError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match start(free_address().map_err(DemoError::Runtime)?) {
            Err(DemoError::Bind(_)) if tries < BIND_TRIES => {}
            result => return result,
        }
    }
}

/// A loopback address that nobody listens at just now.
fn free_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The ID of the peer of this name.
pub(super) fn id(name: &str) -> PeerId {
    PeerId::from_name(name.as_bytes())
}

/// The next thing a client hears.
pub(super) async fn next(client: &mut Client, expected: &str) -> Result<Event, Unexpected> {
    timeout(PATIENCE, client.recv())
        .await
        .map_err(|_| Unexpected(format!("{expected}: nothing came")))
}

/// What was expected, and what came.
pub(super) fn unexpected(expected: &str, came: &Event) -> Unexpected {
    Unexpected(match came {
        Event::Message { from, payload } => {
            format!(
                "{expected}: instead a message of {} bytes came from {from}",
                payload.len()
            )
        }
        Event::Online(_) => format!("{expected}: instead peers came online"),
        Event::Offline(_) => format!("{expected}: instead peers went offline"),
        Event::Closed(reason) => format!("{expected}: instead the connection ended ({reason})"),
    })
}
