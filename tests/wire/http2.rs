//! WebSockets on the streams of an HTTP/2 connection (RFC 8441), as an ingress with HTTP/2 behind it brings them.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use trunkline::transport::TransportKind;

use crate::support::{
    FrozenClock, RawClient, TestRelay, auth_message, close, payload_of, peer, transport, until,
};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// An HTTP/2 connection to the relay, and its end.
struct Connection {
    requests: SendRequest<String>,
    ended: JoinHandle<hyper::Result<()>>,
}

impl Connection {
    async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        let mut connection = Self {
            requests,
            ended: tokio::spawn(connection),
        };
        // A plain request first: with its answer the relay's settings are known, extended CONNECT among them.
        let get = Request::get("http://relay.example.com/relay");
        let answer = connection.send(get.body(String::new()).unwrap()).await;
        assert_eq!(answer.status(), 400);
        connection
    }

    async fn open(relay: &TestRelay) -> Self {
        Self::over(TcpStream::connect(relay.addr).await.unwrap()).await
    }

    async fn send(&mut self, request: Request<String>) -> Response<Incoming> {
        self.requests.ready().await.unwrap();
        let answer = timeout(PATIENCE, self.requests.send_request(request)).await;
        answer.expect("an answer").unwrap()
    }

    /// The answer to an extended CONNECT with these headers besides.
    async fn connect(&mut self, headers: &[(&str, &str)]) -> Response<Incoming> {
        let mut request = Request::connect("http://relay.example.com/relay")
            .extension(Protocol::from_static("websocket"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(String::new()).unwrap()).await
    }

    /// A peer on a stream of its own.
    async fn peer(&mut self, name: &str, headers: &[(&str, &str)]) -> Stream {
        let headers = [&[("sec-websocket-version", "13")], headers].concat();
        let answer = self.connect(&headers).await;
        assert_eq!(answer.status(), 200);
        let upgraded = hyper::upgrade::on(answer).await.unwrap();
        let mut stream = Stream(
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await,
        );
        stream.send(auth_message(name)).await;
        assert_eq!(stream.message().await.unwrap()[..2], [1, 7]);
        stream
    }
}

/// A WebSocket on one stream.
struct Stream(WebSocketStream<TokioIo<Upgraded>>);

impl Stream {
    async fn send(&mut self, message: Vec<u8>) {
        self.0.send(Message::Binary(message.into())).await.unwrap();
    }

    /// The next message; none at the end.
    async fn message(&mut self) -> Option<Vec<u8>> {
        let next = timeout(PATIENCE, self.0.next()).await;
        match next.expect("a message or the end") {
            Some(Ok(Message::Binary(message))) => Some(message.to_vec()),
            Some(Ok(other)) => panic!("{other:?}"),
            Some(Err(_)) | None => None,
        }
    }
}

/// A peer connects on a stream of a connection over `stream`.
pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    Connection::over(stream).await.peer("x", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_peers_on_one_connection_exchange_among_each_other_and_with_the_rest() {
    let relay = TestRelay::start();
    let mut connection = Connection::open(&relay).await;
    let mut one = connection.peer("one", &[]).await;
    let mut two = connection.peer("two", &[]).await;
    let mut old = RawClient::connected(&relay, "old").await;
    let seen = relay.relay.peers().get(&peer("one")).unwrap();
    assert_eq!(seen.transport(), TransportKind::WebSocket);
    // More than any window holds, so that each side's flow control is used.
    for round in 0..1000_u32 {
        let payload = [&round.to_be_bytes()[..], &[7; 1276]].concat();
        one.send(transport(&peer("two"), &payload)).await;
        let message = two.message().await.unwrap();
        assert_eq!(payload_of(&message, &peer("one")), payload);
        two.send(transport(&peer("old"), &payload)).await;
        assert_eq!(payload_of(&old.message().await, &peer("two")), payload);
        old.send(&transport(&peer("one"), &payload)).await;
        let message = one.message().await.unwrap();
        assert_eq!(payload_of(&message, &peer("old")), payload);
    }
    // One stream's end is not the others'.
    one.send(close()).await;
    assert_eq!(one.message().await, None);
    drop(one);
    relay.peers(2).await;
    two.send(transport(&peer("old"), b"still there")).await;
    assert_eq!(
        payload_of(&old.message().await, &peer("two")),
        b"still there"
    );
    drop(two);
    relay.peers(1).await;
    drop(connection);
    until("places are given back", || {
        relay.relay.admission().open() == 1
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_tells_every_peer_and_ends_the_connection() {
    let mut relay = TestRelay::start();
    let mut connection = Connection::open(&relay).await;
    let mut one = connection.peer("one", &[]).await;
    let mut two = connection.peer("two", &[]).await;
    relay.begin_shutdown();
    for stream in [&mut one, &mut two] {
        assert_eq!(stream.message().await, Some(close()));
        assert_eq!(stream.message().await, None);
    }
    timeout(PATIENCE, connection.ended)
        .await
        .expect("the connection ends")
        .unwrap()
        .unwrap();
    relay.stopped().await;
}

#[tokio::test]
async fn each_stream_has_the_address_that_a_trusted_proxy_tells_of_it() {
    let relay = TestRelay::with(|relay| {
        relay
            .trusted_proxies("127.0.0.1".parse().unwrap())
            .max_connections_per_address(1)
    });
    let mut connection = Connection::open(&relay).await;
    let _one = connection
        .peer("one", &[("x-forwarded-for", "192.0.2.1")])
        .await;
    let _two = connection
        .peer("two", &[("forwarded", "for=\"192.0.2.2:80\"")])
        .await;
    let remote = |name| relay.relay.peers().get(&peer(name)).unwrap().remote();
    assert_eq!(remote("one").to_string(), "192.0.2.1");
    assert_eq!(remote("two").to_string(), "192.0.2.2:80");
    let again = [
        ("sec-websocket-version", "13"),
        ("x-forwarded-for", "192.0.2.1"),
    ];
    assert_eq!(connection.connect(&again).await.status(), 429);
}

#[tokio::test]
async fn requests_that_are_no_websocket_say_what_would_be_right() {
    let relay = TestRelay::start();
    let mut connection = Connection::open(&relay).await;
    let status = connection.connect(&[]).await.status();
    assert_eq!(status, 426);
    let elsewhere = Request::connect("http://relay.example.com/else")
        .extension(Protocol::from_static("websocket"));
    let answer = connection.send(elsewhere.body(String::new()).unwrap());
    assert_eq!(answer.await.status(), 404);
    let other = Request::connect("http://relay.example.com/relay")
        .extension(Protocol::from_static("connect-udp"));
    let answer = connection.send(other.body(String::new()).unwrap());
    assert_eq!(answer.await.status(), 400);
    connection.peer("x", &[]).await;
}

#[tokio::test]
async fn no_more_streams_than_the_limit_are_open_at_once() {
    let relay = TestRelay::start();
    let mut connection = Connection::open(&relay).await;
    let mut streams = Vec::new();
    for number in 0..128 {
        streams.push(connection.peer(&format!("p{number}"), &[]).await);
    }
    let mut further = connection.requests.clone();
    let further = tokio::spawn(async move {
        let request = Request::connect("http://relay.example.com/relay")
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13");
        further.ready().await.unwrap();
        further
            .send_request(request.body(String::new()).unwrap())
            .await
    });
    // An exchange goes through while the further one waits.
    streams[0].send(transport(&peer("p1"), b"x")).await;
    assert!(streams[1].message().await.is_some());
    assert!(!further.is_finished());
    drop(streams.pop());
    let answer = timeout(PATIENCE, further).await.expect("its turn").unwrap();
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn a_connection_without_a_peer_is_given_up() {
    let relay = TestRelay::start();
    let clock = FrozenClock::freeze();
    // Nothing but the preface, and less than that.
    let mut silent = RawClient::tcp(relay.addr).await;
    silent.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let mut begun = RawClient::tcp(relay.addr).await;
    begun.write(b"PR").await;
    let mut used = Connection::open(&relay).await;
    let mut stream = used.peer("x", &[]).await;
    until("both are there", || relay.relay.admission().open() == 4).await;
    clock.advance(Duration::from_secs(11)).await;
    clock.advance(Duration::from_secs(2)).await;
    silent.rest().await;
    begun.ends_silently().await;
    let metrics = relay.read_metrics().await;
    let stage = [("stage", "upgrade")];
    assert_eq!(metrics.sum("relay_handshake_timeouts_total", &stage), 2);

    stream.send(close()).await;
    assert_eq!(stream.message().await, None);
    relay.peers(0).await;
    drop(stream);
    for _ in 0..70 {
        clock.advance(Duration::from_secs(1)).await;
    }
    let ended = async {
        (&mut used.ended).await.unwrap().unwrap();
    };
    timeout(PATIENCE, ended).await.expect("it ends");
}
