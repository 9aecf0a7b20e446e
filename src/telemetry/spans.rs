//! Spans: what happens once a connection, once a lookup or once a process, never for each message.
//!
//! They go to whoever listens: the OTLP exporter, or an embedder's subscriber. Where nobody does, a span is one load of an
//! atomic. The log takes none of them: its lines have fields of their own.

use std::fmt::Display;

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::field::{self, Empty};
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The target of all spans, by which subscribers take or leave them.
pub const TARGET: &str = concat!(env!("CARGO_CRATE_NAME"), "::span");

/// From the first byte of a connection until it is a peer, or is refused. As small as a pointer: it is part of each peer's task.
#[derive(Debug, Default)]
pub struct ConnectionSpan(Option<Box<Span>>);

impl ConnectionSpan {
    /// Begins one, as a part of the trace that the request's headers name, if they do (W3C Trace Context).
    /// `protocol` is what carries it, in the words of the metrics' label `transport`.
    #[must_use]
    pub fn start(
        client: &impl Display,
        protocol: &'static str,
        headers: Option<&HeaderMap>,
    ) -> Self {
        let span = info_span!(
            target: TARGET,
            parent: None,
            "connection",
            otel.kind = "server",
            client.address = %client,
            network.protocol.name = protocol,
            relay.peer.id = Empty,
            error.type = Empty,
            otel.status_code = Empty,
        );
        if span.is_disabled() {
            return Self(None);
        }
        if let Some(headers) = headers {
            let propagator = TraceContextPropagator::new();
            let trace = propagator.extract_with_context(&Context::new(), &HeaderExtractor(headers));
            // Fails where another subscriber than ours takes the spans: it has no use for the trace.
            let _ = span.set_parent(trace);
        }
        Self(Some(Box::new(span)))
    }

    /// It was refused before its handshake had begun.
    pub fn refused(&self, reason: &'static str) {
        if let Some(span) = &self.0 {
            refuse(span, reason);
        }
    }

    /// The span itself, to be entered by the handshake.
    #[must_use]
    pub fn into_span(self) -> Span {
        self.0.map_or(Span::none(), |span| *span)
    }
}

/// What this span is about failed.
pub fn refuse(span: &Span, reason: &'static str) {
    span.record("error.type", reason);
    span.record("otel.status_code", "ERROR");
}

/// What the current span was about failed.
pub fn failed(reason: &'static str) {
    refuse(&Span::current(), reason);
}

/// The current span's connection says it is this peer.
pub fn peer(id: &impl Display) {
    Span::current().record("relay.peer.id", field::display(id));
}

/// The wait for the first message of a connection.
#[must_use]
pub fn hello() -> Span {
    info_span!(target: TARGET, "hello")
}

/// The question to the validator.
#[must_use]
pub fn authenticate() -> Span {
    info_span!(target: TARGET, "authenticate")
}

/// The question to the other pods who has a peer.
#[must_use]
pub fn lookup(peer: &impl Display) -> Span {
    info_span!(target: TARGET, parent: None, "lookup", otel.kind = "client", relay.peer.id = %peer, error.type = Empty, otel.status_code = Empty)
}

/// The way to another pod, from connecting to its answer.
#[must_use]
pub fn dial(pod: &impl Display) -> Span {
    info_span!(target: TARGET, parent: None, "dial", otel.kind = "client", network.peer.address = %pod, network.transport = "tcp", error.type = Empty, otel.status_code = Empty)
}

/// From the first word of a shutdown until all connections have ended.
#[must_use]
pub fn drain(peers: usize) -> Span {
    info_span!(target: TARGET, parent: None, "drain", relay.peers = peers)
}
