//! A validator of one's own: an HTTP service decides who is let in.
//!
//! For each peer it is sent `POST` with `{"peer": "sha-...", "token": "<base64>", "remote": "<address or null>"}`. A status of 2xx
//! lets the peer in, 401 and 403 refuse it (the body says why, for the log), and everything else, silence included, means that
//! nobody knows: the peer is not let in then either, but the log and the metrics tell it from a refusal.
//!
//! `cargo run --example http_validator -- 127.0.0.1:8000 /relay-auth` asks `http://127.0.0.1:8000/relay-auth`.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use trunkline::auth::{AuthError, AuthRequest, Validator};
use trunkline::server::shutdown_signal;
use trunkline::{Relay, Server};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A refusal's reason is for a log line: more than this is not read.
const REASON_MAX: usize = 256;

/// What the service is told.
#[derive(Serialize)]
struct Question {
    peer: String,
    token: String,
    remote: Option<String>,
}

/// Asks an HTTP service about each peer, over a connection of its own. Peers connect rarely; a busy relay would keep
/// connections, and remember answers for a while.
#[derive(Debug)]
pub(crate) struct HttpValidator {
    /// `host:port` of the service.
    authority: String,
    path: String,
    /// The relay gives a handshake 10 s in all, so this must be well below.
    patience: Duration,
}

impl HttpValidator {
    /// Asks `http://authority/path`, and waits no longer than `patience` for an answer.
    pub(crate) fn new(authority: &str, path: &str, patience: Duration) -> Self {
        Self {
            authority: authority.to_owned(),
            path: path.to_owned(),
            patience,
        }
    }

    async fn ask(&self, request: &AuthRequest<'_>) -> Result<(StatusCode, String), BoxError> {
        let question = Question {
            peer: request.peer.to_string(),
            token: STANDARD.encode(request.token),
            remote: request.remote.map(|address| address.to_string()),
        };
        let question = Request::post(&self.path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(serde_json::to_vec(&question)?))?;
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let answer = sender.send_request(question).await?;
            let status = answer.status();
            // A longer body is no reason for a log line.
            let reason = to_bytes(Body::new(answer.into_body()), REASON_MAX)
                .await
                .unwrap_or_default();
            let reason = String::from_utf8_lossy(&reason).trim().to_owned();
            Ok::<_, BoxError>((status, reason))
        };
        // The connection is driven here and not in a task, so that it ends with the question.
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = connection => {
                ended?;
                answer.await
            }
        }
    }
}

impl Validator for HttpValidator {
    async fn validate(&self, request: &AuthRequest<'_>) -> Result<(), AuthError> {
        let unavailable = |why: BoxError| Err(AuthError::Unavailable(why));
        match timeout(self.patience, self.ask(request)).await {
            Ok(Ok((status, _))) if status.is_success() => Ok(()),
            Ok(Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, reason))) => {
                Err(AuthError::Refused(reason))
            }
            Ok(Ok((status, _))) => unavailable(format!("auth service says {status}").into()),
            Ok(Err(error)) => unavailable(error),
            Err(_) => unavailable(format!("no answer within {:?}", self.patience).into()),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // The relay's log; without a subscriber there is none.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut args = std::env::args().skip(1);
    let (Some(authority), Some(path)) = (args.next(), args.next()) else {
        return Err("usage: http_validator HOST:PORT /PATH".into());
    };
    let relay = Relay::builder()
        .exposed_address("rel://127.0.0.1:8080")
        .validator(HttpValidator::new(
            &authority,
            &path,
            Duration::from_secs(3),
        ))
        .build()?;
    let server = Server::builder(relay)
        .listen(["127.0.0.1:8080".parse()?])
        .bind()?;
    println!(
        "peers connect to ws://{}/relay, and http://{authority}{path} decides",
        server.local_addr()?
    );
    server.run(shutdown_signal()).await;
    Ok(())
}
