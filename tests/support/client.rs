//! A client that writes bytes and reads frames.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use trunkline::proto::PeerId;
use trunkline::proto::peer::encode_transport;

use super::clock::PATIENCE;
use super::frames::{Frame, binary};
use super::http::{Answer, UPGRADE_REQUEST};
use super::relay::{TestRelay, URL, auth_message};

/// A *transport* message for (or from) this peer.
pub(crate) fn transport(peer: &PeerId, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    encode_transport(peer, payload, &mut message).unwrap();
    message
}

/// The payload of a *transport* message that comes from `from`.
#[track_caller]
pub(crate) fn payload_of<'a>(message: &'a [u8], from: &PeerId) -> &'a [u8] {
    assert_eq!(message[..2], [1, 3], "not a transport message: {message:?}");
    assert_eq!(&message[2..38], from.as_bytes(), "from somebody else");
    &message[38..]
}

/// A message of type `kind` that lists these peers: 8 subscribe, 9 unsubscribe, 10 online, 11 offline.
pub(crate) fn ids(kind: u8, peers: &[PeerId]) -> Vec<u8> {
    let mut message = vec![1, kind];
    for peer in peers {
        message.extend_from_slice(peer.as_bytes());
    }
    message
}

/// The *close* message.
pub(crate) fn close() -> Vec<u8> {
    vec![1, 4]
}

/// The *health check* message.
pub(crate) fn health_check() -> Vec<u8> {
    vec![1, 5]
}

/// A TCP connection to the relay, at whatever stage.
#[derive(Debug)]
pub(crate) struct RawClient {
    stream: TcpStream,
    unread: Vec<u8>,
    syncs: u32,
}

impl RawClient {
    /// Connects, and says nothing.
    pub(crate) async fn tcp(addr: SocketAddr) -> Self {
        let stream = timeout(PATIENCE, TcpStream::connect(addr)).await;
        Self::over(stream.expect("connects in time").unwrap())
    }

    /// Connects, with a kernel that takes little of what is not read.
    pub(crate) async fn narrow(addr: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let stream = timeout(PATIENCE, socket.connect(addr)).await;
        Self::over(stream.expect("connects in time").unwrap())
    }

    /// Speaks over a stream that is connected already.
    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            unread: Vec::new(),
            syncs: 0,
        }
    }

    /// Connects and upgrades.
    pub(crate) async fn upgraded(relay: &TestRelay) -> Self {
        let mut client = Self::tcp(relay.addr).await;
        client.write(UPGRADE_REQUEST.as_bytes()).await;
        client.expect_upgrade().await;
        client
    }

    /// Connects, upgrades and authenticates.
    pub(crate) async fn connected(relay: &TestRelay, name: &str) -> Self {
        let mut client = Self::upgraded(relay).await;
        client.authenticate(name).await;
        client
    }

    /// As [`RawClient::connected`], with a kernel that takes little of what is not read.
    pub(crate) async fn connected_narrowly(relay: &TestRelay, name: &str) -> Self {
        let mut client = Self::narrow(relay.addr).await;
        client.write(UPGRADE_REQUEST.as_bytes()).await;
        client.expect_upgrade().await;
        client.authenticate(name).await;
        client
    }

    /// Sends *auth* and reads the answer.
    pub(crate) async fn authenticate(&mut self, name: &str) {
        self.send(&auth_message(name)).await;
        self.expect_auth_response().await;
    }

    /// Reads the answer to *auth*.
    pub(crate) async fn expect_auth_response(&mut self) {
        let answer = self.message().await;
        assert_eq!(answer[..2], [1, 7]);
        assert_eq!(std::str::from_utf8(&answer[2..]).unwrap(), URL);
    }

    /// Reads the answer to [`UPGRADE_REQUEST`].
    pub(crate) async fn expect_upgrade(&mut self) -> Answer {
        let answer = self.http_head().await.expect("an answer to the upgrade");
        assert_eq!(answer.status, 101);
        let accept = answer.values("sec-websocket-accept");
        assert_eq!(accept, ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
        answer
    }

    /// Reads the head of an HTTP answer; none if the connection ends instead.
    pub(crate) async fn http_head(&mut self) -> Option<Answer> {
        loop {
            if let Some(answer) = Answer::take_head(&mut self.unread) {
                return Some(answer);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Writes these bytes as they are.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        assert!(self.try_write(bytes).await, "the connection has ended");
    }

    /// Writes these bytes as they are; false if the connection has ended.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) -> bool {
        let written = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        written.expect("the relay reads on").is_ok()
    }

    /// Sends one message in one frame.
    pub(crate) async fn send(&mut self, message: &[u8]) {
        self.write(&binary(message)).await;
    }

    /// Ends the sending direction.
    pub(crate) async fn finish(&mut self) {
        // The other side may have ended it all.
        let _ = self.stream.shutdown().await;
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Reads what there is; false at the end of the connection, be it FIN or RST.
    async fn fill(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await;
        match read.expect("the relay neither sends nor ends the connection") {
            Ok(count) => count > 0,
            Err(_) => false,
        }
    }

    /// The next frame; none at the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::take(&mut self.unread) {
                return Some(frame);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next message, in the only form that the stock clients read.
    pub(crate) async fn message(&mut self) -> Vec<u8> {
        let frame = self.frame().await.expect("a message, not the end");
        frame.into_message()
    }

    /// Reads to the end of the connection and returns all bytes that came.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        while self.fill().await {}
        self.unread
    }

    /// Checks that the connection ends and that not one byte comes before.
    #[track_caller]
    pub(crate) fn ends_silently(self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let rest = self.rest().await;
            assert!(rest.is_empty(), "{caller}: came before the end: {rest:?}");
        }
    }

    /// Checks that the connection ends, and that no message comes before: a WebSocket close frame may.
    pub(crate) async fn ends_without_message(mut self) -> Option<u16> {
        let mut code = None;
        while let Some(frame) = self.frame().await {
            assert_eq!(frame.first_byte, 0x88, "came before the end: {frame:?}");
            code = frame.payload.first_chunk().map(|c| u16::from_be_bytes(*c));
        }
        assert!(self.unread.is_empty(), "half a frame: {:?}", self.unread);
        code
    }

    /// Sends a message to the peer itself (`me`) and returns all that comes before it: whatever the relay had queued for this
    /// peer by now, as control messages overtake and data keeps its order. It proves that the connection relays, too.
    pub(crate) async fn sync(&mut self, me: &PeerId) -> Vec<Vec<u8>> {
        self.syncs += 1;
        let mark = format!("sync {}", self.syncs);
        self.send(&transport(me, mark.as_bytes())).await;
        let mut before = Vec::new();
        loop {
            let message = self.message().await;
            if message[..2] == [1, 3] && &message[38..] == mark.as_bytes() {
                assert_eq!(payload_of(&message, me), mark.as_bytes());
                return before;
            }
            before.push(message);
        }
    }
}
