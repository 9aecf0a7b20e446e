//! The listener that peers connect to: accepts, and lets hyper do the upgrade under a time limit.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use axum::{Extension, Router};
use http::StatusCode;
use http::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};
use tower::ServiceBuilder;
use tracing::debug;

use super::http2;
use super::tls::TlsLayer;
use crate::admission::Permit;
use crate::http::Deadline;
use crate::peer::HANDSHAKE_TIMEOUT;
use crate::proxies::{ProxyHeaderError, ProxyProtocol};
use crate::relay::Relay;
use crate::stack::drain::Watch;
use crate::telemetry::log_limit::log_rarely;
use crate::transport::tls::TlsStream;
use crate::transport::{RemoteAddr, peek_beyond};

/// The longest request head. Ingress controllers add headers; nobody adds this many.
pub(super) const REQUEST_HEAD_MAX: usize = 16 * 1024;

/// How long to wait when the process has no file descriptor left, or the kernel no memory.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts peers until the drain starts, then closes the listener.
pub(super) async fn serve(
    listener: TcpListener,
    relay: Relay,
    tls: Option<TlsLayer>,
    proxy_protocol: ProxyProtocol,
    mut stop: Watch,
) {
    let router: Router = relay.router();
    if proxy_protocol != ProxyProtocol::Off {
        relay
            .instruments()
            .expect_handshake_refusals(&ProxyHeaderError::REASONS);
    }
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.started() => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                // Who is behind a proxy is known later, and counts then.
                let known = match RemoteAddr::from(remote) {
                    proxy if relay.trusted_proxies().trusts(proxy) => RemoteAddr::unknown(),
                    client => client,
                };
                // Refused without a word: an answer would cost what the limit is there to save.
                if let Ok(permit) = relay.admission().admit(known) {
                    tokio::spawn(connection(
                        stream,
                        remote,
                        permit,
                        router.clone(),
                        tls.clone(),
                        proxy_protocol,
                        relay.clone(),
                    ));
                }
            }
            Err(error) if is_transient(&error) => {
                debug!(%error, "connection lost before it was accepted")
            }
            Err(error) => {
                let limit = relay.instruments().log_limit();
                log_rarely!(warn, limit, "accept", %error, "cannot accept connections (if it says 'too many open files', raise the limit)");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// Serves one connection until it is upgraded (the router has then handed it to the relay), refused, or out of time.
async fn connection(
    mut stream: TcpStream,
    remote: SocketAddr,
    permit: Permit,
    router: Router,
    tls: Option<TlsLayer>,
    proxy_protocol: ProxyProtocol,
    relay: Relay,
) {
    let mut drain = relay.drain().watch();
    let mut client = RemoteAddr::from(remote);
    // One limit for all of it.
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let http = async {
        if proxy_protocol != ProxyProtocol::Off {
            let named = proxied(&mut stream, client, proxy_protocol, deadline, &relay);
            match Box::pin(named).await {
                Some(named) => client = named,
                None => return None,
            }
            // Another trusted proxy behind the first tells its client later.
            if !relay.trusted_proxies().trusts(client) && permit.identify(client).is_err() {
                return None;
            }
        }
        let remote = client.get().unwrap_or(remote);
        match tls {
            None => serve_http(stream, client, deadline, (remote, permit), router, &relay).await,
            Some(tls) => {
                let stream = tls.handshake(stream, client, &permit, deadline).await?;
                serve_http(stream, client, deadline, (remote, permit), router, &relay).await
            }
        }
    };
    let several = tokio::select! {
        // A request that waits is answered first.
        biased;
        several = http => several,
        () = drain.started() => None,
    };
    // It carries peers who have yet to be told, and listens to the drain itself.
    if let Some(several) = several {
        drop(drain);
        several.await;
    }
}

/// Where the client of this connection comes from, behind its PROXY header; none if it is refused, which has been counted and
/// logged then.
async fn proxied(
    stream: &mut TcpStream,
    connection: RemoteAddr,
    protocol: ProxyProtocol,
    deadline: Instant,
    relay: &Relay,
) -> Option<RemoteAddr> {
    let named = protocol.client_address(stream, connection, relay.trusted_proxies());
    match timeout_at(deadline, named).await {
        Ok(Ok(client)) => Some(client),
        Ok(Err(error)) => {
            let reason = error.reason();
            relay.instruments().handshake_refused(reason);
            let limit = relay.instruments().log_limit();
            match error {
                // TCP checks of load balancers: nothing that an operator could mend.
                ProxyHeaderError::Lost(_) => {
                    debug!(client.address = %connection, error.type = reason, %error, "no PROXY header");
                }
                _ => {
                    log_rarely!(info, limit, reason, client.address = %connection, %error, "connection refused");
                }
            }
            None
        }
        Err(_) => {
            relay.instruments().handshake_timed_out("proxy");
            let limit = relay.instruments().log_limit();
            log_rarely!(info, limit, "timeout", client.address = %connection, "connection refused: no PROXY header within 10 s");
            None
        }
    }
}

/// A connection that may carry several peers, to its end.
type Several = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves an HTTP/1 connection until it is upgraded, refused or out of time; one of HTTP/2 is for the caller to see through.
async fn serve_http<S: PeerStream>(
    stream: S,
    client: RemoteAddr,
    deadline: Instant,
    place: (SocketAddr, Permit),
    router: Router,
    relay: &Relay,
) -> Option<Several> {
    let served = async {
        let speaks = stream.speaks().await;
        // Who says nothing costs a socket, and takes nobody's place.
        if speaks.is_ok() && place.1.begin_handshake(client, deadline).await.is_err() {
            return Ok(None);
        }
        match speaks {
            Ok(Http::One) => upgrade(stream, place, deadline, router)
                .await
                .map(|()| None),
            Ok(Http::Two) => {
                let connection = http2::serve(stream, place, deadline, router, relay.clone());
                Ok(Some(Box::pin(connection) as Several))
            }
            // It ended without a word.
            Err(_) => Ok(None),
        }
    };
    match timeout_at(deadline, served).await {
        Ok(Ok(several)) => several,
        Ok(Err(error)) => {
            let reason = http_reason(&error);
            relay.instruments().handshake_refused(reason);
            debug!(client.address = %client, error.type = reason, %error, "no upgrade");
            None
        }
        Err(_) => {
            no_upgrade(client, relay);
            None
        }
    }
}

/// Counts and logs who was not upgraded in time.
pub(super) fn no_upgrade(client: RemoteAddr, relay: &Relay) {
    relay.instruments().handshake_timed_out("upgrade");
    let limit = relay.instruments().log_limit();
    log_rarely!(info, limit, "timeout", client.address = %client, "connection refused: no upgrade within 10 s");
}

/// Which HTTP a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Http {
    /// 1.1, or whatever else the parser of HTTP/1 is to judge.
    One,
    /// 2.
    Two,
}

/// Why hyper gave a connection up: it has answered 400 or 431 then, if there was anybody to answer.
fn http_reason(error: &hyper::Error) -> &'static str {
    if error.is_parse_too_large() {
        "http_head_too_large"
    } else if error.is_parse() {
        "http_malformed"
    } else {
        "http_connection_lost"
    }
}

/// What HTTP runs over.
trait PeerStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Waits until there is enough to read to know. An error means that nothing will come.
    fn speaks(&self) -> impl Future<Output = io::Result<Http>> + Send;
}

impl PeerStream for TcpStream {
    async fn speaks(&self) -> io::Result<Http> {
        // What a client that knows of an HTTP/2 server begins with (RFC 9113, section 3.4); the only method that begins so.
        const PREFACE: [u8; 3] = *b"PRI";
        let mut first = [0; PREFACE.len()];
        let mut seen = 0;
        loop {
            seen = peek_beyond(self, &mut first, seen).await?;
            if first == PREFACE {
                return Ok(Http::Two);
            }
            if first[..seen] != PREFACE[..seen] {
                return Ok(Http::One);
            }
        }
    }
}

impl PeerStream for TlsStream {
    async fn speaks(&self) -> io::Result<Http> {
        let two = self.alpn() == Some(http2::ALPN);
        Ok(if two { Http::Two } else { Http::One })
    }
}

/// Who is not upgraded has no further business on this listener.
fn close_unless_upgraded(mut response: Response) -> Response {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        response.headers_mut().append(CONNECTION, close);
    }
    response
}

async fn upgrade(
    stream: impl PeerStream,
    (remote, permit): (SocketAddr, Permit),
    deadline: Instant,
    router: Router,
) -> Result<(), hyper::Error> {
    let service = ServiceBuilder::new()
        .layer(Extension(ConnectInfo(remote)))
        .layer(Extension(Deadline(deadline)))
        // The peer that becomes of the connection keeps its place.
        .layer(Extension(permit))
        .map_request(|request: http::Request<hyper::body::Incoming>| request.map(Body::new))
        .map_response(close_unless_upgraded)
        .service(router);
    // Boxed, so that the task of a connection that waits is small.
    let connection = http1::Builder::new()
        // The caller's limit is for all of it; hyper's own would hide from it what it ends.
        .header_read_timeout(None)
        .max_buf_size(REQUEST_HEAD_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    Box::pin(connection).await
}
