//! The WebSocket upgrade: the answer to a request, and the way from hyper's connection to the relay.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONNECTION, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::opening::{Accepted, check};
use crate::admission::{self, Permit};
use crate::peer::HANDSHAKE_TIMEOUT;
use crate::relay::Relay;
use crate::stack::drain::Watch;
use crate::telemetry::log_limit::log_rarely;
use crate::telemetry::spans::ConnectionSpan;
use crate::transport::tls::TlsStream;
use crate::transport::ws::{Stream, Upgraded};
use crate::transport::{RemoteAddr, TransportKind};

/// How long a request waits while its client's address has its share of handshakes.
const TURN: Duration = Duration::from_secs(HANDSHAKE_TIMEOUT.as_secs() / 2);

/// How much of a connection's time is left to answer such a request.
const ANSWER: Duration = Duration::from_secs(1);

/// When the server ends the connection of a request, whatever has become of it by then. Servers that are not ours do without.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(pub(crate) Instant);

/// Answers 101, or 200 over HTTP/2, and feeds the connection to the relay, or says what is wrong with the request.
pub(super) async fn upgrade(relay: Relay, mut request: Request) -> Response {
    let accepted = match check(&request) {
        Ok(accepted) => accepted,
        Err(refusal) => {
            relay.instruments().handshake_refused(refusal.reason());
            return refusal.into_response();
        }
    };
    if !relay.has_memory() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            [(RETRY_AFTER, HeaderValue::from_static("5"))],
            "relay has too little memory left for one more peer\n",
        )
            .into_response();
    }
    let client = client_address(&relay, &request);
    // Our own listener has asked for a place already, and did not know then who is behind a proxy; a server that is not ours
    // knows of none.
    let permit = match request.extensions().get::<Permit>() {
        Some(permit) => permit.identify(client).map(|()| permit.clone()),
        None => relay.admission().admit(client),
    };
    let permit = match permit {
        Ok(permit) => permit,
        Err(refusal) => return too_many(refusal),
    };
    let latest = Instant::now() + TURN;
    let latest = match request.extensions().get() {
        Some(&Deadline(end)) => latest.min(end - ANSWER),
        None => latest,
    };
    let mut drain = relay.drain().watch();
    tokio::select! {
        biased;
        () = drain.started() => return shutting_down(),
        begun = permit.begin_request(client, latest) => if let Err(refusal) = begun {
            return too_many(refusal);
        },
    }
    let stream_use = request.extensions_mut().remove::<StreamUse>();
    let on_upgrade = hyper::upgrade::on(&mut request);
    // A stranger's word on which trace this is a part of would let him write into other people's traces.
    let trace = relay
        .trusted_proxies()
        .trusts(connection_address(&request))
        .then(|| request.headers());
    let span = ConnectionSpan::start(&client, TransportKind::WebSocket.name(), trace);
    let peer = take_over(relay, on_upgrade, client, span, permit, drain);
    match stream_use {
        // The usual task is not to be larger for the sake of the other.
        None => tokio::spawn(peer),
        Some(until_the_end) => tokio::spawn(async move {
            peer.await;
            drop(until_the_end);
        }),
    };
    match accepted {
        Accepted::Upgrade(accept) => (
            StatusCode::SWITCHING_PROTOCOLS,
            [
                (CONNECTION, HeaderValue::from_static("Upgrade")),
                (UPGRADE, HeaderValue::from_static("websocket")),
                (SEC_WEBSOCKET_ACCEPT, accept),
            ],
        )
            .into_response(),
        Accepted::Stream => StatusCode::OK.into_response(),
    }
}

/// Held by each request and each peer on a connection that carries several (HTTP/2), so that its server knows when it is of
/// no more use. Servers that are not ours do without.
#[derive(Debug, Clone)]
pub(crate) struct StreamUse(#[expect(dead_code, reason = "held, and let go")] pub(crate) Watch);

fn shutting_down() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "relay is shutting down\n").into_response()
}

/// No place for it: 503 if that is everybody's affair, 429 if it is this address's.
fn too_many(refusal: admission::Refusal) -> Response {
    let status = match refusal {
        admission::Refusal::Connections | admission::Refusal::Handshakes => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::TOO_MANY_REQUESTS,
    };
    (
        status,
        [(RETRY_AFTER, HeaderValue::from_static("5"))],
        "relay has no place for one more connection\n",
    )
        .into_response()
}

/// The other end of the connection, as far as the server told; behind a PROXY header, who that names.
fn connection_address(request: &Request) -> RemoteAddr {
    request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(RemoteAddr::unknown(), |&ConnectInfo(addr)| addr.into())
}

/// Where the client comes from: the other end of the connection, or what a trusted proxy there says of it.
fn client_address(relay: &Relay, request: &Request) -> RemoteAddr {
    let connection = connection_address(request);
    let (trusted, headers) = (relay.trusted_proxies(), request.headers());
    // A client that can make a proxy contradict itself must not be able to fill the log with it.
    static WARNED: AtomicBool = AtomicBool::new(false);
    if trusted.is_contradictory(connection, headers) && !WARNED.swap(true, Ordering::Relaxed) {
        warn!(
            network.peer.address = %connection,
            "a trusted proxy names two different clients of one request: it passes on a header that its client wrote, so clients \
             can choose the address they are seen by; let it remove X-Real-Ip, X-Real-Port, Forwarded and X-Forwarded-For or \
             set them itself (said once)"
        );
    }
    trusted.client_address(connection, headers)
}

/// Waits for the raw stream and hands it to the relay, which keeps the permit until the connection has ended.
async fn take_over(
    relay: Relay,
    on_upgrade: OnUpgrade,
    remote: RemoteAddr,
    span: ConnectionSpan,
    permit: Permit,
    mut drain: Watch,
) {
    let upgraded = tokio::select! {
        upgraded = timeout(HANDSHAKE_TIMEOUT, on_upgrade) => upgraded,
        () = drain.started() => return,
    };
    drop(drain);
    let upgraded = match upgraded {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => {
            span.refused("connection_lost");
            debug!(client.address = %remote, %error, "connection lost during the upgrade");
            return;
        }
        Err(_) => {
            relay.instruments().handshake_timed_out("upgrade");
            span.refused("timeout");
            let limit = relay.instruments().log_limit();
            log_rarely!(info, limit, "timeout", client.address = %remote, "connection refused: upgrade not finished within 10 s");
            return;
        }
    };
    // The stream itself if a plain hyper server holds it, as ours and `axum::serve` do. Anything else stays in its box. The
    // outcome has been counted and logged by the relay. The others are boxed, so that a plain peer's task is not as large as theirs.
    let _ = match unwrap(upgraded) {
        Found::Tcp(tcp) => relay.accept_within(span, tcp, remote, permit).await,
        Found::Tls(tls) => Box::pin(relay.accept_within(span, tls, remote, permit)).await,
        Found::Boxed(boxed) => Box::pin(relay.accept_within(span, boxed, remote, permit)).await,
    };
}

/// What carries an upgraded connection.
enum Found {
    Tcp(Upgraded),
    Tls(Upgraded<TlsStream>),
    Boxed(Stream<TokioIo<hyper::upgrade::Upgraded>>),
}

fn unwrap(upgraded: hyper::upgrade::Upgraded) -> Found {
    let upgraded = match unwrap_as::<TcpStream>(upgraded) {
        Ok(tcp) => return Found::Tcp(tcp),
        Err(upgraded) => upgraded,
    };
    match unwrap_as::<TlsStream>(upgraded) {
        Ok(tls) => Found::Tls(tls),
        Err(upgraded) => Found::Boxed(Stream(TokioIo::new(upgraded))),
    }
}

/// The stream itself, if that is its type.
fn unwrap_as<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    upgraded: hyper::upgrade::Upgraded,
) -> Result<Upgraded<S>, hyper::upgrade::Upgraded> {
    let upgraded = match upgraded.downcast::<TokioIo<S>>() {
        Ok(parts) => {
            return Ok(Upgraded {
                stream: parts.io.into_inner(),
                already_read: parts.read_buf,
            });
        }
        Err(upgraded) => upgraded,
    };
    // hyper-util's server, which speaks HTTP/1 and HTTP/2, wraps the stream once more.
    hyper_util::server::conn::auto::upgrade::downcast::<TokioIo<S>>(upgraded).map(|parts| {
        Upgraded {
            stream: parts.io.into_inner(),
            already_read: parts.read_buf,
        }
    })
}
