//! The WebSocket upgrade (RFC 6455, section 4.2; RFC 8441 for HTTP/2) and the way from hyper's connection to the relay.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::{debug, warn};

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

/// Why a request is no WebSocket upgrade that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Host,
    Body,
    Method,
    NotAnUpgrade,
    NotExtendedConnect,
    WebSocketVersion,
    Key,
}

impl Refusal {
    /// The label of `relay_handshake_refusals_total`.
    fn reason(self) -> &'static str {
        match self {
            Self::Host => "http_host",
            Self::Body => "http_body",
            Self::Method => "http_method",
            Self::NotAnUpgrade => "http_not_an_upgrade",
            Self::NotExtendedConnect => "http_not_extended_connect",
            Self::WebSocketVersion => "http_websocket_version",
            Self::Key => "http_websocket_key",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let websocket = (UPGRADE, HeaderValue::from_static("websocket"));
        match self {
            Self::Host => (
                StatusCode::BAD_REQUEST,
                "expected one header 'Host'\n",
            )
                .into_response(),
            Self::Body => (
                StatusCode::BAD_REQUEST,
                "a WebSocket upgrade has no body\n",
            )
                .into_response(),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                [(ALLOW, HeaderValue::from_static("GET"))],
                "the relay is reached by GET with a WebSocket upgrade\n",
            )
                .into_response(),
            Self::NotAnUpgrade => (
                StatusCode::UPGRADE_REQUIRED,
                [
                    websocket,
                    (CONNECTION, HeaderValue::from_static("Upgrade")),
                ],
                "this is a relay for WebSocket clients: expected the headers 'Connection: Upgrade' and 'Upgrade: websocket' \
                 (a proxy in between may have removed them)\n",
            )
                .into_response(),
            Self::NotExtendedConnect => (
                StatusCode::BAD_REQUEST,
                "this is a relay for WebSocket clients: over HTTP/2, expected an extended CONNECT with ':protocol: websocket' \
                 (RFC 8441)\n",
            )
                .into_response(),
            Self::WebSocketVersion => (
                StatusCode::UPGRADE_REQUIRED,
                [
                    websocket,
                    (
                        SEC_WEBSOCKET_VERSION,
                        HeaderValue::from_static("13"),
                    ),
                ],
                "expected the header 'Sec-WebSocket-Version: 13'\n",
            )
                .into_response(),
            Self::Key => (
                StatusCode::BAD_REQUEST,
                "expected one header 'Sec-WebSocket-Key' with 16 bytes in base64\n",
            )
                .into_response(),
        }
    }
}

/// A valid request, by the way in which its connection becomes a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Accepted {
    /// The whole connection is upgraded, with this answer to the client's key (RFC 6455).
    Upgrade(HeaderValue),
    /// One stream of an HTTP/2 connection (RFC 8441).
    Stream,
}

fn check(request: &Request) -> Result<Accepted, Refusal> {
    if request.version() == Version::HTTP_2 {
        return check_stream(request);
    }
    if request.method() != Method::GET {
        return Err(Refusal::Method);
    }
    let headers = request.headers();
    // Whoever sits in front may have taken another of several for the one that counts (RFC 9112, section 3.2).
    if request.version() == Version::HTTP_11 && headers.get_all(HOST).iter().count() != 1 {
        return Err(Refusal::Host);
    }
    if request.version() < Version::HTTP_11
        || !has_token(headers, &CONNECTION, "upgrade")
        || !has_token(headers, &UPGRADE, "websocket")
    {
        return Err(Refusal::NotAnUpgrade);
    }
    check_version(headers)?;
    // What one of us takes for a body, the other would take for messages (RFC 9112, section 11.2).
    if headers.contains_key(TRANSFER_ENCODING)
        || headers
            .get_all(CONTENT_LENGTH)
            .iter()
            .any(|length| length != "0")
    {
        return Err(Refusal::Body);
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key.as_bytes()) => {
            let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
            accept.map(Accepted::Upgrade).map_err(|_| Refusal::Key)
        }
        _ => Err(Refusal::Key),
    }
}

/// RFC 8441, section 5: the version counts as ever, and there is no key.
fn check_stream(request: &Request) -> Result<Accepted, Refusal> {
    let protocol = request.extensions().get::<Protocol>();
    if request.method() != Method::CONNECT
        || protocol.is_none_or(|protocol| protocol.as_str() != "websocket")
    {
        return Err(Refusal::NotExtendedConnect);
    }
    check_version(request.headers())?;
    Ok(Accepted::Stream)
}

fn check_version(headers: &HeaderMap) -> Result<(), Refusal> {
    let version = headers.get(SEC_WEBSOCKET_VERSION);
    if version.map(HeaderValue::as_bytes) == Some(b"13") {
        Ok(())
    } else {
        Err(Refusal::WebSocketVersion)
    }
}

/// Whether a header that lists tokens has this one, in any case.
fn has_token(headers: &HeaderMap, name: &http::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn is_key(key: &[u8]) -> bool {
    use base64::Engine as _;
    let mut bytes = [0; 24];
    matches!(
        base64::engine::general_purpose::STANDARD.decode_slice(key, &mut bytes),
        Ok(16)
    )
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(change: impl FnOnce(&mut Request)) -> Request {
        let mut request = Request::builder()
            .uri("/relay")
            .header("Host", "relay.example.com")
            .header("Connection", "keep-alive, Upgrade")
            .header("Upgrade", "WebSocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(Body::empty())
            .unwrap();
        change(&mut request);
        request
    }

    #[test]
    fn takes_what_browsers_and_go_clients_send() {
        // The example of RFC 6455, section 1.3.
        let accept = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(check(&request(|_| {})), Ok(Accepted::Upgrade(accept)));
    }

    #[test]
    fn each_refusal_has_its_status() {
        type Change = fn(&mut Request);
        fn set(request: &mut Request, name: &'static str, value: &'static str) {
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(name, value);
        }
        fn remove(request: &mut Request, name: &'static str) {
            request.headers_mut().remove(name);
        }
        let cases: [(Change, Refusal, u16); 16] = [
            (
                |r| *r.version_mut() = Version::HTTP_2,
                Refusal::NotExtendedConnect,
                400,
            ),
            (
                |r| {
                    *r.version_mut() = Version::HTTP_2;
                    *r.method_mut() = Method::CONNECT;
                    r.extensions_mut()
                        .insert(Protocol::from_static("connect-udp"));
                },
                Refusal::NotExtendedConnect,
                400,
            ),
            (
                |r| {
                    *r.version_mut() = Version::HTTP_2;
                    *r.method_mut() = Method::CONNECT;
                    r.extensions_mut()
                        .insert(Protocol::from_static("websocket"));
                    remove(r, "sec-websocket-version");
                },
                Refusal::WebSocketVersion,
                426,
            ),
            (|r| remove(r, "host"), Refusal::Host, 400),
            (
                |r| {
                    r.headers_mut().append(HOST, HeaderValue::from_static("b"));
                },
                Refusal::Host,
                400,
            ),
            (|r| set(r, "content-length", "5"), Refusal::Body, 400),
            (
                |r| set(r, "transfer-encoding", "chunked"),
                Refusal::Body,
                400,
            ),
            (|r| *r.method_mut() = Method::POST, Refusal::Method, 405),
            (
                |r| *r.version_mut() = Version::HTTP_10,
                Refusal::NotAnUpgrade,
                426,
            ),
            (|r| remove(r, "upgrade"), Refusal::NotAnUpgrade, 426),
            (|r| remove(r, "connection"), Refusal::NotAnUpgrade, 426),
            (|r| set(r, "upgrade", "h2c"), Refusal::NotAnUpgrade, 426),
            (
                |r| set(r, "sec-websocket-version", "8"),
                Refusal::WebSocketVersion,
                426,
            ),
            (|r| remove(r, "sec-websocket-key"), Refusal::Key, 400),
            (
                |r| set(r, "sec-websocket-key", "c2hvcnQ="),
                Refusal::Key,
                400,
            ),
            (
                |r| {
                    let second = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
                    r.headers_mut().append("sec-websocket-key", second);
                },
                Refusal::Key,
                400,
            ),
        ];
        for (change, refusal, status) in cases {
            assert_eq!(check(&request(change)), Err(refusal));
            assert_eq!(refusal.into_response().status().as_u16(), status);
        }
    }
}
