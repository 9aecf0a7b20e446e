//! The two servers: the relay, and one on tokio-tungstenite that brings every message back.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};
use trunkline::auth::AllowAll;
use trunkline::proto::limits::MESSAGE_MAX;
use trunkline::proto::peer::encode_auth;
use trunkline::transport::RemoteAddr;
use trunkline::transport::ws::Stream;
use trunkline::{Relay, Server};

use crate::case::{Case, alice};
use crate::chopped::{Chopped, Cut};
use crate::client::{self, Prelude};
use crate::frame::binary;
use crate::verdict::Verdict;

/// Room in the streams in memory: no client waits for a server that waits for it.
const ROOM: usize = 1 << 20;

/// The relay on a real socket, and fed by hand.
pub(crate) struct Ours {
    relay: Relay,
    address: SocketAddr,
}

impl Ours {
    pub(crate) fn start() -> Self {
        let relay = Relay::builder()
            .exposed_address("rel://relay.example:80")
            .validator(AllowAll)
            // A burst of a case must not be dropped for want of room: that is not what is tested here.
            .peer_queue_bytes(4 << 20)
            .queue_max_age(std::time::Duration::from_secs(60))
            .build()
            .expect("a valid configuration");
        let server = Server::builder(relay.clone())
            .listen([SocketAddr::from(([127, 0, 0, 1], 0))])
            .bind()
            .expect("a free port");
        let address = server.local_addr().expect("a bound listener");
        tokio::spawn(server.run(std::future::pending::<()>()));
        Self { relay, address }
    }

    /// Over TCP, with a real upgrade; `glued`: the case comes in one write with request and auth message.
    pub(crate) async fn tcp(&self, case: &Case, glued: bool) -> Verdict {
        client::run(connect(self.address).await, &prelude(true, glued), case).await
    }

    /// In memory, with the reads cut.
    pub(crate) async fn chopped(&self, case: &Case, cut: Cut) -> Verdict {
        let (ours, theirs) = tokio::io::duplex(ROOM);
        let relay = self.relay.clone();
        let connection = tokio::spawn(async move {
            let _ = relay
                .accept(Stream(Chopped::new(theirs, cut)), RemoteAddr::unknown())
                .await;
        });
        let verdict = client::run(ours, &prelude(false, false), case).await;
        connection.await.expect("the connection does not panic");
        verdict
    }
}

/// Alice says who she is, and is answered.
fn prelude(http: bool, glued: bool) -> Prelude {
    let auth = encode_auth(&alice(), b"any token will do").expect("a short token");
    Prelude {
        http,
        hello: binary(auth).bytes(),
        frames: 1,
        glued,
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("a listener");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
}

/// The other server on a real socket, and fed by hand.
pub(crate) struct Theirs {
    address: SocketAddr,
}

impl Theirs {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let config = Some(config());
                    if let Ok(websocket) = accept_async_with_config(stream, config).await {
                        echo(websocket).await;
                    }
                });
            }
        });
        Self { address }
    }

    /// Over TCP, with a real upgrade.
    pub(crate) async fn tcp(&self, case: &Case) -> Verdict {
        client::run(connect(self.address).await, &nothing(true), case).await
    }

    /// In memory, with the reads cut.
    pub(crate) async fn chopped(&self, case: &Case, cut: Cut) -> Verdict {
        let (ours, theirs) = tokio::io::duplex(ROOM);
        let connection = tokio::spawn(async move {
            let stream = Chopped::new(theirs, cut);
            echo(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config())).await)
                .await;
        });
        let verdict = client::run(ours, &nothing(false), case).await;
        connection.await.expect("the connection does not panic");
        verdict
    }
}

fn nothing(http: bool) -> Prelude {
    Prelude {
        http,
        hello: Vec::new(),
        frames: 0,
        glued: false,
    }
}

/// The relay's limit, for frames and messages.
fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
}

/// Brings every message back until the client goes or breaks a rule. tokio-tungstenite leaves it to its user to say which:
/// this one says it by the class of the error, as section 7.4.1 has it.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut websocket: WebSocketStream<S>) {
    while let Some(message) = websocket.next().await {
        let code = match message {
            Ok(message) if message.is_text() || message.is_binary() => {
                match websocket.send(message).await {
                    Ok(()) => continue,
                    Err(_) => break,
                }
            }
            Ok(_) => continue,
            Err(Error::Utf8(_)) => CloseCode::Invalid,
            Err(Error::Capacity(_)) => CloseCode::Size,
            // The stream just ended: nobody is left to be told.
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => break,
            Err(Error::Protocol(_)) => CloseCode::Protocol,
            Err(_) => break,
        };
        let farewell = CloseFrame {
            code,
            reason: "".into(),
        };
        let _ = websocket.close(Some(farewell)).await;
        break;
    }
    // A socket that is closed with unread bytes in it resets the connection, and its last words may be lost.
    let stream = websocket.get_mut();
    let _ = stream.shutdown().await;
    let mut unread = [0; 4096];
    while matches!(stream.read(&mut unread).await, Ok(1..)) {}
}
