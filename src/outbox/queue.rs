//! The outbox itself: what producers, the writer and those who trim may do with it.

use std::io;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use parking_lot::{Mutex, MutexGuard};

use super::framing::Framing;
use super::policy::QueuePolicy;
use super::share::{Admission, is_handshake, sender};
use super::slab::Slab;
use super::state::{Expired, Phase, State};
use super::writer::TryWrite;
use crate::telemetry::counters::DropReason;

/// How long a handshake is worth keeping when all around it is dropped, in milliseconds: then its sender has sent the next one
/// (`REKEY_TIMEOUT`; the WireGuard paper, section 6.1).
const HANDSHAKE_AGE: u32 = 5_000;

/// Slabs that one flush writes at most before it leaves the rest to the writer: a producer has its own work to do.
const FLUSH_SLABS: usize = 2;

/// What the writer is to do next.
#[derive(Debug)]
pub enum Taken {
    /// Write these bytes: control messages, or the farewell.
    Control(Vec<u8>),
    /// Write these messages, then call [`Slab::delivered`].
    Data(Slab),
    /// All is written: close the sending direction.
    Finished,
    /// The connection was given up: write nothing more.
    Aborted,
}

/// The queue of one receiver; shared between everybody who sends to it and its writer.
#[derive(Debug)]
pub struct Outbox {
    pub(super) state: Mutex<State>,
    framing: Framing,
    policy: Arc<QueuePolicy>,
    this: Weak<Self>,
}

impl Outbox {
    /// An empty outbox. It owns no buffer until something is pushed.
    #[must_use]
    pub fn new(framing: Framing, policy: &Arc<QueuePolicy>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            state: Mutex::default(),
            framing,
            policy: Arc::clone(policy),
            this: Weak::clone(this),
        })
    }

    /// Lets producers write to the socket themselves while the writer has nothing to do.
    pub fn set_direct(&self, socket: Arc<dyn TryWrite>) {
        self.state.lock().direct = Some(socket);
    }

    /// Queues one data message (at most 8820 bytes), or says why it was not queued. Never waits; one copy. The message goes
    /// out when somebody calls [`Outbox::flush`].
    ///
    /// # Errors
    /// The reason the message is dropped for; the caller counts it.
    #[inline]
    pub fn push(&self, message: &[u8]) -> Result<(), DropReason> {
        let (head, head_len) = self.framing.head(message.len());
        self.push_behind(&head[..head_len], message)
    }

    /// As [`Outbox::push`], with a `head` of the caller's in place of the framing's: [`Framing::Frame`] has none of its own.
    ///
    /// # Errors
    /// As [`Outbox::push`].
    #[inline]
    pub fn push_behind(&self, head: &[u8], message: &[u8]) -> Result<(), DropReason> {
        let need = head.len() + message.len();
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err(DropReason::ReceiverClosed);
        }
        let calm = state.queued + need <= self.policy.calm_bytes;
        if calm && self.fits(&state, need) {
            state.append(head, message);
            return Ok(());
        }
        self.push_slowly(state, head, message, calm)
    }

    /// Whether the slab that is being filled takes so many bytes more.
    #[inline]
    fn fits(&self, state: &State, need: usize) -> bool {
        state.tail.as_ref().is_some_and(|tail| {
            // A slab is dropped whole when it is too old, so it may not span much more time than a fraction of that.
            tail.has_room(need) && self.policy.ticks.since(tail.opened) <= self.policy.max_age / 4
        })
    }

    /// Pushes what needs a new slab, or comes to a queue under pressure.
    #[inline(never)]
    fn push_slowly(
        &self,
        mut state: MutexGuard<'_, State>,
        head: &[u8],
        message: &[u8],
        calm: bool,
    ) -> Result<(), DropReason> {
        let need = head.len() + message.len();
        let mut expired = Expired::default();
        let sender = sender(message);
        let is_handshake = || is_handshake(message);
        let mut admission = Admission::Share;
        if !calm {
            admission = state.admit(&self.policy, need, sender, is_handshake);
            if admission != Admission::Share {
                self.expire(&mut state, &mut expired);
                admission = state.admit(&self.policy, need, sender, is_handshake);
            }
            if admission == Admission::Refused {
                return Err(DropReason::QueueFull);
            }
        }
        if !self.fits(&state, need) {
            // A trickle opens slabs by their age, nearly empty: without this their number would have no bound.
            self.expire(&mut state, &mut expired);
            let fresh = Slab::open(&self.policy, self.policy.data_budget())
                .or_else(|| {
                    let all = self.policy.memory.budget;
                    is_handshake()
                        .then(|| Slab::open(&self.policy, all))
                        .flatten()
                })
                .ok_or(DropReason::OverBudget)?;
            if let Some(full) = state.tail.replace(fresh) {
                state.backlog.push_back(full);
            }
            if !state.listed && self.policy.is_half_used() {
                state.listed = true;
                self.policy.memory.suspects.add(Weak::clone(&self.this));
            }
        }
        state.append(head, message);
        if !calm {
            let State { pressure, tail, .. } = &mut *state;
            let tail = tail.as_mut().expect("a message was just appended to it");
            pressure.get_or_insert_default().ledger.charge(
                &mut tail.charges,
                sender,
                need,
                admission,
            );
        }
        Ok(())
    }

    /// Sends what has been pushed: writes it if the socket takes it at once, else leaves it to the writer. Never waits.
    pub fn flush(&self) {
        self.policy.trim_if_wanted();
        let mut state = self.state.lock();
        for _ in 0..FLUSH_SLABS {
            // A writer that is not idle finds the data by itself, and so does a producer that is writing.
            if !state.idle || state.flushing {
                return;
            }
            // The writer may have looked while a slab was in our hands, and waits for our word.
            if state.phase != Phase::Open {
                break;
            }
            let Some(socket) = state.direct.clone() else {
                break;
            };
            // Control goes first, and that is the writer's.
            if !state.control.is_empty() || state.begun.is_some() {
                break;
            }
            let Some(mut slab) = state.oldest() else {
                return;
            };
            state.flushing = true;
            drop(state);
            let result = socket.try_write_slab(&mut slab);
            drop(socket);
            state = self.state.lock();
            state.flushing = false;
            match result {
                Ok(()) if slab.bytes().is_empty() => {
                    state.queued -= slab.len;
                    slab.delivered();
                }
                // An abort has come in between: the slab counts as dropped when it goes.
                _ if state.phase == Phase::Aborted => return,
                Ok(()) => state.begun = Some(slab),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.begun = Some(slab);
                }
                Err(_) => {
                    drop(state);
                    self.abort();
                    return;
                }
            }
        }
        // More than this producer's share, or than the socket takes, or control that came meanwhile.
        let waker = state.has_work().then(|| state.wake_idle()).flatten();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The longest control message that surely reaches this receiver whole; a longer list of peers must be split.
    #[must_use]
    pub fn control_max(&self) -> usize {
        self.framing.control_max()
    }

    /// Queues one control message, ahead of all data. Returns false if the connection is ending, or if its headroom is
    /// used up: then the connection is aborted, for a control message is never lost silently.
    pub fn push_control(&self, message: &[u8]) -> bool {
        let (head, head_len) = self.framing.head(message.len());
        self.push_control_parts(&head[..head_len], message)
    }

    /// As [`Outbox::push_control`], for bytes that are framed already (a WebSocket pong).
    pub fn push_control_raw(&self, bytes: &[u8]) -> bool {
        self.push_control_parts(&[], bytes)
    }

    fn push_control_parts(&self, head: &[u8], message: &[u8]) -> bool {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return false;
        }
        if state.control.len() + head.len() + message.len() > self.policy.control_bytes {
            drop(state);
            self.abort();
            return false;
        }
        state.control.extend_from_slice(head);
        state.control.extend_from_slice(message);
        self.policy.overdraw(head.len() + message.len());
        let waker = state.wake_idle();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Accepts nothing more; the writer sends what is queued, then the `message` (framed), then `raw` bytes, and ends.
    pub fn finish(&self, message: Option<&[u8]>, raw: &[u8]) {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        state.phase = Phase::Finishing;
        if let Some(message) = message {
            let (head, head_len) = self.framing.head(message.len());
            state.farewell.extend_from_slice(&head[..head_len]);
            state.farewell.extend_from_slice(message);
        }
        state.farewell.extend_from_slice(raw);
        let waker = state.wake_idle();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends at once: what is queued is dropped and counted, and a writer that waits for its socket stops waiting.
    pub fn abort(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Aborted;
        drop(state.take_control(&self.policy));
        state.farewell = Vec::new();
        let slabs = (state.begun.take(), state.pressure.take(), state.tail.take());
        let backlog = std::mem::take(&mut state.backlog);
        let direct = state.direct.take();
        let waker = state.waker.take();
        drop(state);
        // Outside the lock: they count their messages, and the last handle to a socket closes it.
        drop((slabs, backlog, direct));
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Drops what is too old, although nobody takes or pushes anything: a receiver that has stopped reading gives back what it
    /// holds of the budget of all.
    pub fn release(&self) {
        let mut expired = Expired::default();
        self.expire(&mut self.state.lock(), &mut expired);
    }

    /// How many slabs could be dropped; if that is none, the queue is off the list of those that are trimmed.
    pub(super) fn slabs_or_unlist(&self) -> usize {
        let mut state = self.state.lock();
        let slabs = state.backlog.len() + usize::from(state.tail.is_some());
        state.listed = slabs > 0;
        slabs
    }

    /// Drops the oldest slabs, but for their handshakes, until no more than `slabs` are left.
    pub(super) fn thin(&self, slabs: usize, reason: DropReason) {
        let mut dropped = Expired::default();
        let mut state = self.state.lock();
        let excess =
            (state.backlog.len() + usize::from(state.tail.is_some())).saturating_sub(slabs);
        for _ in 0..excess {
            state.drop_oldest(self.framing, reason, &mut dropped);
        }
    }

    /// Drops all slabs in which every message is too old; their handshakes live somewhat longer. What the writer or the socket has
    /// begun is not touched.
    fn expire(&self, state: &mut State, expired: &mut Expired) {
        let policy = &self.policy;
        // The youngest message in a slab came at most a quarter later than the first.
        let too_old = policy.max_age + policy.max_age / 4;
        if let Some(pressure) = &mut state.pressure
            && let Some(kept) = &pressure.kept
            && policy.ticks.since(kept.opened) > too_old.max(HANDSHAKE_AGE)
            && let Some(mut slab) = pressure.kept.take()
        {
            state.queued -= slab.len;
            slab.fate = Some(DropReason::Expired);
            expired.0.push(slab);
        }
        while let Some(oldest) = state.backlog.front().or(state.tail.as_ref())
            && policy.ticks.since(oldest.opened) > too_old
        {
            state.drop_oldest(self.framing, DropReason::Expired, expired);
        }
    }

    /// Whether the outbox still accepts messages.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state.lock().phase == Phase::Open
    }

    /// Bytes of control messages that the writer has not taken yet.
    #[must_use]
    pub fn control_len(&self) -> usize {
        self.state.lock().control.len()
    }

    /// The control bytes queued so far, for a connection whose writer does not run yet.
    pub fn take_control(&self) -> Vec<u8> {
        self.state.lock().take_control(&self.policy)
    }

    /// The next thing to write. One writer only. Cancel-safe: nothing is taken unless it is returned.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Taken> {
        let mut expired = Expired::default();
        let mut state = self.state.lock();
        // It may have been woken by its socket and not by us; from here on it is writing, and nobody else may.
        state.idle = false;
        state.queued -= std::mem::take(&mut state.with_writer);
        match state.phase {
            Phase::Aborted => return Poll::Ready(Taken::Aborted),
            // A producer has a slab in its hands, and wakes us when it is done.
            Phase::Open | Phase::Finishing if state.flushing => {
                state.wait(cx, true);
                return Poll::Pending;
            }
            Phase::Open | Phase::Finishing => {}
        }
        if let Some(slab) = state.begun.take() {
            state.with_writer = slab.len;
            return Poll::Ready(Taken::Data(slab));
        }
        if !state.control.is_empty() {
            return Poll::Ready(Taken::Control(state.take_control(&self.policy)));
        }
        self.expire(&mut state, &mut expired);
        if let Some(slab) = state.oldest() {
            state.with_writer = slab.len;
            return Poll::Ready(Taken::Data(slab));
        }
        if state.phase == Phase::Finishing {
            let farewell = std::mem::take(&mut state.farewell);
            return Poll::Ready(if farewell.is_empty() {
                Taken::Finished
            } else {
                Taken::Control(farewell)
            });
        }
        state.wait(cx, true);
        Poll::Pending
    }

    /// For a writer that waits for its socket: ready when the connection has been aborted meanwhile.
    pub fn poll_aborted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.phase == Phase::Aborted {
            return Poll::Ready(());
        }
        state.wait(cx, false);
        Poll::Pending
    }
}
