//! What an outbox holds: the slabs in their order, control, and who waits. Everything here happens under the outbox's lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::framing::Framing;
use super::policy::QueuePolicy;
use super::share::{Admission, Ledger, is_handshake};
use super::slab::Slab;
use super::writer::TryWrite;
use crate::telemetry::counters::DropReason;

/// How far a connection is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Open,
    /// No message is accepted any more; what is queued will be written.
    Finishing,
    Aborted,
}

/// What an outbox holds, and how far its writer is.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Bytes of messages accepted and not yet known to be written, those in the writer's hands included.
    pub(super) queued: usize,
    /// How many of them the writer holds.
    pub(super) with_writer: usize,
    /// A slab of which the socket took a part, older than all others. Its frames must be finished.
    pub(super) begun: Option<Slab>,
    /// Full slabs, oldest first; empty unless the receiver is slow.
    pub(super) backlog: VecDeque<Slab>,
    /// The slab that is being filled, younger than all of the backlog.
    pub(super) tail: Option<Slab>,
    /// What only a queue under pressure has.
    pub(super) pressure: Option<Box<Pressure>>,
    /// Whether those who trim know of this queue.
    pub(super) listed: bool,
    pub(super) control: Vec<u8>,
    /// Raw bytes that go out last.
    pub(super) farewell: Vec<u8>,
    pub(super) waker: Option<Waker>,
    /// Whether the writer waits for something to write (and not for its socket).
    pub(super) idle: bool,
    /// Whether a producer is writing a slab itself at this moment.
    pub(super) flushing: bool,
    /// The socket, if producers may write to it themselves. Given up at the end: an outbox may live on in somebody's memory of
    /// routes, and the socket must not.
    pub(super) direct: Option<Arc<dyn TryWrite>>,
}

/// What a queue needs beyond the half that is nobody's business.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    /// Handshakes that outlived the slabs around them, older than all of the backlog.
    pub(super) kept: Option<Slab>,
    /// Who holds how much.
    pub(super) ledger: Ledger,
}

/// Slabs that were too old, dropped (and so counted) after the lock has been released.
#[derive(Default)]
pub(super) struct Expired(pub(super) Vec<Slab>);

impl State {
    /// Whether the writer would find something to do.
    pub(super) fn has_work(&self) -> bool {
        self.begun.is_some()
            || self.pressure.as_ref().is_some_and(|it| it.kept.is_some())
            || self.tail.is_some()
            || !self.backlog.is_empty()
            || !self.control.is_empty()
            || self.phase != Phase::Open
    }

    #[inline]
    pub(super) fn append(&mut self, head: &[u8], message: &[u8]) {
        let tail = self.tail.as_mut().expect("a slab with room is there");
        tail.append(head, message);
        self.queued += head.len() + message.len();
    }

    pub(super) fn admit(
        &self,
        policy: &QueuePolicy,
        need: usize,
        sender: u64,
        is_handshake: impl FnOnce() -> bool,
    ) -> Admission {
        match &self.pressure {
            Some(pressure) => {
                pressure
                    .ledger
                    .admit(policy, self.queued, need, sender, is_handshake)
            }
            None => Ledger::default().admit(policy, self.queued, need, sender, is_handshake),
        }
    }

    pub(super) fn take_control(&mut self, policy: &QueuePolicy) -> Vec<u8> {
        policy.unreserve(self.control.len());
        std::mem::take(&mut self.control)
    }

    /// Drops the oldest slab that nobody has begun, but keeps its handshakes, in their place.
    pub(super) fn drop_oldest(
        &mut self,
        framing: Framing,
        reason: DropReason,
        dropped: &mut Expired,
    ) {
        let Some(mut slab) = self.backlog.pop_front().or_else(|| self.tail.take()) else {
            return;
        };
        self.uncharge(&slab);
        let len = slab.len;
        slab.retain(framing, reason, is_handshake);
        self.queued -= len - slab.len;
        if slab.len == 0 {
            return;
        }
        let pressure = self.pressure.get_or_insert_default();
        let absorbed = match &mut pressure.kept {
            Some(kept) => kept.absorb(&mut slab),
            None => {
                slab.charges = Vec::new();
                pressure.kept = Some(slab);
                return;
            }
        };
        if !absorbed {
            self.queued -= slab.len;
            slab.fate = Some(reason);
            dropped.0.push(slab);
        }
    }

    fn uncharge(&mut self, slab: &Slab) {
        if let Some(pressure) = &mut self.pressure {
            pressure.ledger.release(&slab.charges);
        }
    }

    pub(super) fn oldest(&mut self) -> Option<Slab> {
        let kept = self.pressure.as_mut().and_then(|it| it.kept.take());
        let slab = kept
            .or_else(|| self.backlog.pop_front())
            .or_else(|| self.tail.take())?;
        self.uncharge(&slab);
        Some(slab)
    }

    /// The waker of a writer that waits for something to write.
    #[inline]
    pub(super) fn wake_idle(&mut self) -> Option<Waker> {
        if std::mem::take(&mut self.idle) {
            self.waker.take()
        } else {
            None
        }
    }

    pub(super) fn wait(&mut self, cx: &Context<'_>, idle: bool) {
        self.idle = idle;
        if !self
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            self.waker = Some(cx.waker().clone());
        }
        if idle {
            // An idle receiver keeps nothing that a busy hour made it grow.
            self.backlog.shrink_to(0);
            // Not while a producer holds one of several slabs: the others are still charged.
            if self.queued == 0 {
                self.pressure = None;
            }
        }
    }
}
