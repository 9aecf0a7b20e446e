//! Metrics and traces sent to a collector: OTLP over HTTP with protobuf, set up by OpenTelemetry's standard variables.
//!
//! Owns the two pipelines and their end. Each has a thread of its own that collects and encodes; the requests run on the
//! relay's runtime (`client`). A collector that cannot be reached costs a thread's time and a line in the log when it begins and
//! when it ends; spans beyond the queue of `OTEL_BSP_MAX_QUEUE_SIZE` are dropped.
//!
//! (OpenTelemetry specification, *Environment Variable Specification* and *OTLP Exporter Configuration*.)

mod client;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::warn;

use client::{Client, Exports};

/// How long the last spans and metrics may take at the end.
const FLUSH: Duration = Duration::from_secs(3);

/// Which signals are sent where. Headers, times, sampler and resource are read from the environment by the SDK; the reader of the
/// settings has judged them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtlpSettings {
    /// The URL that metrics are posted to.
    pub metrics: Option<String>,
    /// The URL that spans are posted to.
    pub traces: Option<String>,
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtlpError {
    /// The settings make no exporter.
    #[error("OTLP: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// An `https` collector, and no roots to check its certificate with.
    #[error(
        "OTLP: no certificate authority to check the collector with: {0}; install ca-certificates, or name a file of them with SSL_CERT_FILE"
    )]
    Roots(std::io::Error),
}

/// The pipelines to the collector. [`Otlp::shutdown`] sends what is left.
#[derive(Debug)]
pub struct Otlp {
    reader: Option<PeriodicReader<MetricExporter>>,
    tracer: Option<SdkTracerProvider>,
    resource: Resource,
    exports: Arc<Exports>,
}

impl Otlp {
    /// Sets up what the settings ask for; requests run on `runtime`. Nothing is sent yet, and nothing need listen there yet.
    ///
    /// # Errors
    /// See [`OtlpError`].
    pub fn start(settings: &OtlpSettings, runtime: &Handle) -> Result<Self, OtlpError> {
        let exports = Arc::<Exports>::default();
        let resource = resource();
        let client = |url: &str, signal| Client::new(url, signal, runtime.clone(), &exports);
        let reader = match &settings.metrics {
            Some(url) => {
                let exporter = MetricExporter::builder()
                    .with_http()
                    .with_endpoint(url)
                    .with_http_client(client(url, client::METRICS)?)
                    .build()?;
                Some(PeriodicReader::builder(exporter).build())
            }
            None => None,
        };
        let tracer = match &settings.traces {
            Some(url) => {
                let exporter = SpanExporter::builder()
                    .with_http()
                    .with_endpoint(url)
                    .with_http_client(client(url, client::TRACES)?)
                    .build()?;
                let provider = SdkTracerProvider::builder()
                    .with_batch_exporter(exporter)
                    .with_resource(resource.clone());
                Some(provider.build())
            }
            None => None,
        };
        Ok(Self {
            reader,
            tracer,
            resource,
            exports,
        })
    }

    /// What makes spans, if they are sent; the log's subscriber is given it ([`logging::init`](super::logging::init)).
    #[must_use]
    pub fn tracer(&self) -> Option<SdkTracer> {
        let provider = self.tracer.as_ref()?;
        Some(provider.tracer(env!("CARGO_PKG_NAME")))
    }

    /// What reads the metrics, if they are sent, and whose they are; for [`PrometheusMetrics`](super::prometheus::PrometheusMetrics).
    pub(super) fn metrics(&self) -> Option<(PeriodicReader<MetricExporter>, Resource)> {
        Some((self.reader.clone()?, self.resource.clone()))
    }

    /// Counts what is sent, and what is not.
    pub fn observe(&self, meter: &Meter) {
        self.exports.observe(meter);
    }

    /// Sends what is left, for 3 s at most, and ends both pipelines. Not cancel-safe: what was not sent then is lost.
    pub async fn shutdown(self, metrics: SdkMeterProvider) {
        let tracer = self.tracer;
        let (done, last) = oneshot::channel();
        // Both block, and wait for requests that run here. A thread of the runtime would hold up its end.
        let ending = std::thread::Builder::new().name("otlp-end".to_owned());
        let ending = ending.spawn(move || {
            let traces = tracer.map_or(Ok(()), |tracer| tracer.shutdown_with_timeout(FLUSH));
            let metrics = metrics.shutdown_with_timeout(FLUSH);
            // Nobody may be waiting any more.
            let _ = done.send(traces.and(metrics));
        });
        let sent = match ending {
            Ok(_) => timeout(FLUSH, last).await,
            Err(error) => return warn!(%error, "the last metrics and spans were not sent"),
        };
        match sent {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => warn!(%error, "the last metrics or spans were not sent"),
            Ok(Err(_)) | Err(_) => {
                warn!(
                    "the last metrics or spans were not sent: the collector did not answer within 3 s"
                );
            }
        }
    }
}

/// Who this is: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` come before what we know ourselves.
fn resource() -> Resource {
    let own = Resource::builder_empty().with_attributes([
        KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new(
            "service.instance.id",
            format!("{:032x}", rand::random::<u128>()),
        ),
    ]);
    // Kubernetes gives a pod its name as the name of the host.
    let host = std::env::var("HOSTNAME").ok();
    let own = own.with_attributes(host.map(|host| KeyValue::new("host.name", host)));
    let told = opentelemetry_sdk::resource::EnvResourceDetector::new();
    let own = own.with_detector(Box::new(told));
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => own.with_service_name(name),
        _ => own,
    }
    .build()
}
