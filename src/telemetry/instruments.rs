//! The relay's instruments, built once from an OpenTelemetry meter.
//!
//! What happens once a connection is recorded here; what happens for each message is counted in [`Counters`] and only read
//! from here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

use super::counters::{Counters, DropReason};
use super::log_limit::LogLimit;
use super::names;
use crate::proto::peer::MessageType;

/// What the gauges ask for when somebody reads the metrics.
pub trait Gauges: Send + Sync + 'static {
    /// Peers that sent something lately, and peers that did not.
    fn active_and_idle(&self) -> (u64, u64);
    /// Bytes of memory that all queues hold, and that they may hold.
    fn queue_bytes_and_budget(&self) -> (u64, u64);
}

/// One transport: its name, how many peers it carries, and whether peers may come over it.
#[derive(Debug)]
struct TransportPeers {
    name: &'static str,
    peers: AtomicU64,
    is_offered: AtomicBool,
}

type PeersByTransport = Box<[TransportPeers]>;

/// What one transport carries.
#[derive(Debug, Clone, Copy)]
pub struct TransportLoad {
    /// Its name, the label `transport`.
    pub name: &'static str,
    /// Peers connected over it.
    pub peers: u64,
    /// Which part of all peers that is; none without peers.
    pub share: Option<f64>,
}

fn loads(peers: &PeersByTransport) -> Vec<TransportLoad> {
    let counts: Vec<_> = peers
        .iter()
        .map(|transport| (transport, transport.peers.load(Ordering::Relaxed)))
        .collect();
    let all: u64 = counts.iter().map(|(_, peers)| peers).sum();
    let shown = counts
        .into_iter()
        .filter(|(transport, peers)| *peers > 0 || transport.is_offered.load(Ordering::Relaxed));
    let load = |(transport, peers): (&TransportPeers, u64)| TransportLoad {
        name: transport.name,
        peers,
        share: (all > 0).then(|| peers as f64 / all as f64),
    };
    shown.map(load).collect()
}

/// The instruments; cheap to clone.
#[derive(Debug, Clone)]
pub struct Instruments {
    peers: Arc<PeersByTransport>,
    authentication_time: Histogram<f64>,
    store_time: Histogram<f64>,
    reconnections: Counter<u64>,
    takeovers: Counter<u64>,
    authentication_failures: Counter<u64>,
    handshake_timeouts: Counter<u64>,
    handshake_refusals: Counter<u64>,
    tls_handshake_failures: Counter<u64>,
    meter: Meter,
    stun_requests: Counter<u64>,
    log_limit: Arc<LogLimit>,
}

/// One connected peer, as long as it lives: a peer cannot be counted in and never out.
#[derive(Debug)]
pub struct ConnectedGuard {
    peers: Arc<PeersByTransport>,
    transport: usize,
}

impl Drop for ConnectedGuard {
    fn drop(&mut self) {
        self.peers[self.transport]
            .peers
            .fetch_sub(1, Ordering::Relaxed);
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

impl Instruments {
    /// Builds the instruments; `counters` are read whenever the meter's reader asks. `transports` are the values of the label
    /// `transport`; the first is always offered, and what is offered is always shown.
    #[must_use]
    pub fn new(meter: &Meter, counters: &Arc<Counters>, transports: &[&'static str]) -> Self {
        let histogram = |name: &'static str, what: &'static str| {
            meter
                .f64_histogram(name)
                .with_description(what)
                .with_boundaries(names::MILLISECOND_BOUNDS.to_vec())
                .build()
        };
        let counter = |name: &'static str, what: &'static str| {
            meter.u64_counter(name).with_description(what).build()
        };
        let instruments = Self {
            peers: Arc::new(
                transports
                    .iter()
                    .enumerate()
                    .map(|(number, &name)| TransportPeers {
                        name,
                        peers: AtomicU64::new(0),
                        is_offered: AtomicBool::new(number == 0),
                    })
                    .collect(),
            ),
            authentication_time: histogram(
                names::AUTHENTICATION_TIME,
                "Time from accepting a connection to the end of its authentication.",
            ),
            store_time: histogram(names::STORE_TIME, "Time to register a peer."),
            reconnections: counter(
                names::RECONNECTIONS,
                "Connections that took the place of an older one of the same peer.",
            ),
            takeovers: counter(
                names::TAKEOVERS,
                "Connections ended because the same peer connected again.",
            ),
            authentication_failures: counter(
                names::AUTHENTICATION_FAILURES,
                "Refused tokens by reason.",
            ),
            handshake_timeouts: counter(
                names::HANDSHAKE_TIMEOUTS,
                "Connections that took too long to become peers, by stage.",
            ),
            handshake_refusals: counter(
                names::HANDSHAKE_REFUSALS,
                "Connections refused before or without authentication, by reason.",
            ),
            tls_handshake_failures: counter(
                names::TLS_HANDSHAKE_FAILURES,
                "TLS handshakes that failed, by reason.",
            ),
            meter: meter.clone(),
            stun_requests: counter(
                names::STUN_REQUESTS,
                "Datagrams that came to the STUN server, by result.",
            ),
            log_limit: Arc::default(),
        };
        instruments.start_at_zero();
        instruments.observe_peers(meter);
        observe_counters(meter, counters);
        instruments
    }

    /// Shows what can be named beforehand from the start: an alert on an increase must see the first event, too.
    fn start_at_zero(&self) {
        self.reconnections.add(0, &[]);
        for scope in ["local", "cluster"] {
            self.takeovers.add(0, &[KeyValue::new(names::SCOPE, scope)]);
        }
        for stage in ["tls", "upgrade", "auth"] {
            self.handshake_timeouts
                .add(0, &[KeyValue::new(names::STAGE, stage)]);
        }
        for reason in ["bad_signature", "expired"] {
            self.authentication_failures
                .add(0, &[KeyValue::new(names::REASON, reason)]);
        }
    }

    /// A peer connected over the transport of this number; it counts until the guard is dropped.
    #[must_use]
    pub fn connected(&self, transport: usize) -> ConnectedGuard {
        self.peers[transport].peers.fetch_add(1, Ordering::Relaxed);
        ConnectedGuard {
            peers: Arc::clone(&self.peers),
            transport,
        }
    }

    /// Peers may come over the transport of this number: it is shown from now on, also while it carries nobody.
    pub fn offers(&self, transport: usize) {
        self.peers[transport]
            .is_offered
            .store(true, Ordering::Relaxed);
    }

    /// What each transport carries that is offered, or carries anything.
    #[must_use]
    pub fn transports(&self) -> Vec<TransportLoad> {
        loads(&self.peers)
    }

    /// A handshake succeeded after this time.
    pub fn authenticated(&self, after: Duration) {
        self.authentication_time.record(milliseconds(after), &[]);
    }

    /// A peer was registered within this time.
    pub fn stored(&self, within: Duration) {
        self.store_time.record(milliseconds(within), &[]);
    }

    /// A peer took the place of its older connection on this pod.
    pub fn taken_over(&self) {
        self.reconnections.add(1, &[]);
        self.takeovers
            .add(1, &[KeyValue::new(names::SCOPE, "local")]);
    }

    /// A peer took the place of its connection on this pod by connecting to another pod.
    pub fn taken_over_by_pod(&self) {
        self.takeovers
            .add(1, &[KeyValue::new(names::SCOPE, "cluster")]);
    }

    /// A token was refused.
    pub fn authentication_failed(&self, reason: &'static str) {
        self.authentication_failures
            .add(1, &[KeyValue::new(names::REASON, reason)]);
    }

    /// What keeps strangers from filling the log.
    pub(crate) fn log_limit(&self) -> &LogLimit {
        &self.log_limit
    }

    /// Where rooms with metrics of their own, such as the certificates, register them.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Shows that no TLS handshake has failed yet for any of these reasons.
    pub fn expect_tls_failures(&self, reasons: &[&'static str]) {
        for reason in reasons {
            self.tls_handshake_failures
                .add(0, &[KeyValue::new(names::REASON, *reason)]);
        }
    }

    /// Shows that nobody has been refused yet for any of these reasons.
    pub fn expect_handshake_refusals(&self, reasons: &[&'static str]) {
        for reason in reasons {
            self.handshake_refusals
                .add(0, &[KeyValue::new(names::REASON, *reason)]);
        }
    }

    /// A TLS handshake failed.
    pub fn tls_handshake_failed(&self, reason: &'static str) {
        self.tls_handshake_failures
            .add(1, &[KeyValue::new(names::REASON, reason)]);
    }

    /// A connection took too long: in its `proxy` header, in `tls`, in the `upgrade` or in `auth`.
    pub fn handshake_timed_out(&self, stage: &'static str) {
        self.handshake_timeouts
            .add(1, &[KeyValue::new(names::STAGE, stage)]);
    }

    /// A connection was refused for another reason than its token.
    pub fn handshake_refused(&self, reason: &'static str) {
        self.handshake_refusals
            .add(1, &[KeyValue::new(names::REASON, reason)]);
    }

    /// A STUN server is there: its series start.
    pub(crate) fn stun_starts(&self, results: &[&'static str]) {
        for result in results {
            self.stun_requests
                .add(0, &[KeyValue::new(names::RESULT, *result)]);
        }
    }

    /// A datagram came to the STUN server, and this became of it.
    pub(crate) fn stun_request(&self, result: &'static str) {
        self.stun_requests
            .add(1, &[KeyValue::new(names::RESULT, result)]);
    }

    fn observe_peers(&self, meter: &Meter) {
        let peers = Arc::clone(&self.peers);
        meter
            .u64_observable_gauge(names::PEERS)
            .with_description("Connected peers by transport.")
            .with_callback(move |observer| {
                for load in loads(&peers) {
                    observer.observe(load.peers, &[KeyValue::new(names::TRANSPORT, load.name)]);
                }
            })
            .build();
        let peers = Arc::clone(&self.peers);
        meter
            .f64_observable_gauge(names::PEERS_SHARE)
            .with_description("Which part of the connected peers a transport carries, 0 to 1.")
            .with_callback(move |observer| {
                for load in loads(&peers) {
                    if let Some(share) = load.share {
                        observer.observe(share, &[KeyValue::new(names::TRANSPORT, load.name)]);
                    }
                }
            })
            .build();
        meter
            .u64_observable_gauge(names::BUILD_INFO)
            .with_description("Always 1; the version is the label.")
            .with_callback(|observer| {
                observer.observe(
                    1,
                    &[KeyValue::new(names::VERSION, env!("CARGO_PKG_VERSION"))],
                );
            })
            .build();
    }
}

/// Registers the gauges. A callback that finds its relay gone observes nothing.
pub fn observe_gauges(meter: &Meter, gauges: &Arc<impl Gauges>) {
    type Read<G> = fn(&G) -> u64;
    fn gauge<G: Gauges>(
        meter: &Meter,
        name: &'static str,
        what: &'static str,
        of: &Arc<G>,
        read: Read<G>,
    ) {
        let gauges = Arc::downgrade(of);
        meter
            .u64_observable_gauge(name)
            .with_description(what)
            .with_callback(move |observer| {
                if let Some(gauges) = gauges.upgrade() {
                    observer.observe(read(&gauges), &[]);
                }
            })
            .build();
    }
    gauge(
        meter,
        names::PEERS_ACTIVE,
        "Peers that sent something in the last 30 s.",
        gauges,
        |gauges| gauges.active_and_idle().0,
    );
    gauge(
        meter,
        names::PEERS_IDLE,
        "Peers that sent nothing in the last 30 s.",
        gauges,
        |gauges| gauges.active_and_idle().1,
    );
    gauge(
        meter,
        names::QUEUE_BYTES,
        "Bytes of memory that all queues hold.",
        gauges,
        |gauges| gauges.queue_bytes_and_budget().0,
    );
    gauge(
        meter,
        names::QUEUE_BUDGET_BYTES,
        "Bytes of memory that all queues may hold.",
        gauges,
        |gauges| gauges.queue_bytes_and_budget().1,
    );
}

fn observe_counters(meter: &Meter, counters: &Arc<Counters>) {
    let of = Arc::clone(counters);
    meter
        .u64_observable_counter(names::TRANSFER_RECEIVED_BYTES)
        .with_description("Bytes of transport messages received.")
        .with_callback(move |observer| observer.observe(of.transfer_bytes().0, &[]))
        .build();
    let of = Arc::clone(counters);
    meter
        .u64_observable_counter(names::TRANSFER_SENT_BYTES)
        .with_description("Bytes of transport messages delivered.")
        .with_callback(move |observer| observer.observe(of.transfer_bytes().1, &[]))
        .build();
    let of = Arc::clone(counters);
    meter
        .u64_observable_counter(names::MESSAGES)
        .with_description("Messages by type and direction.")
        .with_callback(move |observer| {
            for (direction, count) in [
                ("received_from_pod", of.received_from_pods_count()),
                ("forwarded", of.forwarded_count()),
            ] {
                let labels = [
                    KeyValue::new(names::TYPE, MessageType::Transport.name()),
                    KeyValue::new(names::DIRECTION, direction),
                ];
                observer.observe(count, &labels);
            }
            for kind in MessageType::ALL {
                for (direction, count) in [
                    ("received", of.received_count(kind)),
                    ("sent", of.sent_count(kind)),
                ] {
                    if count > 0 || kind == MessageType::Transport {
                        let labels = [
                            KeyValue::new(names::TYPE, kind.name()),
                            KeyValue::new(names::DIRECTION, direction),
                        ];
                        observer.observe(count, &labels);
                    }
                }
            }
        })
        .build();
    for (name, what, queue) in [
        (
            names::QUEUE_DROPS,
            "Transport messages that a queue dropped, by reason.",
            true,
        ),
        (
            names::MESSAGES_DROPPED,
            "Messages dropped for other reasons than a queue, by reason.",
            false,
        ),
    ] {
        let of = Arc::clone(counters);
        meter
            .u64_observable_counter(name)
            .with_description(what)
            .with_callback(move |observer| {
                for reason in DropReason::ALL {
                    if reason.is_queue() == queue {
                        let label = KeyValue::new(names::REASON, reason.reason());
                        observer.observe(of.dropped_count(reason), &[label]);
                    }
                }
            })
            .build();
    }
}
