//! The HTTP client of the exporters.
//!
//! Exporters call it from threads of their own, which wait; the request itself runs on the relay's runtime. It says in the
//! log when a collector stops answering and when it answers again, and nothing in between.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{self, Body};
use bytes::Bytes;
use http::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use opentelemetry_http::{HttpClient, HttpError};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::{info, warn};

use super::OtlpError;
use crate::telemetry::names;

/// The signals, by their names.
pub(super) const METRICS: usize = 0;
pub(super) const TRACES: usize = 1;
const SIGNALS: [&str; 2] = ["metrics", "traces"];

/// The longest answer that is read; a collector's are a few bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// The time that one request may take when `OTEL_EXPORTER_OTLP_TIMEOUT` says nothing (OTLP specification).
const TIMEOUT: Duration = Duration::from_secs(10);

/// What has been sent, and what could not be.
#[derive(Debug, Default)]
pub(super) struct Exports {
    sent: [AtomicU64; SIGNALS.len()],
    failed: [AtomicU64; SIGNALS.len()],
}

impl Exports {
    pub(super) fn observe(self: &Arc<Self>, meter: &Meter) {
        let exports = Arc::clone(self);
        meter
            .u64_observable_counter(names::OTLP_EXPORTS)
            .with_description("Requests to the OTLP collector, by signal and result.")
            .with_callback(move |observer| {
                for (result, counts) in [("ok", &exports.sent), ("failed", &exports.failed)] {
                    for (signal, count) in SIGNALS.iter().zip(counts) {
                        let labels = [
                            KeyValue::new(names::SIGNAL, *signal),
                            KeyValue::new(names::RESULT, result),
                        ];
                        observer.observe(count.load(Ordering::Relaxed), &labels);
                    }
                }
            })
            .build();
    }
}

/// Posts one signal's exports. Clones share what they know of the collector.
#[derive(Clone)]
pub(super) struct Client {
    http: HyperClient<HttpsConnector<HttpConnector>, Body>,
    runtime: Handle,
    signal: usize,
    timeout: Duration,
    failing: Arc<AtomicBool>,
    exports: Arc<Exports>,
}

// By hand: hyper's client has nothing to say, and requests have headers that may be secret.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("signal", &SIGNALS[self.signal])
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(
        url: &str,
        signal: usize,
        runtime: Handle,
        exports: &Arc<Exports>,
    ) -> Result<Self, OtlpError> {
        let provider = aws_lc_rs::default_provider();
        let builder = HttpsConnectorBuilder::new();
        // Reading all of a machine's roots takes time that a collector next door does not need.
        let builder = if url.starts_with("https:") {
            builder
                .with_provider_and_native_roots(provider)
                .map_err(OtlpError::Roots)?
        } else {
            let none = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .expect("the provider has ciphers for them")
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            builder.with_tls_config(none)
        };
        let connector = builder.https_or_http().enable_http1().build();
        let told = ["TRACES_TIMEOUT", "TIMEOUT"];
        let told = if signal == METRICS {
            ["METRICS_TIMEOUT", told[1]]
        } else {
            told
        };
        let told = told.iter().find_map(|name| {
            let value = std::env::var(format!("OTEL_EXPORTER_OTLP_{name}")).ok()?;
            value.trim().parse().ok().map(Duration::from_millis)
        });
        Ok(Self {
            http: HyperClient::builder(TokioExecutor::new()).build(connector),
            runtime,
            signal,
            timeout: told.unwrap_or(TIMEOUT),
            failing: Arc::default(),
            exports: Arc::clone(exports),
        })
    }

    async fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let exchange = async {
            let response = self.http.request(request.map(Body::from)).await?;
            let (head, answer) = response.into_parts();
            let answer = body::to_bytes(Body::new(answer), ANSWER_MAX).await?;
            Ok(Response::from_parts(head, answer))
        };
        timeout(self.timeout, exchange).await?
    }

    /// Counts it; the first of a row of failures, and the end of the row, are worth a line.
    fn record(&self, result: &Result<Response<Bytes>, HttpError>) {
        let signal = SIGNALS[self.signal];
        let trouble = match result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(error) => Some(chain(error.as_ref())),
        };
        let counts = match trouble {
            None => &self.exports.sent,
            Some(_) => &self.exports.failed,
        };
        counts[self.signal].fetch_add(1, Ordering::Relaxed);
        let failed_before = self.failing.swap(trouble.is_some(), Ordering::Relaxed);
        match trouble {
            Some(error) if !failed_before => {
                warn!(
                    signal,
                    error,
                    "the OTLP collector does not take what is sent: tried again, and not said again until it does"
                );
            }
            None if failed_before => info!(signal, "the OTLP collector takes what is sent again"),
            _ => {}
        }
    }
}

/// An error and its causes: hyper's own words are only "client error (Connect)".
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let client = self.clone();
        // Spawned, because the thread that asks has no runtime; it waits for the task's handle, which needs none.
        let task = self.runtime.spawn(async move {
            let result = client.post(request).await;
            client.record(&result);
            result
        });
        Box::pin(async move { task.await? })
    }
}
