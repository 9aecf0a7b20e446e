//! What a load needs to know, in typed form, and what is refused before anything is sent.
//!
//! Owns [`Settings`]. Opens no connection, and reads neither the command line (`command.rs`) nor a file.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::error::LoadError;
use super::frame::{MAX_PAYLOAD, STAMP_BYTES};
use crate::auth::Secret;
use crate::proto::limits::TRANSPORT_HEADER_LEN;

/// Peers, messages in a window and the like: more than any relay has been seen with, and no number that was mistyped.
const COUNT_MAX: usize = 1_000_000;
/// What one write call may be given, and what all pairs together may hold ready, bytes.
const WRITE_MAX: usize = 16 * 1024 * 1024;
const WRITES_MAX: usize = 1024 * 1024 * 1024;

/// The largest payload of a message that fits one QUIC datagram of a path MTU of 1452 with every client.
const QUIC_SIZE_MAX: usize = 1377 - TRANSPORT_HEADER_LEN;

/// What is done to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Load {
    /// Each pair keeps a window of messages in flight.
    Flow,
    /// Each pair sends at a rate; one-way latency.
    Paced,
    /// Each pair sends all it can; losses are counted.
    Flood,
    /// Peers stay connected and say nothing.
    Idle,
    /// Peers connect, authenticate, and close.
    Churn,
    /// One receiver never reads; latency of the others, with and without it.
    Stall,
    /// Strangers attempt handshakes; latency of the peers, with and without them.
    Storm,
    /// One sender floods a receiver that reads slowly, others send at a modest rate: who gets what.
    Fair,
}

impl Load {
    /// All loads, in the order in which the help lists them.
    pub const ALL: [Self; 8] = [
        Self::Flow,
        Self::Paced,
        Self::Flood,
        Self::Idle,
        Self::Churn,
        Self::Stall,
        Self::Storm,
        Self::Fair,
    ];

    /// The word for it on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Paced => "paced",
            Self::Flood => "flood",
            Self::Idle => "idle",
            Self::Churn => "churn",
            Self::Stall => "stall",
            Self::Storm => "storm",
            Self::Fair => "fair",
        }
    }
}

/// What the traffic goes through.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Target {
    /// A relay of the peer protocol.
    Relay {
        /// Where it listens.
        address: SocketAddr,
        /// The `Host` of the upgrade request.
        host: String,
        /// The path of the upgrade request.
        route: String,
        /// What tokens are signed with.
        secret: Secret,
    },
    /// A TCP proxy that passes the same bytes on to a listener of ours: the yardstick.
    Proxy {
        /// Where the proxy listens.
        front: SocketAddr,
        /// Where the proxy forwards to; bound by the load while it runs.
        back: SocketAddr,
    },
}

impl Target {
    /// What the relay is called in requests, if that is another name than its address.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Relay { address, host, .. } => {
                (*host != address.to_string()).then_some(host.as_str())
            }
            Self::Proxy { .. } => None,
        }
    }

    /// Where the senders connect.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Relay { address, .. } => *address,
            Self::Proxy { front, .. } => *front,
        }
    }
}

/// Everything that a load needs to know. Fields that a load has no use for are ignored by it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is done.
    pub load: Load,
    /// What it is done to.
    pub target: Target,
    /// Pairs of a sender and a receiver; `fair`: modest senders.
    pub pairs: usize,
    /// Payload bytes of a message, 16 to 8782.
    pub size: usize,
    /// Messages in one write call.
    pub batch: usize,
    /// Messages a pair keeps in flight (`flow`).
    pub window: u64,
    /// Messages a second and pair (`paced`, `stall`), or and modest sender (`fair`).
    pub rate: f64,
    /// Messages a second that the common receiver reads (`fair`).
    pub receive_rate: f64,
    /// Whether modest senders send messages of the form of WireGuard handshakes, too (`fair`).
    pub handshakes: bool,
    /// Where receivers connect, if elsewhere than senders: to another pod of the same relay.
    pub receivers_on: Option<SocketAddr>,
    /// Over how long the connections are made.
    pub ramp_up: Duration,
    /// How long is measured; `idle` watches the quiet for as long.
    pub duration: Duration,
    /// How long the load runs before the measurement.
    pub warmup: Duration,
    /// Peers that are connected (`idle`).
    pub peers: usize,
    /// Connections being made at the same time (`churn`: 1 is one after another; others: while setting up).
    pub concurrency: usize,
    /// The relay's process, if it runs on this machine; of several pods, all that are to be added up.
    pub pids: Vec<u32>,
    /// Loopback addresses to connect from; 0 leaves it to the system.
    pub source_addresses: u32,
    /// TLS, as this says; none: plain TCP.
    pub tls: Option<Arc<ClientConfig>>,
    /// QUIC in the place of TCP, with the same trust.
    pub quic: bool,
    /// Whether Ctrl-C ends the measured time early, and what was measured until then is reported.
    pub interrupt: bool,
    /// Whether a progress line may be written to stderr.
    pub progress: bool,
}

impl Settings {
    /// A load with the defaults of the command line.
    pub fn new(load: Load, target: Target) -> Self {
        Self {
            load,
            target,
            pairs: if load == Load::Fair { 50 } else { 10 },
            size: 1280,
            batch: 1,
            window: 128,
            rate: 200.0,
            receive_rate: 5000.0,
            handshakes: false,
            receivers_on: None,
            ramp_up: Duration::ZERO,
            duration: Duration::from_secs(10),
            warmup: Duration::from_secs(1),
            peers: if load == Load::Storm { 10_000 } else { 1000 },
            concurrency: if load == Load::Churn { 1 } else { 64 },
            pids: Vec::new(),
            source_addresses: 0,
            tls: None,
            quic: false,
            interrupt: false,
            progress: false,
        }
    }

    /// So many connections of senders, and so many of receivers, with the addresses that they went to.
    pub(super) fn places(&self, senders: u64, receivers: u64) -> String {
        let address = self.target.address();
        match self.receivers_on {
            Some(elsewhere) => format!(
                "{senders} to {address} (--address), {receivers} to {elsewhere} (--receivers-on)"
            ),
            None => format!("{} to {address}", senders + receivers),
        }
    }

    /// The error of a load none of whose messages arrived.
    pub(super) fn nothing_arrived(&self, sent: u64) -> LoadError {
        let likely = if self.receivers_on.is_some() {
            "are the pods of --address and --receivers-on one relay? If not, relay_cluster_streams is 0, and \
             relay_messages_dropped_total counts the messages under the reason no_such_peer"
        } else {
            "relay_messages_dropped_total and relay_transport_queue_drops_total of the relay say why"
        };
        LoadError::NothingArrived { sent, likely }
    }

    /// Refuses what cannot be run, in words that name each option that is wrong.
    pub fn check(&self) -> Result<(), LoadError> {
        let mut mistakes = Vec::new();
        let mut refuse = |wrong: bool, text: String| {
            if wrong {
                mistakes.push(text);
            }
        };
        refuse(
            !(STAMP_BYTES..=MAX_PAYLOAD).contains(&self.size),
            format!(
                "--size must be {STAMP_BYTES} to {MAX_PAYLOAD} bytes, not {}",
                self.size
            ),
        );
        for (name, value) in [
            ("--pairs", self.pairs),
            ("--batch", self.batch),
            ("--peers", self.peers),
            ("--concurrency", self.concurrency),
        ] {
            refuse(
                !(1..=COUNT_MAX).contains(&value),
                format!("{name} must be 1 to {COUNT_MAX}, not {value}"),
            );
        }
        let write = self.batch.saturating_mul(self.size);
        refuse(
            write > WRITE_MAX,
            format!(
                "--batch times --size must be {WRITE_MAX} bytes (16 MiB) at most, not {write}: that is what one write call is given"
            ),
        );
        refuse(
            write <= WRITE_MAX
                && self.pairs <= COUNT_MAX
                && write.saturating_mul(self.pairs) > WRITES_MAX,
            format!(
                "--pairs times --batch times --size must be {WRITES_MAX} bytes (1 GiB) at most: each pair has its messages ready"
            ),
        );
        refuse(
            self.window > COUNT_MAX as u64,
            format!("--window must be {COUNT_MAX} at most, not {}", self.window),
        );
        let mut pids = self.pids.clone();
        pids.sort_unstable();
        refuse(
            pids.windows(2).any(|two| two[0] == two[1]),
            "--pid names the same process twice, which would count it twice".to_owned(),
        );
        refuse(
            self.load == Load::Flow && self.window < self.batch as u64,
            format!(
                "--window ({}) must not be smaller than --batch ({}): no write would ever be complete",
                self.window, self.batch
            ),
        );
        for (name, value) in [("--rate", self.rate), ("--receive-rate", self.receive_rate)] {
            refuse(
                !(value.is_finite() && value > 0.0),
                format!("{name} must be a number above 0, not {value}"),
            );
        }
        refuse(
            self.duration.is_zero(),
            "--duration must be longer than 0 s".to_owned(),
        );
        if self.source_addresses > 0 {
            let all = [Some(self.target.address()), self.receivers_on];
            for address in all.into_iter().flatten() {
                refuse(
                    !(address.is_ipv4() && address.ip().is_loopback()),
                    format!(
                        "--source-addresses binds 127.0.0.x and so needs an IPv4 loopback target, not {address}"
                    ),
                );
            }
        }
        refuse(
            self.source_addresses > 254,
            "--source-addresses must be 254 at most".to_owned(),
        );
        refuse(
            self.quic && self.size > QUIC_SIZE_MAX,
            format!(
                "--size must be {QUIC_SIZE_MAX} bytes at most with --quic, not {}: a message is one datagram",
                self.size
            ),
        );
        let needs_tcp = match self.load {
            Load::Stall | Load::Fair => {
                Some("what a QUIC receiver does not read holds nobody up, it is dropped")
            }
            Load::Storm => Some("its strangers break off handshakes of TCP, TLS and WebSocket"),
            Load::Flow | Load::Paced | Load::Flood | Load::Idle | Load::Churn => None,
        };
        refuse(
            self.quic && needs_tcp.is_some(),
            format!(
                "the {} load needs TCP, because {}: leave out --quic",
                self.load.name(),
                needs_tcp.unwrap_or_default()
            ),
        );
        refuse(
            matches!(self.load, Load::Stall | Load::Storm | Load::Fair)
                && matches!(self.target, Target::Proxy { .. }),
            format!(
                "the {} load needs a relay: a TCP proxy has one receiver a sender and no handshake",
                self.load.name()
            ),
        );
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(LoadError::Usage(mistakes.join("\n  ")))
    }
}
