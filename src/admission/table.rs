//! What is remembered of each address: its connections, its handshakes that go on, and what is left of its burst of them.
//!
//! The table is bounded: an address without a connection is remembered only until its burst is whole again, and is forgotten
//! before that when there are too many such addresses. Then an attacker with very many addresses has his bursts back, which he had by
//! taking further addresses anyway; nobody else is refused because of him. Owns no clock.

use std::collections::{HashMap, hash_map};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Refusal;
use crate::source::{Site, Source};

/// Addresses without a connection that are remembered at most; some 3 MiB.
pub(super) const REMEMBERED_MAX: usize = 65_536;

/// One address.
#[derive(Debug, Default)]
struct Entry {
    /// When the burst is whole again, in nanoseconds of the table's time.
    whole_at: u64,
    connections: u32,
    handshakes: Option<Line>,
}

/// Where the handshakes of one address, or of one site, take turns.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) turns: Arc<Semaphore>,
    /// How many of them there are, those that wait included, without the one that asks.
    before: usize,
    /// How many may go on.
    most: usize,
}

impl Gate {
    /// How many wait.
    pub(super) const fn waiting(&self) -> usize {
        self.before.saturating_sub(self.most)
    }
}

/// The handshakes of one address or site that go on or wait, while there are any.
#[derive(Debug)]
struct Line {
    length: usize,
    turns: Arc<Semaphore>,
}

impl Line {
    fn join(line: &mut Option<Self>, most: usize) -> Gate {
        let line = line.get_or_insert_with(|| Self {
            length: 0,
            turns: Arc::new(Semaphore::new(most)),
        });
        let before = line.length;
        line.length += 1;
        let turns = Arc::clone(&line.turns);
        Gate {
            turns,
            before,
            most,
        }
    }

    fn leave(line: &mut Option<Self>) {
        if let Some(there) = line {
            there.length -= 1;
            if there.length == 0 {
                *line = None;
            }
        }
    }
}

/// All addresses that are remembered.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<Source, Entry>,
    /// How many of them have no connection.
    vacant: usize,
    /// The handshakes of all addresses in a site.
    sites: HashMap<Site, Option<Line>>,
    connections_max: u32,
    handshakes_max: usize,
    handshakes_of_site_max: usize,
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
        [handshakes_max, handshakes_of_site_max]: [usize; 2],
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
            sites: HashMap::new(),
            handshakes_max,
            handshakes_of_site_max,
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

    /// One handshake more of an address that has a connection: where it takes turns with the others of the address, and with those
    /// of its site if it is in one.
    pub(super) fn line_up(&mut self, source: Source) -> Option<[Option<Gate>; 2]> {
        let entry = self.entries.get_mut(&source)?;
        let of_address = Line::join(&mut entry.handshakes, self.handshakes_max);
        let of_site = source.site().map(|site| {
            let line = self.sites.entry(site).or_default();
            Line::join(line, self.handshakes_of_site_max)
        });
        Some([Some(of_address), of_site])
    }

    /// One handshake less of those that have lined up: it is done, or waits no longer.
    pub(super) fn step_out(&mut self, source: Source) {
        if let Some(entry) = self.entries.get_mut(&source) {
            Line::leave(&mut entry.handshakes);
        }
        if let Some(site) = source.site()
            && let hash_map::Entry::Occupied(mut line) = self.sites.entry(site)
        {
            Line::leave(line.get_mut());
            if line.get().is_none() {
                line.remove();
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

    /// Whether nobody's handshakes are remembered.
    #[cfg(test)]
    pub(super) fn has_no_line(&self) -> bool {
        let none = |entry: &Entry| entry.handshakes.is_none();
        self.sites.is_empty() && self.entries.values().all(none)
    }

    /// How many addresses are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
