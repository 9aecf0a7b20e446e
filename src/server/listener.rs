//! The listener that peers connect to: accepts, and lets hyper do the upgrade under a time limit.

use std::io;
use std::net::SocketAddr;
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
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tower::ServiceBuilder;
use tracing::{debug, info, warn};

use crate::peer::HANDSHAKE_TIMEOUT;
use crate::relay::Relay;
use crate::stack::drain::Watch;
use crate::transport::RemoteAddr;

/// Connections that the kernel may queue for us: after a network blip a whole mesh comes back in one second.
const BACKLOG: i32 = 4096;

/// The longest request head. Ingress controllers add headers; nobody adds this many.
const REQUEST_HEAD_MAX: usize = 16 * 1024;

/// How long to wait when the process has no file descriptor left, or the kernel no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket; IPv6's unspecified address serves IPv4, too.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the old connections' time-wait.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts peers until the drain starts, then closes the listener.
pub(super) async fn serve(listener: TcpListener, relay: &Relay, mut stop: Watch) {
    let router: Router = relay.router();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.started() => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                tokio::spawn(upgrade(stream, remote, router.clone(), relay.clone()));
            }
            Err(error) if is_transient(&error) => {
                debug!(%error, "connection lost before it was accepted")
            }
            Err(error) => {
                warn!(%error, "cannot accept connections (if it says 'too many open files', raise the limit)");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// Serves one connection until it is upgraded (the router has then handed it to the relay), refused, or out of time.
async fn upgrade(stream: TcpStream, remote: SocketAddr, router: Router, relay: Relay) {
    let mut drain = relay.drain().watch();
    let served = tokio::select! {
        served = timeout(HANDSHAKE_TIMEOUT, serve_http(stream, remote, router)) => served,
        () = drain.started() => return,
    };
    let client = RemoteAddr::from(remote);
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(client.address = %client, %error, "no upgrade"),
        Err(_) => {
            relay.instruments().handshake_timed_out("upgrade");
            info!(client.address = %client, error.type = "timeout", "connection refused: no upgrade within 10 s");
        }
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

async fn serve_http(
    stream: TcpStream,
    remote: SocketAddr,
    router: Router,
) -> Result<(), hyper::Error> {
    // Until the first byte comes there is no parser and no buffer: a silent connection costs next to nothing. (A fresh stream
    // claims to be readable until it has been tried, so that is not the question to ask.)
    if stream.peek(&mut [0]).await.is_err() {
        return Ok(());
    }
    let service = ServiceBuilder::new()
        .layer(Extension(ConnectInfo(remote)))
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
