//! Who gets a place: how many connections there may be, in all and from one address, and how often one address may begin
//! a handshake.
//!
//! Whoever takes connections in (a listener, the QUIC endpoint, the HTTP route under a server that is not ours) asks here before
//! it spends anything on one, and keeps the [`Permit`] until that connection is gone. It knows addresses only: what a
//! connection says, and what becomes of it, is not its affair.

mod table;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

use self::table::Table;
use crate::source::Source;
use crate::telemetry::instruments::Instruments;
use crate::telemetry::names;
use crate::transport::RemoteAddr;

/// How many handshakes one address may begin at once when the number of its connections has no limit.
const BURST: u32 = 16_384;

/// A refusal is counted each time and logged as a warning at most this often for each reason.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// The limits; in each of them 0 means that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one IPv4 address or one IPv6 /64.
    pub connections_per_address: usize,
    /// Handshakes a second from one such address, in the long run. At once it may begin as many as it may have connections:
    /// all of them may have to come back in the same second.
    pub handshake_rate_per_address: u32,
}

impl Default for Limits {
    /// No limit in all; 16,384 connections and 500 handshakes a second from one address.
    fn default() -> Self {
        Self {
            connections: 0,
            connections_per_address: 16_384,
            handshake_rate_per_address: 500,
        }
    }
}

impl Limits {
    /// Handshakes that one address may begin at once.
    fn burst(&self) -> u32 {
        let connections = match self.connections_per_address {
            0 => BURST,
            limit => u32::try_from(limit).unwrap_or(u32::MAX),
        };
        connections.max(self.handshake_rate_per_address)
    }
}

/// Why somebody gets no place. It has been counted and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There are as many connections as there may be.
    #[error("as many connections as --max-connections allows")]
    Connections,
    /// The address has as many connections as it may have.
    #[error("as many connections from this address as --max-connections-per-address allows")]
    ConnectionsPerAddress,
    /// The address begins handshakes faster than it may.
    #[error("more handshakes from this address than --handshake-rate-per-address allows")]
    HandshakeRate,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::HandshakeRate,
    ];

    /// The label `reason` of `relay_handshake_refusals_total`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Connections => "max_connections",
            Self::ConnectionsPerAddress => "max_connections_per_address",
            Self::HandshakeRate => "handshake_rate",
        }
    }
}

/// What all handles share.
struct Shared {
    limits: Limits,
    open: AtomicUsize,
    table: Mutex<Table>,
    instruments: Instruments,
    began: Instant,
    /// When each reason was last logged as a warning, in milliseconds since `began`, plus one; 0: never.
    warned: [AtomicU64; Refusal::ALL.len()],
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("limits", &self.limits)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

/// Gives out places; clones are handles to the same ones.
#[derive(Debug, Clone)]
pub struct Admission(Arc<Shared>);

impl Admission {
    pub(crate) fn new(limits: Limits, instruments: Instruments) -> Self {
        instruments.expect_handshake_refusals(&Refusal::ALL.map(Refusal::reason));
        let shared = Arc::new(Shared {
            limits,
            open: AtomicUsize::new(0),
            table: Mutex::new(Table::new(
                limits.connections_per_address,
                limits.handshake_rate_per_address,
                limits.burst(),
            )),
            instruments,
            began: Instant::now(),
            warned: Default::default(),
        });
        let open = Arc::downgrade(&shared);
        shared
            .instruments
            .meter()
            .u64_observable_gauge(names::CONNECTIONS)
            .with_description(
                "Connections that hold a place: peers, and those that are not peers yet.",
            )
            .with_callback(move |observer| {
                if let Some(shared) = open.upgrade() {
                    observer.observe(shared.open.load(Ordering::Relaxed) as u64, &[]);
                }
            })
            .build();
        Self(shared)
    }

    /// A place for a connection that comes from `client`, whose handshake begins now. While the address is unknown, because a
    /// proxy has yet to say it, only the number of all connections counts; tell it to the permit then
    /// ([`Permit::identify`]). Never waits.
    ///
    /// # Errors
    /// Why there is no place. That has been counted and logged; the caller ends the connection.
    pub fn admit(&self, client: RemoteAddr) -> Result<Permit, Refusal> {
        let limit = match self.0.limits.connections {
            0 => usize::MAX,
            limit => limit,
        };
        let more = |open| (open < limit).then_some(open + 1);
        let counted = self
            .0
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if counted.is_err() {
            return Err(self.0.refuse(Refusal::Connections, client));
        }
        // From here on the place is given back by itself.
        let permit = Permit(Arc::new(Place {
            shared: Arc::clone(&self.0),
            source: Mutex::new(None),
        }));
        permit.identify(client)?;
        Ok(permit)
    }

    /// Connections that hold a place now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.0.limits
    }
}

impl Shared {
    /// Counts and logs a refusal.
    fn refuse(&self, refusal: Refusal, client: RemoteAddr) -> Refusal {
        let reason = refusal.reason();
        self.instruments.handshake_refused(reason);
        debug!(client.address = %client, error.type = reason, "connection refused: {refusal}");
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        let last = &self.warned[refusal as usize];
        let due = |last: u64| {
            let interval = WARN_INTERVAL.as_millis() as u64;
            (last == 0 || now + 1 >= last + interval).then_some(now + 1)
        };
        // Who refuses thousands a second must not write as many lines.
        if last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, due)
            .is_ok()
        {
            warn!(
                client.address = %client,
                error.type = reason,
                "connection refused, and others may be: {refusal} (relay_handshake_refusals_total counts them; if this is the address \
                 of a proxy of yours, let it tell who is behind it: --trusted-proxies)"
            );
        }
        refusal
    }
}

/// A connection's place. Clones are the same place, which is free again when the last of them is dropped.
#[derive(Debug, Clone)]
pub struct Permit(Arc<Place>);

#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    source: Mutex<Option<Source>>,
}

impl Permit {
    /// From now on the connection counts as one of `client`, for instance because a trusted proxy has said so, and no longer as
    /// one of who it was before. Saying the same address twice is no second handshake; an unknown one changes nothing.
    ///
    /// # Errors
    /// If that address may have no more connections or handshakes. That has been counted and logged; the caller ends the
    /// connection.
    pub fn identify(&self, client: RemoteAddr) -> Result<(), Refusal> {
        let Some(address) = client.get() else {
            return Ok(());
        };
        let source = Source::from(address.ip());
        let shared = &self.0.shared;
        let mut held = self.0.source.lock();
        if *held == Some(source) {
            return Ok(());
        }
        let mut table = shared.table.lock();
        let admitted = table.enter(source, shared.began.elapsed());
        if admitted.is_ok()
            && let Some(before) = held.replace(source)
        {
            table.leave(before);
        }
        drop(table);
        admitted.map_err(|refusal| shared.refuse(refusal, client))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(source) = *self.source.get_mut() {
            self.shared.table.lock().leave(source);
        }
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
