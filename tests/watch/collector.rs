//! An OTLP collector that takes the bytes apart, with TLS or without.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::serve::Listener;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
pub(crate) struct Collector {
    /// Path, headers and body of each request.
    pub(crate) got: Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>,
}

impl Collector {
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Self::on(listener), address)
    }

    pub(crate) fn on<L: Listener>(listener: L) -> Self
    where
        L::Addr: std::fmt::Debug,
    {
        async fn take(
            State(collector): State<Collector>,
            uri: Uri,
            headers: HeaderMap,
            body: Bytes,
        ) {
            collector
                .got
                .lock()
                .push((uri.path().to_owned(), headers, body));
        }
        let collector = Self::default();
        let router = Router::new().fallback(take).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        collector
    }

    /// All spans so far, and the attributes of whose they are.
    pub(crate) fn spans(&self) -> Vec<(Span, Vec<KeyValue>)> {
        let got = self.got.lock();
        let bodies = got.iter().filter(|(path, ..)| path == "/v1/traces");
        let requests =
            bodies.map(|(.., body)| ExportTraceServiceRequest::decode(&body[..]).unwrap());
        let resources = requests.flat_map(|request| request.resource_spans);
        resources
            .flat_map(|of| {
                let resource = of.resource.unwrap_or_default().attributes;
                let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans
                    .map(move |span| (span, resource.clone()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    pub(crate) fn span(&self, name: &str) -> Option<Span> {
        let mut spans = self.spans().into_iter();
        spans
            .find(|(span, _)| span.name == name)
            .map(|(span, _)| span)
    }

    /// The names of all metrics so far.
    pub(crate) fn metrics(&self) -> BTreeSet<String> {
        let got = self.got.lock();
        let bodies = got.iter().filter(|(path, ..)| path == "/v1/metrics");
        let requests =
            bodies.map(|(.., body)| ExportMetricsServiceRequest::decode(&body[..]).unwrap());
        let scopes = requests.flat_map(|request| request.resource_metrics);
        let scopes = scopes.flat_map(|resource| resource.scope_metrics);
        let metrics = scopes.flat_map(|scope| scope.metrics);
        metrics.map(|metric| metric.name).collect()
    }
}

/// A listener of connections with TLS; those that fail in it are passed over.
pub(crate) struct TlsListener {
    pub(crate) tcp: TcpListener,
    pub(crate) tls: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.tcp.accept().await.unwrap();
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

/// The value of an attribute, as text.
pub(crate) fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        other => Some(format!("{other:?}")),
    }
}
