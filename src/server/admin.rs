//! The listeners of operators and probes: health and metrics, bounded so that who can reach them cannot block them.
//!
//! They are few requests from known places, so there is no limit for each address. A full house makes room: the oldest connection
//! goes, and an honest probe is answered also while somebody holds as many connections as there may be.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tower::ServiceExt;
use tracing::debug;

use super::listener::{ACCEPT_PAUSE, is_transient};
use crate::stack::drain::Watch;
use crate::telemetry::log_limit::{LogLimit, log_rarely};

/// Connections at once on one such listener.
const CONNECTIONS_MAX: usize = 256;

/// How long a request's head may take, and a connection be idle between two requests. Longer than scrapes lie apart, usually.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest request head.
const REQUEST_HEAD_MAX: usize = 16 * 1024;

/// Answers until `stop`, then finishes the answers that are on their way.
pub(super) async fn serve(
    what: &'static str,
    listener: TcpListener,
    router: Router,
    mut stop: Watch,
) {
    let builder = Arc::new(builder());
    let log_limit = LogLimit::default();
    let mut connections = JoinSet::new();
    // In the order in which they came; some have ended.
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            () = stop.started() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                if connections.len() >= CONNECTIONS_MAX {
                    oldest.retain(|connection| !connection.is_finished());
                    if let Some(oldest) = oldest.pop_front() {
                        debug!(what, "the oldest connection makes room");
                        oldest.abort();
                    }
                }
                let connection =
                    connection(stream, router.clone(), Arc::clone(&builder), stop.clone());
                oldest.push_back(connections.spawn(connection));
                if oldest.len() > 2 * CONNECTIONS_MAX {
                    oldest.retain(|connection| !connection.is_finished());
                }
            }
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                log_rarely!(warn, log_limit, "accept", what, %error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(REQUEST_HEAD_MAX);
    builder
}

async fn connection(
    stream: TcpStream,
    router: Router,
    builder: Arc<http1::Builder>,
    mut stop: Watch,
) {
    let service =
        router.map_request(|request: http::Request<hyper::body::Incoming>| request.map(Body::new));
    let mut connection =
        Box::pin(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    let served = tokio::select! {
        served = &mut connection => served,
        () = stop.started() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!(%error, "connection of a probe");
    }
}
