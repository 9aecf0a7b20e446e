//! A meter whose instruments are read as Prometheus text.

use super::otlp::Otlp;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder, Registry, TextEncoder};

/// The content type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// The exporter could not be set up.
    #[error("metrics exporter: {0}")]
    Exporter(String),
    /// The metrics could not be written as text.
    #[error("metrics as text: {0}")]
    Encode(#[from] prometheus::Error),
}

/// Metrics of this process in Prometheus' text format; cheap to clone.
#[derive(Debug, Clone)]
pub struct PrometheusMetrics {
    registry: Registry,
    provider: SdkMeterProvider,
}

impl PrometheusMetrics {
    /// An empty registry with its own meter provider.
    ///
    /// # Errors
    /// If the exporter cannot be registered.
    pub fn new() -> Result<Self, MetricsError> {
        Self::with_otlp(None)
    }

    /// The same, and what is in it is sent to the collector, too, if metrics are.
    ///
    /// # Errors
    /// If the exporter cannot be registered.
    pub fn with_otlp(otlp: Option<&Otlp>) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // The names are given whole, and dashboards query them without these labels.
            .without_units()
            .without_target_info()
            .scope_info_enabled(false)
            .build()
            .map_err(|error| MetricsError::Exporter(error.to_string()))?;
        let provider = SdkMeterProvider::builder().with_reader(exporter);
        let provider = match otlp.and_then(Otlp::metrics) {
            Some((reader, resource)) => provider.with_reader(reader).with_resource(resource),
            None => provider,
        };
        Ok(Self {
            registry,
            provider: provider.build(),
        })
    }

    /// The meter to build a relay with.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.provider.meter("trunkline")
    }

    /// What the metrics come from, to be ended with [`Otlp::shutdown`].
    #[must_use]
    pub fn provider(&self) -> SdkMeterProvider {
        self.provider.clone()
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// If a metric cannot be written, which would be a defect.
    pub fn text(&self) -> Result<String, MetricsError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
