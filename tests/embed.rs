//! The relay in somebody else's program: the examples run as they are, and other servers and streams than ours carry it.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use axum::serve::ListenerExt;
use base64::Engine as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use trunkline::auth::{AllowAll, AuthError, AuthRequest, Validator};
use trunkline::client::{Client, ClientError, CloseReason, Event};
use trunkline::proto::PeerId;
use trunkline::{Relay, RelayBuilder};

#[path = "../docs/examples/embed_axum.rs"]
#[allow(dead_code, reason = "its main is not called here")]
mod embed_axum;
#[path = "../docs/examples/http_validator.rs"]
#[allow(dead_code, reason = "its main is not called here")]
mod http_validator;

use http_validator::HttpValidator;

/// Long enough for any machine: a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

fn id(name: &str) -> PeerId {
    PeerId::from_name(name.as_bytes())
}

fn builder() -> RelayBuilder {
    // A busy machine may keep a message longer than the second that WireGuard wants.
    Relay::builder()
        .exposed_address("rel://relay.example.com")
        .queue_max_age(PATIENCE)
}

fn relay() -> Relay {
    builder().validator(AllowAll).build().unwrap()
}

async fn free_port() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn next(client: &mut Client) -> Event {
    timeout(PATIENCE, client.recv()).await.expect("an event")
}

/// Both can send to the other, 200 messages each way.
async fn relays_between(a: &mut Client, b: &mut Client) {
    for (from, to) in [(0, 1), (1, 0)] {
        let clients = [&mut *a, &mut *b];
        let (sender, source) = (clients[from].sender(), *clients[from].peer());
        let destination = *clients[to].peer();
        for n in 0..200_u8 {
            sender.send(&destination, &[n; 1280]).await.unwrap();
        }
        let receiver = if to == 0 { &mut *a } else { &mut *b };
        for n in 0..200_u8 {
            let Event::Message { from, payload } = next(receiver).await else {
                panic!("message {n} is missing");
            };
            assert_eq!((from, &payload[..]), (source, &[n; 1280][..]));
        }
    }
}

/// What a GET of `path` answers, as text.
async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn the_axum_example_serves_its_own_routes_and_the_relay() {
    let (listener, address) = free_port().await;
    let relay = relay();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(embed_axum::serve(
        listener,
        "a test",
        relay.clone(),
        async move { stopped.await.unwrap() },
    ));
    let page = get(&address, "/").await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.ends_with("a test: 0 peers connected\n"), "{page}");

    // One by the merged route, one by the nested one.
    let mut alice = Client::connect(&address, "/relay", id("alice"), b"")
        .await
        .unwrap();
    let mut bob = Client::connect(&address, "/mesh/relay", id("bob"), b"")
        .await
        .unwrap();
    relays_between(&mut alice, &mut bob).await;
    let page = get(&address, "/").await;
    assert!(page.ends_with("a test: 2 peers connected\n"), "{page}");
    // With connect info, the relay knows where they come from.
    let remote = relay.peers().get(&id("alice")).unwrap().remote();
    assert!(remote.get().is_some_and(|addr| addr.ip().is_loopback()));

    let wrong = Client::connect(&address, "/mesh", id("carol"), b"").await;
    assert!(matches!(wrong, Err(ClientError::Upgrade { status: 404 })));
    let page = get(&address, "/mesh/relay").await;
    assert!(page.starts_with("HTTP/1.1 426 "), "{page}");

    stop.send(()).unwrap();
    assert_eq!(next(&mut alice).await, Event::Closed(CloseReason::ByRelay));
    assert_eq!(next(&mut bob).await, Event::Closed(CloseReason::ByRelay));
    timeout(PATIENCE, served).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(&address).await.is_err());
}

/// `axum::serve` speaks HTTP/1 and HTTP/2 and wraps its streams for that; the relay gets at the TCP stream all the same, and
/// tunes it. Each accepted socket is kept as a duplicate, whose options are the same.
#[tokio::test]
async fn the_tcp_stream_is_found_below_axums_server() {
    let (listener, address) = free_port().await;
    let accepted = Arc::<Mutex<Vec<Socket>>>::default();
    let listener = listener.tap_io({
        let accepted = Arc::clone(&accepted);
        move |stream| {
            let socket = SockRef::from(&*stream).try_clone().unwrap();
            accepted.lock().push(socket);
        }
    });
    tokio::spawn(async move { axum::serve(listener, embed_axum::app("a test", &relay())).await });

    let page = get(&address, "/").await;
    assert!(page.ends_with("a test: 0 peers connected\n"), "{page}");
    let mut alice = Client::connect(&address, "/relay", id("alice"), b"")
        .await
        .unwrap();
    let mut bob = Client::connect(&address, "/mesh/relay", id("bob"), b"")
        .await
        .unwrap();
    relays_between(&mut alice, &mut bob).await;
    let nodelay: Vec<bool> = accepted
        .lock()
        .iter()
        .map(|socket| socket.tcp_nodelay().unwrap())
        .collect();
    // The page's stream was never the relay's.
    assert_eq!(nodelay, [false, true, true]);
}

/// Serves one stream that is no TCP with hyper's plain HTTP/1 server.
fn serve_plain(relay: &Relay, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    let service = TowerToHyperService::new(relay.router::<()>());
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::spawn(connection);
}

/// The same with hyper-util's server, which reads ahead to find out which HTTP it is.
fn serve_auto(relay: &Relay, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    let service = TowerToHyperService::new(relay.router::<()>());
    tokio::spawn(async move {
        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
            .await
    });
}

#[tokio::test]
async fn any_stream_of_bytes_will_do() {
    let relay = relay();
    // Smaller than a message, so that nothing passes in one piece.
    let (alice_end, plain) = tokio::io::duplex(1000);
    let (bob_end, auto) = tokio::io::duplex(1000);
    serve_plain(&relay, plain);
    serve_auto(&relay, auto);
    let mut alice = Client::connect_over(alice_end, "a", "/relay", id("alice"), b"")
        .await
        .unwrap();
    let mut bob = Client::connect_over(bob_end, "b", "/relay", id("bob"), b"")
        .await
        .unwrap();
    let remote = relay.peers().get(&id("alice")).unwrap().remote();
    assert_eq!(remote.get(), None, "nobody told");
    // 200 messages are more than the pipe holds, so both ends work at once.
    let (source, destination) = (alice.sender(), *bob.peer());
    let sending = tokio::spawn(async move {
        for n in 0..200_u8 {
            source.send(&destination, &[n; 1280]).await.unwrap();
        }
    });
    for n in 0..200_u8 {
        let Event::Message { from, payload } = next(&mut bob).await else {
            panic!("message {n} is missing");
        };
        assert_eq!((from, &payload[..]), (id("alice"), &[n; 1280][..]));
    }
    sending.await.unwrap();
    bob.close().await;
    assert_eq!(relay.peers().ids(), [id("alice")]);
    assert_eq!(relay.shutdown().await, 0);
    assert_eq!(next(&mut alice).await, Event::Closed(CloseReason::ByRelay));
}

/// A client that does not wait for the 101 before it sends *auth*: what the HTTP server has read ahead is not lost.
async fn eager(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut bytes =
        b"GET /relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            .to_vec();
    let auth = trunkline::proto::peer::encode_auth(&id("eager"), b"token").unwrap();
    // One binary frame, masked with zeros.
    bytes.extend([0x82, 0x80 | auth.len() as u8, 0, 0, 0, 0]);
    bytes.extend(auth);
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    let expected = b"\x82\x19\x01\x07rel://relay.example.com";
    while !answer.ends_with(expected) {
        let read = timeout(PATIENCE, stream.read_buf(&mut answer)).await;
        assert_ne!(read.unwrap().unwrap(), 0, "{}", answer.escape_ascii());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
}

#[tokio::test]
async fn bytes_behind_the_request_are_not_lost() {
    let relay = relay();
    let (end, plain) = tokio::io::duplex(4096);
    serve_plain(&relay, plain);
    eager(end).await;
    let (end, auto) = tokio::io::duplex(4096);
    serve_auto(&relay, auto);
    eager(end).await;

    let (listener, address) = free_port().await;
    let router = relay.router::<()>();
    tokio::spawn(async move { axum::serve(listener, router).await });
    eager(TcpStream::connect(address).await.unwrap()).await;
}

/// A service that knows one token, and what it was asked.
async fn auth_service() -> (String, Arc<Mutex<Vec<serde_json::Value>>>) {
    let asked = Arc::<Mutex<Vec<serde_json::Value>>>::default();
    let answer = |State(asked): State<Arc<Mutex<Vec<serde_json::Value>>>>,
                  axum::Json(question): axum::Json<serde_json::Value>| async move {
        let good = base64::engine::general_purpose::STANDARD.encode(b"good");
        let answer = if question["token"] == good.as_str() {
            (http::StatusCode::NO_CONTENT, "")
        } else {
            (http::StatusCode::FORBIDDEN, "not on the list\n")
        };
        asked.lock().push(question);
        answer
    };
    let app = Router::new()
        .route("/auth", post(answer))
        .route("/broken", post(|| async { http::StatusCode::BAD_GATEWAY }))
        .route("/slow", post(pending::<&'static str>))
        .with_state(Arc::clone(&asked));
    let (listener, address) = free_port().await;
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, asked)
}

#[tokio::test]
async fn the_http_validator_example_lets_in_and_refuses() {
    let (service, asked) = auth_service().await;
    let relay = builder()
        .validator(HttpValidator::new(&service, "/auth", PATIENCE))
        .build()
        .unwrap();
    let (listener, address) = free_port().await;
    let app = relay
        .router::<()>()
        .into_make_service_with_connect_info::<std::net::SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut alice = Client::connect(&address, "/relay", id("alice"), b"good")
        .await
        .unwrap();
    let mut bob = Client::connect(&address, "/relay", id("bob"), b"good")
        .await
        .unwrap();
    relays_between(&mut alice, &mut bob).await;
    let refused = Client::connect(&address, "/relay", id("mallory"), b"bad").await;
    assert!(matches!(refused, Err(ClientError::Refused)));
    let asked = asked.lock().clone();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0]["peer"], id("alice").to_string());
    let remote = asked[0]["remote"].as_str().unwrap();
    assert!(remote.starts_with("127.0.0.1:"), "{remote}");
}

#[tokio::test]
async fn the_http_validator_tells_a_refusal_from_not_knowing() {
    let (service, _) = auth_service().await;
    let (listener, nobody) = free_port().await;
    drop(listener);
    let verdict = async |authority: &str, path: &str, patience| {
        let peer = id("alice");
        let request = AuthRequest {
            peer: &peer,
            token: b"bad",
            remote: None,
        };
        HttpValidator::new(authority, path, patience)
            .validate(&request)
            .await
            .unwrap_err()
    };
    let refused = verdict(&service, "/auth", PATIENCE).await;
    assert!(matches!(&refused, AuthError::Refused(why) if why == "not on the list"));
    for (authority, path, patience) in [
        (&service, "/broken", PATIENCE),
        (&service, "/no-such-page", PATIENCE),
        (&service, "/slow", Duration::from_millis(20)),
        (&nobody, "/auth", PATIENCE),
    ] {
        let error = verdict(authority, path, patience).await;
        assert!(
            matches!(error, AuthError::Unavailable(_)),
            "{path}: {error}"
        );
        assert!(error.is_temporary());
    }
}
