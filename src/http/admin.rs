//! What operators and probes ask for: health, readiness, metrics (operations.md, *Health*).

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use tokio::sync::watch;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use crate::relay::Relay;
use crate::telemetry::prometheus::{self, PrometheusMetrics};
use crate::time::Clock;
use crate::tls::Certificates;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How far the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Starting,
    Ready,
    Stopping,
}

/// Whether the listeners are bound, and no shutdown has begun; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(watch::Sender<Stage>);

impl Readiness {
    /// Everything that must listen does.
    pub fn set_ready(&self) {
        self.0.send_replace(Stage::Ready);
    }

    /// A shutdown has begun: nobody new should be sent here.
    pub fn set_stopping(&self) {
        self.0.send_replace(Stage::Stopping);
    }

    /// Whether everything listens that must, and no shutdown has begun.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.0.borrow() == Stage::Ready
    }

    /// Whether a shutdown has begun.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        *self.0.borrow() == Stage::Stopping
    }

    /// Resolves when everything that must listen does. Cancel-safe.
    pub async fn ready(&self) {
        // Cannot fail: we hold a sender ourselves.
        let _ = self
            .0
            .subscribe()
            .wait_for(|stage| *stage != Stage::Starting)
            .await;
    }
}

/// NetBird's answer to `/health`.
#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
    timestamp: String,
    listeners: &'static [&'static str],
    /// None where this process has no certificate: TLS ends elsewhere.
    certificate_valid: Option<bool>,
    /// When the certificate expires (RFC 3339); none where there is none. Not in NetBird's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_expires: Option<String>,
    /// How many peers each transport carries; not in NetBird's answer.
    peers: BTreeMap<&'static str, u64>,
    /// And which part of all of them that is; none without peers.
    shares: BTreeMap<&'static str, f64>,
}

/// `/healthz`, `/readyz` and `/health`. Not ready before `readiness` says so, and from the first moment of a shutdown.
/// With `certificates`, `/health` wants one that is within its dates, too. `quic`: whether peers may come over QUIC.
pub fn health_router<S: Clone + Send + Sync + 'static>(
    relay: &Relay,
    readiness: &Readiness,
    clock: &Clock,
    certificates: Option<&Certificates>,
    quic: bool,
) -> Router<S> {
    let ready = {
        let (relay, readiness) = (relay.clone(), readiness.clone());
        move || readiness.is_ready() && !relay.is_draining()
    };
    let readyz = {
        let (relay, ready, readiness) = (relay.clone(), ready.clone(), readiness.clone());
        move || async move {
            if ready() {
                (StatusCode::OK, "ready\n")
            } else if readiness.is_stopping() || relay.is_draining() {
                (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
            }
        }
    };
    let clock = clock.clone();
    let certificates = certificates.cloned();
    let instruments = relay.instruments().clone();
    let health = move || async move {
        let seconds = clock.now_unix();
        let current = certificates.as_ref().and_then(Certificates::current);
        let certificate_expires = current.map(|certificate| certificate.expires().to_string());
        let certificate_valid = certificates.map(|certificates| certificates.is_valid_at(seconds));
        let listening = ready();
        let healthy = listening && certificate_valid != Some(false);
        let now = UNIX_EPOCH + Duration::from_secs(seconds);
        let transports = instruments.transports();
        let listed = if quic { &["ws", "quic"][..] } else { &["ws"] };
        let body = Health {
            status: if healthy { "healthy" } else { "unhealthy" },
            timestamp: humantime::format_rfc3339_seconds(now).to_string(),
            listeners: if listening { listed } else { &[] },
            certificate_valid,
            certificate_expires,
            peers: transports.iter().map(|it| (it.name, it.peers)).collect(),
            shares: transports
                .iter()
                .filter_map(|it| Some((it.name, it.share?)))
                .collect(),
        };
        let status = if healthy {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        (status, Json(body))
    };
    guarded(
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/health", get(health)),
    )
}

/// `/metrics` in Prometheus' text format.
pub fn metrics_router<S: Clone + Send + Sync + 'static>(metrics: PrometheusMetrics) -> Router<S> {
    let text = move || async move {
        match metrics.text() {
            Ok(text) => ([(CONTENT_TYPE, prometheus::CONTENT_TYPE)], text).into_response(),
            Err(error) => {
                tracing::error!(%error, "metrics could not be written");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    };
    guarded(Router::new().route("/metrics", get(text)))
}

/// A defect in a handler costs one answer, not the connection, and no answer takes for ever.
fn guarded<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.layer(ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(
        TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_TIMEOUT),
    ))
}
