//! A small peer: connects to a relay, sends, subscribes, and hears what comes. For the demo, tests and tools.
//!
//! Owns the client's side of peer-protocol.md over WebSocket without TLS. It never reconnects, never decides whom to trust,
//! and is no WireGuard endpoint: payloads are bytes. One task per client does the I/O; dropping the [`Client`] ends it.

mod connection;
mod error;
mod target;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error as WsError;

pub use error::ClientError;

use self::connection::{CLOSE_TIMEOUT, Outgoing};
use self::target::Target;
use crate::proto::PeerId;
use crate::proto::peer::{self, MessageType};

/// How long connecting, the upgrade and the answer to *auth* may take together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages that wait to be written; [`ClientSender::send`] then waits, too.
const OUTGOING: usize = 256;

/// Events that wait for [`Client::recv`]; the client then reads no further, and the relay drops what its own queue cannot hold.
const EVENTS: usize = 1024;

/// What a client hears from its relay.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A payload came.
    Message {
        /// Who sent it: the relay's word, not the sender's.
        from: PeerId,
        /// As it was sent: 0 to 8782 bytes.
        payload: Bytes,
    },
    /// These peers of a subscription are online: 1 to 244 IDs.
    Online(Vec<PeerId>),
    /// These peers of a subscription went offline: 1 to 244 IDs.
    Offline(Vec<PeerId>),
    /// The connection has ended; nothing follows but the same again.
    Closed(CloseReason),
}

/// Why a client's connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The relay said *close*: it shuts down, or was told to end this connection.
    ByRelay,
    /// This side closed.
    ByClient,
    /// The connection was cut without a word: a newer connection of the same peer took over, the relay or the network is gone.
    Lost,
    /// The relay sent what is no message for a client.
    Violation,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByRelay => "closed by the relay",
            Self::ByClient => "closed by this side",
            Self::Lost => "connection lost",
            Self::Violation => "relay sent what is no message for a client",
        })
    }
}

/// A connected peer. Dropping it ends the connection without a word; [`close`](Self::close) does it politely.
///
/// ```
/// use trunkline::auth::AllowAll;
/// use trunkline::client::{Client, Event};
/// use trunkline::proto::PeerId;
/// use trunkline::{Relay, Server};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let relay = Relay::builder().exposed_address("localhost").validator(AllowAll).build()?;
/// let server = Server::builder(relay).listen(["127.0.0.1:0".parse()?]).bind()?;
/// let address = server.local_addr()?.to_string();
/// tokio::spawn(server.run(std::future::pending()));
///
/// let (alice, bob) = (PeerId::from_name(b"alice"), PeerId::from_name(b"bob"));
/// let sender = Client::connect(&address, "/relay", alice, b"").await?;
/// let mut receiver = Client::connect(&address, "/relay", bob, b"").await?;
/// sender.send(&bob, b"hello").await?;
/// let Event::Message { from, payload } = receiver.recv().await else { panic!("no message") };
/// assert_eq!((from, &payload[..]), (alice, &b"hello"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    sender: ClientSender,
    instance_url: String,
    events: mpsc::Receiver<Event>,
    closed: Arc<OnceLock<CloseReason>>,
    /// Ends the task, and with it the connection, when the client is dropped.
    task: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Connects to the relay at `address` (`host:port`, `rel://host:port` or `ws://host:port`; port 80 when none is given) and
    /// its WebSocket route `path`, and authenticates as `peer` with `token` (see [`mint`](crate::auth::mint)).
    ///
    /// When this returns, other peers can reach this one. Cancel-safe: a cancelled attempt leaves no connection behind.
    ///
    /// # Errors
    /// Any [`ClientError`] but [`Closed`](ClientError::Closed); [`Refused`](ClientError::Refused) when the relay does not take the
    /// token.
    pub async fn connect(
        address: &str,
        path: &str,
        peer: PeerId,
        token: &[u8],
    ) -> Result<Self, ClientError> {
        let target = Target::parse(address, path)?;
        let auth = peer::encode_auth(&peer, token)?;
        in_time(async {
            let stream = TcpStream::connect(&target.authority)
                .await
                .map_err(ClientError::Connect)?;
            // Small messages must not wait for each other. A kernel that refuses relays all the same.
            let _ = stream.set_nodelay(true);
            Self::establish(stream, &target, peer, auth).await
        })
        .await
    }

    /// As [`connect`](Self::connect), over a stream of bytes that is connected already; `host` is what the `Host` header says.
    /// Cancel-safe: a cancelled attempt drops the stream.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), except that nothing is left to be reached.
    pub async fn connect_over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        host: &str,
        path: &str,
        peer: PeerId,
        token: &[u8],
    ) -> Result<Self, ClientError> {
        let target = Target::parse(host, path)?;
        let auth = peer::encode_auth(&peer, token)?;
        in_time(Self::establish(stream, &target, peer, auth)).await
    }

    async fn establish(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        target: &Target,
        peer: PeerId,
        auth: Vec<u8>,
    ) -> Result<Self, ClientError> {
        let stream: Box<dyn connection::Io> = Box::new(stream);
        let url = format!("ws://{}{}", target.authority, target.path);
        let upgraded = client_async_with_config(url, stream, Some(connection::config())).await;
        let (mut socket, _response) = upgraded.map_err(|error| match error {
            WsError::Http(response) => ClientError::Upgrade {
                status: response.status().as_u16(),
            },
            other => ClientError::WebSocket(other.into()),
        })?;
        let instance_url = connection::authenticate(&mut socket, auth).await?;
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let (events, heard) = mpsc::channel(EVENTS);
        let closed = Arc::<OnceLock<CloseReason>>::default();
        let task = tokio::spawn(connection::run(
            socket,
            queue,
            outgoing.clone(),
            events,
            Arc::clone(&closed),
        ));
        Ok(Self {
            sender: ClientSender { peer, outgoing },
            instance_url,
            events: heard,
            closed,
            task: task.abort_handle(),
        })
    }

    /// Who this client is.
    #[must_use]
    pub const fn peer(&self) -> &PeerId {
        &self.sender.peer
    }

    /// What the relay says it is reached at: `rel://...` or `rels://...`.
    #[must_use]
    pub fn instance_url(&self) -> &str {
        &self.instance_url
    }

    /// A handle for other tasks to send with. It does not keep the connection alive.
    #[must_use]
    pub fn sender(&self) -> ClientSender {
        self.sender.clone()
    }

    /// As [`ClientSender::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&self, to: &PeerId, payload: &[u8]) -> Result<(), ClientError> {
        self.sender.send(to, payload).await
    }

    /// As [`ClientSender::subscribe`].
    ///
    /// # Errors
    /// As there.
    pub async fn subscribe(&self, peers: &[PeerId]) -> Result<(), ClientError> {
        self.sender.subscribe(peers).await
    }

    /// As [`ClientSender::unsubscribe`].
    ///
    /// # Errors
    /// As there.
    pub async fn unsubscribe(&self, peers: &[PeerId]) -> Result<(), ClientError> {
        self.sender.unsubscribe(peers).await
    }

    /// The next event. Waits for ever when nothing comes; after the end it gives [`Event::Closed`] at once, each time.
    ///
    /// Health checks are answered whether this is called or not, up to 1,024 events that wait: a client that takes none for long
    /// stops reading and is disconnected by its relay. Cancel-safe: a cancelled call loses nothing.
    pub async fn recv(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // A task that ended without a reason has panicked or its runtime is gone.
            None => Event::Closed(*self.closed.get().unwrap_or(&CloseReason::Lost)),
        }
    }

    /// Says *close* and waits until the relay has ended the connection, at most 3 s. What is queued is written before; what still
    /// comes is thrown away. Not cancel-safe: a cancelled close is a drop.
    pub async fn close(mut self) {
        let polite = async {
            // An error means that the connection has ended already.
            let _ = self.sender.outgoing.send(Outgoing::Close).await;
            while self.events.recv().await.is_some() {}
        };
        let _ = timeout(CLOSE_TIMEOUT, polite).await;
    }
}

async fn in_time<T>(
    connecting: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    timeout(CONNECT_TIMEOUT, connecting)
        .await
        .unwrap_or(Err(ClientError::TimedOut))
}

/// The sending half of a [`Client`]; cheap to clone.
#[derive(Debug, Clone)]
pub struct ClientSender {
    peer: PeerId,
    outgoing: mpsc::Sender<Outgoing>,
}

impl ClientSender {
    /// Queues `payload` (at most 8782 bytes) for the peer `to`, and waits while 256 messages are unwritten. Nobody says whether it
    /// arrived: a relay drops what is for a peer that it does not have. Cancel-safe: a cancelled send sends nothing.
    ///
    /// # Errors
    /// [`TooLong`](ClientError::TooLong), or [`Closed`](ClientError::Closed) when the connection has ended.
    pub async fn send(&self, to: &PeerId, payload: &[u8]) -> Result<(), ClientError> {
        let mut message = Vec::new();
        peer::encode_transport(to, payload, &mut message)?;
        self.queue(message).await
    }

    /// Asks to be told when these peers come and go; those online already are told at once, the others once when they come.
    /// More than 244 IDs go out in several messages. Cancel-safe, but some of those messages may have been queued.
    ///
    /// # Errors
    /// [`Closed`](ClientError::Closed) when the connection has ended.
    pub async fn subscribe(&self, peers: &[PeerId]) -> Result<(), ClientError> {
        self.queue_ids(MessageType::Subscribe, peers).await
    }

    /// Asks to be told of these peers no more. Notices that are on their way still come. Cancel-safe as
    /// [`subscribe`](Self::subscribe).
    ///
    /// # Errors
    /// [`Closed`](ClientError::Closed) when the connection has ended.
    pub async fn unsubscribe(&self, peers: &[PeerId]) -> Result<(), ClientError> {
        self.queue_ids(MessageType::Unsubscribe, peers).await
    }

    async fn queue_ids(&self, kind: MessageType, peers: &[PeerId]) -> Result<(), ClientError> {
        for message in peer::encode_peer_ids(kind, peers) {
            self.queue(message).await?;
        }
        Ok(())
    }

    async fn queue(&self, message: Vec<u8>) -> Result<(), ClientError> {
        self.outgoing
            .send(Outgoing::Message(message.into()))
            .await
            .map_err(|_| ClientError::Closed)
    }
}
