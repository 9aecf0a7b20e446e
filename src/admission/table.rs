//! What is remembered of each address: its connections, its handshakes that go on, and what is left of its burst of them.
//!
//! The table is bounded: an address without a connection is remembered only until its burst is whole again, and is forgotten
//! before that when there are too many such addresses. Then an attacker with very many addresses has his bursts back, which he had by
//! taking further addresses anyway; nobody else is refused because of him. Owns no clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Refusal;
use crate::source::Source;

/// Addresses without a connection that are remembered at most; some 3 MiB.
pub(super) const REMEMBERED_MAX: usize = 65_536;

/// One address.
#[derive(Debug, Default)]
struct Entry {
    /// When the burst is whole again, in nanoseconds of the table's time.
    whole_at: u64,
    connections: u32,
    /// Its connections whose handshakes go on, or wait for their turn.
    handshakes: u32,
    /// Where those take turns; there only while there are any.
    gate: Option<Arc<Semaphore>>,
}

/// Where the handshakes of one address take turns.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) turns: Arc<Semaphore>,
    /// How many of them there are, those that wait included, without the one that asks.
    pub(super) before: usize,
}

/// All addresses that are remembered.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<Source, Entry>,
    /// How many of them have no connection.
    vacant: usize,
    connections_max: u32,
    handshakes_max: usize,
    /// Nanoseconds until an address may begin one handshake more; 0: there is no rate.
    refill: u64,
    /// Nanoseconds that a whole burst is worth.
    burst: u64,
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Table {
    /// 0 connections or a rate of 0 mean that there is no such limit.
    pub(super) fn new(
        connections_max: usize,
        handshakes_max: usize,
        rate: u32,
        burst: u32,
    ) -> Self {
        let refill = match rate {
            0 => 0,
            rate => 1_000_000_000 / u64::from(rate),
        };
        Self {
            entries: HashMap::new(),
            vacant: 0,
            connections_max: match connections_max {
                0 => u32::MAX,
                limit => u32::try_from(limit).unwrap_or(u32::MAX),
            },
            handshakes_max,
            refill,
            burst: refill.saturating_mul(u64::from(burst)),
        }
    }

    /// One connection more, whose handshake begins at `now`.
    pub(super) fn enter(&mut self, source: Source, now: Duration) -> Result<(), Refusal> {
        let now = nanoseconds(now);
        let known = self.entries.get(&source);
        let (connections, whole_at) =
            known.map_or((0, 0), |entry| (entry.connections, entry.whole_at));
        if connections >= self.connections_max {
            return Err(Refusal::ConnectionsPerAddress);
        }
        let whole_at = whole_at.max(now) + self.refill;
        if whole_at - now > self.burst {
            return Err(Refusal::HandshakeRate);
        }
        if known.is_some() && connections == 0 {
            self.vacant -= 1;
        }
        let entry = self.entries.entry(source).or_default();
        entry.whole_at = whole_at;
        entry.connections += 1;
        if self.vacant > REMEMBERED_MAX {
            self.forget(now);
        }
        Ok(())
    }

    /// One connection less.
    pub(super) fn leave(&mut self, source: Source) {
        if let Some(entry) = self.entries.get_mut(&source)
            && entry.connections > 0
        {
            entry.connections -= 1;
            self.vacant += usize::from(entry.connections == 0);
        }
    }

    /// One handshake more of an address that has a connection: where it takes turns with the others.
    pub(super) fn line_up(&mut self, source: Source) -> Option<Gate> {
        let entry = self.entries.get_mut(&source)?;
        let before = entry.handshakes as usize;
        entry.handshakes += 1;
        let new = || Arc::new(Semaphore::new(self.handshakes_max));
        let turns = Arc::clone(entry.gate.get_or_insert_with(new));
        Some(Gate { turns, before })
    }

    /// One handshake less: it is done, or waits no longer.
    pub(super) fn step_out(&mut self, source: Source) {
        if let Some(entry) = self.entries.get_mut(&source) {
            entry.handshakes = entry.handshakes.saturating_sub(1);
            if entry.handshakes == 0 {
                entry.gate = None;
            }
        }
    }

    /// Forgets the addresses that have no connection and a whole burst; if those are few, all that have no connection. Happens once in
    /// tens of thousands of connections at most, and takes a few milliseconds.
    fn forget(&mut self, now: u64) {
        self.entries
            .retain(|_, entry| entry.connections > 0 || entry.whole_at > now);
        self.count_vacant();
        if self.vacant > REMEMBERED_MAX / 2 {
            self.entries.retain(|_, entry| entry.connections > 0);
            self.count_vacant();
        }
        self.entries.shrink_to(self.entries.len() * 2);
    }

    fn count_vacant(&mut self) {
        let vacant = |entry: &&Entry| entry.connections == 0;
        self.vacant = self.entries.values().filter(vacant).count();
    }

    /// How many addresses are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
