//! One connection, from its first byte to its close.
//!
//! The stages are request types: [`Incoming`] is anybody, [`Hello`] has said who it is, and only the authentication layer can
//! make an [`Authenticated`], which the peer loop takes. Knows nothing of HTTP and of other pods.

mod auth_layer;
mod closed;
mod error;
mod handshake_metrics;
mod health;
mod hello;
mod member;
mod peer_loop;
mod stack;
mod tally;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

pub use auth_layer::{AuthLayer, Authenticated};
pub use closed::{CloseReason, Closed};
pub use error::HandshakeError;
pub use hello::{Hello, HelloLayer};
pub(crate) use stack::accept;
pub(crate) use tally::Tally;

use crate::auth::DynValidator;
use crate::crosspod::{CrossPod, Locate};
use crate::memory::MemoryGuard;
use crate::outbox::QueuePolicy;
use crate::routing::{Presence, Registry};
use crate::stack::drain::Drain;
use crate::telemetry::counters::Counters;
use crate::telemetry::instruments::Instruments;
use crate::ticks::Ticks;
use crate::transport::RemoteAddr;

/// How long a connection may take to authenticate (peer-protocol.md, *Handshake*).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection of which nothing is known but where it comes from.
#[derive(Debug)]
pub struct Incoming<T> {
    /// What carries its messages.
    pub transport: T,
    /// Where it comes from.
    pub remote: RemoteAddr,
    /// When it was accepted.
    pub accepted: Instant,
}

/// What all connections of one relay share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) validator: Arc<dyn DynValidator>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) policy: Arc<QueuePolicy>,
    pub(crate) memory: MemoryGuard,
    pub(crate) counters: Arc<Counters>,
    pub(crate) instruments: Instruments,
    pub(crate) ticks: Ticks,
    pub(crate) drain: Drain,
    /// Set when the relay is built, or when it joins a cluster.
    pub(crate) cross_pod: OnceLock<Box<dyn CrossPod>>,
    pub(crate) locate: Option<Locate>,
    /// The whole *auth response* message.
    pub(crate) auth_response: Vec<u8>,
    pub(crate) health_check_threshold: u32,
    pub(crate) max_subscriptions: usize,
    /// The serial of the last registration.
    pub(crate) serial: AtomicU64,
}

impl Shared {
    /// Whether there is memory for one more peer.
    pub(crate) fn has_memory(&self) -> bool {
        !self.policy.is_exhausted() && !self.memory.is_low()
    }
}
