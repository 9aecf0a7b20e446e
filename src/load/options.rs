//! What a load needs to know, in typed form, and what is refused before anything is sent.
//!
//! Owns [`Settings`]. Opens no connection, and reads neither the command line (`command.rs`) nor a file.

use std::net::SocketAddr;
use std::time::Duration;

use super::error::LoadError;
use super::frame::{MAX_PAYLOAD, STAMP_BYTES};
use crate::auth::Secret;

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
}

impl Load {
    /// All loads, in the order in which the help lists them.
    pub const ALL: [Self; 6] = [
        Self::Flow,
        Self::Paced,
        Self::Flood,
        Self::Idle,
        Self::Churn,
        Self::Stall,
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
    /// Pairs of a sender and a receiver.
    pub pairs: usize,
    /// Payload bytes of a message, 16 to 8782.
    pub size: usize,
    /// Messages in one write call.
    pub batch: usize,
    /// Messages a pair keeps in flight (`flow`).
    pub window: u64,
    /// Messages a second and pair (`paced`, `stall`).
    pub rate: f64,
    /// How long is measured; `idle` watches the quiet for as long.
    pub duration: Duration,
    /// How long the load runs before the measurement.
    pub warmup: Duration,
    /// Peers that are connected (`idle`).
    pub peers: usize,
    /// Connections being made at the same time (`churn`: 1 is one after another; others: while setting up).
    pub concurrency: usize,
    /// The relay's process, if it runs on this machine.
    pub pid: Option<u32>,
    /// Loopback addresses to connect from; 0 leaves it to the system.
    pub source_addresses: u32,
    /// Whether a progress line may be written to stderr.
    pub progress: bool,
}

impl Settings {
    /// A load with the defaults of the command line.
    pub fn new(load: Load, target: Target) -> Self {
        Self {
            load,
            target,
            pairs: 10,
            size: 1280,
            batch: 1,
            window: 128,
            rate: 200.0,
            duration: Duration::from_secs(10),
            warmup: Duration::from_secs(1),
            peers: 1000,
            concurrency: if load == Load::Churn { 1 } else { 64 },
            pid: None,
            source_addresses: 0,
            progress: false,
        }
    }

    /// Refuses what cannot be run, in words that name the option.
    pub fn check(&self) -> Result<(), LoadError> {
        let refuse = |text: String| Err(LoadError::Usage(text));
        if !(STAMP_BYTES..=MAX_PAYLOAD).contains(&self.size) {
            return refuse(format!(
                "--size must be {STAMP_BYTES} to {MAX_PAYLOAD} bytes, not {}",
                self.size
            ));
        }
        for (name, value) in [
            ("--pairs", self.pairs),
            ("--batch", self.batch),
            ("--peers", self.peers),
            ("--concurrency", self.concurrency),
        ] {
            if value == 0 {
                return refuse(format!("{name} must be at least 1"));
            }
        }
        if self.load == Load::Flow && self.window < self.batch as u64 {
            return refuse(format!(
                "--window ({}) must not be smaller than --batch ({}): no write would ever be complete",
                self.window, self.batch
            ));
        }
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return refuse(format!(
                "--rate must be a number above 0, not {}",
                self.rate
            ));
        }
        if self.duration.is_zero() {
            return refuse("--duration must be longer than 0 s".to_owned());
        }
        if self.source_addresses > 0 && !self.target.address().is_ipv4() {
            return refuse("--source-addresses needs an IPv4 loopback target".to_owned());
        }
        if self.source_addresses > 0 && !self.target.address().ip().is_loopback() {
            return refuse(format!(
                "--source-addresses binds 127.0.0.x and so needs a loopback target, not {}",
                self.target.address()
            ));
        }
        if self.source_addresses > 254 {
            return refuse("--source-addresses must be 254 at most".to_owned());
        }
        if self.load == Load::Stall && matches!(self.target, Target::Proxy { .. }) {
            return refuse(
                "the stall load needs a relay: a TCP proxy has one receiver a sender".to_owned(),
            );
        }
        Ok(())
    }
}
