//! Who gets a place: how many connections and handshakes there may be, in all and from one address, and how often one address may
//! begin a handshake.
//!
//! Whoever takes connections in (a listener, the QUIC endpoint, the HTTP route under a server that is not ours) asks here before
//! it spends anything on one, and keeps the [`Permit`] until that connection is gone. It knows addresses only: what a
//! connection says, and what becomes of it, is not its affair.

mod handshake;
mod table;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::handshake::{Handshake, Turn};
use self::table::Table;
use crate::source::Source;
use crate::telemetry::instruments::Instruments;
use crate::telemetry::log_limit::log_rarely;
use crate::telemetry::names;
use crate::transport::RemoteAddr;

/// How many handshakes one address may begin at once when the number of its connections has no limit.
const BURST: u32 = 16_384;

/// Which part of all handshakes at once may be those of one address, or of one IPv6 network of 48 bits, and how many it may have in any
/// case (if there may be so many).
const SHARE: usize = 16;
const SITE_SHARE: usize = 4;
const SHARE_MIN: usize = 64;

/// The limits; in each of them 0 means that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one IPv4 address or one IPv6 /64.
    pub connections_per_address: usize,
    /// Handshakes at once: from the first byte of a connection until it is a peer. One address may have a sixteenth of them, an IPv6
    /// /48 a quarter, 64 in any case; its others wait for their turn.
    pub handshakes: usize,
    /// Handshakes a second from one such address, in the long run. At once it may begin as many as it may have connections:
    /// all of them may have to come back in the same second.
    pub handshake_rate_per_address: u32,
}

impl Default for Limits {
    /// No limit on connections in all, and 16,384 handshakes at once; 16,384 connections and 500 handshakes a second from one
    /// address.
    fn default() -> Self {
        Self {
            connections: 0,
            connections_per_address: 16_384,
            handshakes: 16_384,
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

    fn handshakes(&self) -> usize {
        match self.handshakes {
            0 => Semaphore::MAX_PERMITS,
            limit => limit.min(Semaphore::MAX_PERMITS),
        }
    }

    /// Handshakes at once of one address.
    fn handshakes_per_address(&self) -> usize {
        self.handshakes_of(SHARE)
    }

    fn handshakes_of(&self, share: usize) -> usize {
        let all = self.handshakes();
        (all / share).max(SHARE_MIN).min(all)
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
    /// There are as many handshakes as there may be.
    #[error("as many handshakes at once as --max-handshakes allows")]
    Handshakes,
    /// The address, or its IPv6 network of 48 bits, has as many handshakes as are its share, and none of them was done in time.
    #[error("as many handshakes at once from this address as are its share of --max-handshakes")]
    HandshakesPerAddress,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::HandshakeRate,
        Self::Handshakes,
        Self::HandshakesPerAddress,
    ];

    /// The label `reason` of `relay_handshake_refusals_total`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Connections => "max_connections",
            Self::ConnectionsPerAddress => "max_connections_per_address",
            Self::HandshakeRate => "handshake_rate",
            Self::Handshakes => "overloaded",
            Self::HandshakesPerAddress => "handshakes_per_address",
        }
    }
}

/// What all handles share.
struct Shared {
    limits: Limits,
    open: AtomicUsize,
    handshakes: Arc<Semaphore>,
    waiting: AtomicUsize,
    table: Mutex<Table>,
    instruments: Instruments,
    began: Instant,
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
    pub(crate) fn new(limits: Limits, instruments: &Instruments) -> Self {
        instruments.expect_handshake_refusals(&Refusal::ALL.map(Refusal::reason));
        let shared = Arc::new(Shared {
            limits,
            open: AtomicUsize::new(0),
            handshakes: Arc::new(Semaphore::new(limits.handshakes())),
            waiting: AtomicUsize::new(0),
            table: Mutex::new(Table::new(
                limits.connections_per_address,
                [SHARE, SITE_SHARE].map(|share| limits.handshakes_of(share)),
                limits.handshake_rate_per_address,
                limits.burst(),
            )),
            instruments: instruments.clone(),
            began: Instant::now(),
        });
        let gauge = |name: &'static str, what: &'static str, read: fn(&Shared) -> usize| {
            let shared = Arc::downgrade(&shared);
            let meter = instruments.meter().u64_observable_gauge(name);
            let meter = meter.with_description(what);
            let observed = meter.with_callback(move |observer| {
                if let Some(shared) = shared.upgrade() {
                    observer.observe(read(&shared) as u64, &[]);
                }
            });
            observed.build();
        };
        gauge(
            names::CONNECTIONS,
            "Connections that hold a place: peers, and those that are not peers yet.",
            |shared| shared.open.load(Ordering::Relaxed),
        );
        gauge(
            names::HANDSHAKES,
            "Connections that have said something and are not peers yet.",
            Shared::handshakes,
        );
        gauge(
            names::HANDSHAKES_WAITING,
            "Connections that have said something and wait until others of their address are peers, or gone.",
            |shared| shared.waiting.load(Ordering::Relaxed),
        );
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
        let permit = Permit::new(&self.0, true);
        permit.identify(client)?;
        Ok(permit)
    }

    /// For a connection whose place is somebody else's affair: it counts as a handshake while it is one, and as nothing else.
    pub(crate) fn unplaced(&self) -> Permit {
        Permit::new(&self.0, false)
    }

    /// How many handshakes at once one address may have.
    #[must_use]
    pub(crate) fn handshakes_per_address(&self) -> usize {
        self.0.limits.handshakes_per_address()
    }

    /// Handshakes that go on now.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.0.handshakes()
    }

    /// Connections that wait for their turn to be one: their address has its share already.
    #[must_use]
    pub fn handshakes_waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
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
    fn handshakes(&self) -> usize {
        self.limits
            .handshakes()
            .saturating_sub(self.handshakes.available_permits())
    }

    /// Counts and logs a refusal.
    fn refuse(&self, refusal: Refusal, client: RemoteAddr) -> Refusal {
        let reason = refusal.reason();
        self.instruments.handshake_refused(reason);
        log_rarely!(
            warn,
            self.instruments.log_limit(),
            reason,
            client.address = %client,
            "connection refused, and others may be: {refusal} (relay_handshake_refusals_total counts them; if this is the address of \
             a proxy of yours, let it tell who is behind it: --trusted-proxies)"
        );
        refusal
    }
}

/// A connection's place. Clones are the same place, which is free again when the last of them is dropped.
#[derive(Debug, Clone)]
pub struct Permit(Arc<Place>);

#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    /// Whether it is one of the connections that are counted.
    counted: bool,
    held: Mutex<Held>,
}

/// What else is given back. Lock order: this, then the table.
#[derive(Debug, Default)]
struct Held {
    source: Option<Source>,
    /// While its handshake goes on. Boxed, for most places are those of peers.
    handshake: Option<Box<Handshake>>,
}

/// Whose handshake is to begin.
enum Begin {
    /// It has begun.
    Already,
    /// The address is not known, and so has no share.
    Unknown,
    Of(Source),
}

impl Held {
    fn to_begin(&self) -> Begin {
        match (&self.handshake, self.source) {
            (Some(_), _) => Begin::Already,
            (None, None) => Begin::Unknown,
            (None, Some(source)) => Begin::Of(source),
        }
    }
}

impl Permit {
    fn new(shared: &Arc<Shared>, counted: bool) -> Self {
        Self(Arc::new(Place {
            shared: Arc::clone(shared),
            counted,
            held: Mutex::default(),
        }))
    }

    /// From now on the connection counts as one of `client`, for instance because a trusted proxy has said so, and no longer as
    /// one of who it was before. Saying the same address twice is no second handshake; an unknown one changes nothing. If its
    /// handshake goes on and that address has its share of them already, it is none any more: it begins again when its turn
    /// comes ([`Permit::begin_handshake`]).
    ///
    /// # Errors
    /// If that address may have no more connections, or begins handshakes too fast. That has been counted and logged; the
    /// caller ends the connection.
    pub fn identify(&self, client: RemoteAddr) -> Result<(), Refusal> {
        let Some(address) = client.get() else {
            return Ok(());
        };
        let source = Source::from(address.ip());
        let shared = &self.0.shared;
        let mut held = self.0.held.lock();
        if held.source == Some(source) {
            return Ok(());
        }
        let entered = shared.table.lock().enter(source, shared.began.elapsed());
        entered.map_err(|refusal| shared.refuse(refusal, client))?;
        held.handshake = held.handshake.take().and_then(|mut handshake| {
            handshake.now_of(Turn::at_once(shared, source)?);
            Some(handshake)
        });
        if let Some(before) = held.source.replace(source) {
            shared.table.lock().leave(before);
        }
        Ok(())
    }

    /// The first byte has come: the connection counts as a handshake until it is a peer ([`Permit::end_handshake`]), or is gone.
    /// When its address has as many as are its share, it waits until one of them is done, to `deadline` at most. Nothing
    /// happens if it counts already. Cancel-safe: it counts for nothing then.
    ///
    /// # Errors
    /// If there are too many. That has been counted and logged; the caller ends the connection.
    pub async fn begin_handshake(
        &self,
        client: RemoteAddr,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        self.begin(client, deadline, usize::MAX).await
    }

    /// As [`Permit::begin_handshake`], for a request, which costs more while it waits than a connection that has said something: no
    /// more of one address wait than may go on.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn begin_request(
        &self,
        client: RemoteAddr,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let most = self.0.shared.limits.handshakes_per_address();
        self.begin(client, deadline, most).await
    }

    async fn begin(
        &self,
        client: RemoteAddr,
        deadline: Instant,
        most_waiting: usize,
    ) -> Result<(), Refusal> {
        let shared = &self.0.shared;
        let begin = self.0.held.lock().to_begin();
        let turn = match begin {
            Begin::Already => return Ok(()),
            Begin::Unknown => return self.take_place(None, client),
            Begin::Of(source) => Turn::wait(shared, source, deadline, most_waiting),
        };
        match turn.await {
            Some(turn) => self.take_place(Some(turn), client),
            None => Err(shared.refuse(Refusal::HandshakesPerAddress, client)),
        }
    }

    /// As [`Permit::begin_handshake`], for those who cannot wait.
    ///
    /// # Errors
    /// If there are too many, in all or of this address. That has been counted and logged; the caller ends the connection.
    pub fn try_begin_handshake(&self, client: RemoteAddr) -> Result<(), Refusal> {
        let shared = &self.0.shared;
        let begin = self.0.held.lock().to_begin();
        let turn = match begin {
            Begin::Already => return Ok(()),
            Begin::Unknown => return self.take_place(None, client),
            Begin::Of(source) => Turn::at_once(shared, source),
        };
        match turn {
            Some(turn) => self.take_place(Some(turn), client),
            None => Err(shared.refuse(Refusal::HandshakesPerAddress, client)),
        }
    }

    fn take_place(&self, turn: Option<Turn>, client: RemoteAddr) -> Result<(), Refusal> {
        let shared = &self.0.shared;
        let Ok(place) = Arc::clone(&shared.handshakes).try_acquire_owned() else {
            return Err(shared.refuse(Refusal::Handshakes, client));
        };
        self.0.held.lock().handshake = Some(Box::new(Handshake::new(turn, place)));
        Ok(())
    }

    /// The connection is a peer, or shows otherwise that it means what it says: it is no handshake any more.
    pub fn end_handshake(&self) {
        self.0.held.lock().handshake = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let held = self.held.get_mut();
        held.handshake = None;
        if let Some(source) = held.source {
            self.shared.table.lock().leave(source);
        }
        if self.counted {
            self.shared.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
