//! A handshake that goes on: one of all, and one of its address, which take turns when there are more than their share.
//!
//! Turns, and not refusals: a mesh behind one address that comes back in the same second gets in as fast as its share allows, while a
//! connection that waits costs a socket and no more. A request that waits costs more, so no more of them wait than may go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::table::Gate;
use crate::source::Source;

/// What a handshake holds; dropped, the next may begin.
#[derive(Debug)]
pub(super) struct Handshake {
    turn: Option<Turn>,
    _place: OwnedSemaphorePermit,
}

impl Handshake {
    /// `turn` is there if its address is known.
    pub(super) fn new(turn: Option<Turn>, place: OwnedSemaphorePermit) -> Self {
        Self {
            turn,
            _place: place,
        }
    }

    /// It turns out to be that of another address.
    pub(super) fn now_of(&mut self, turn: Turn) {
        self.turn = Some(turn);
    }
}

/// One of the handshakes of an address, or one that waits to be.
#[derive(Debug)]
pub(super) struct Turn {
    shared: Arc<Shared>,
    /// Whose line it is in; none: the address had no connection, and one without has no limit here.
    line: Option<Source>,
    /// The address's, and its site's if it is in one.
    permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Turn {
    fn line_up(shared: &Arc<Shared>, source: Source) -> (Self, [Option<Gate>; 2]) {
        let gates = shared.table.lock().line_up(source);
        let turn = Self {
            shared: Arc::clone(shared),
            line: gates.is_some().then_some(source),
            permits: [None, None],
        };
        (turn, gates.unwrap_or_default())
    }

    /// None if the address, or its site, has as many as are its share.
    pub(super) fn at_once(shared: &Arc<Shared>, source: Source) -> Option<Self> {
        let (mut turn, gates) = Self::line_up(shared, source);
        for (gate, permit) in gates.into_iter().zip(&mut turn.permits) {
            if let Some(gate) = gate {
                *permit = Some(gate.turns.try_acquire_owned().ok()?);
            }
        }
        Some(turn)
    }

    /// As [`Turn::at_once`], when one of the others is done. None if that takes longer than to `deadline`, or if `most` wait already.
    pub(super) async fn wait(
        shared: &Arc<Shared>,
        source: Source,
        deadline: Instant,
        most: usize,
    ) -> Option<Self> {
        let (mut turn, gates) = Self::line_up(shared, source);
        for (gate, permit) in gates.into_iter().zip(&mut turn.permits) {
            if let Some(gate) = gate {
                *permit = Some(gate.pass(&shared.waiting, deadline, most).await?);
            }
        }
        Some(turn)
    }
}

impl Gate {
    async fn pass(
        self,
        waiting: &AtomicUsize,
        deadline: Instant,
        most: usize,
    ) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.turns).try_acquire_owned() {
            return Some(permit);
        }
        if self.waiting() >= most {
            return None;
        }
        let _waiting = Waiting::new(waiting);
        let permit = timeout_at(deadline, self.turns.acquire_owned()).await;
        // Its turn may have come with the end of those that began when it did: there is no time left to do anything with it.
        permit.ok()?.ok().filter(|_| Instant::now() < deadline)
    }
}

/// One that waits, while this lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Its permits are given back after this: who waits for them is in line and keeps the gates.
        if let Some(source) = self.line {
            self.shared.table.lock().step_out(source);
        }
    }
}
