//! What waits to be written to one receiver: a bounded queue of bytes between many producers and one writer.
//!
//! Messages are copied once, framed, into slabs of contiguous bytes; the writer takes a whole slab and writes it with one
//! system call. Nothing is allocated, reference-counted or woken for each message: a slab comes from the buffer pool, and
//! a producer calls [`Outbox::flush`] once a batch. If the socket takes the slab at once, it is written there and then, and
//! the writer's task sleeps on; only what the socket does not take is the writer's. Control messages (health checks, presence,
//! the answer to *auth*) have a queue of their own that goes first; they are never dropped: when even that is full the connection ends.
//!
//! Under pressure (see `share` and `trim`) the outbox asks two things of a message: who sent it, and whether it is a WireGuard
//! handshake, which is dropped last and never overtakes. Otherwise it does not know what the bytes mean. Everything accepted is either delivered (the slab was written whole) or
//! counted by reason: a [`Slab`] that is dropped unwritten reports its messages as it goes.
//!
//! Source: performance.md, *Rules of the message path*.

mod framing;
mod policy;
mod share;
mod slab;
mod tcp;
mod trim;
mod writer;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::{Mutex, MutexGuard};

pub use framing::{CONTROL_DATAGRAM_MAX, Framing};
pub use policy::QueuePolicy;
pub use slab::Slab;
pub use tcp::SharedWriteHalf;
pub(crate) use tcp::{set_option, tune};
pub use writer::write_out;

use self::share::{Admission, Ledger};
use crate::proto::limits::TRANSPORT_HEADER_LEN;
use crate::proto::wireguard;
use crate::telemetry::counters::DropReason;

/// Bytes that control messages may occupy before the connection is given up as stalled. Room for the *peers online*
/// answers to some 29,000 subscribed IDs.
pub const CONTROL_HEADROOM: usize = 1024 * 1024;

/// The same for a pod: room for the *I have* of some 390,000 peers, which a link that comes up is given all at once.
pub const POD_CONTROL_HEADROOM: usize = 16 * 1024 * 1024;

/// A socket that any thread may write to without waiting.
pub trait TryWrite: Send + Sync {
    /// Writes what the socket takes at once.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if that is nothing; anything else means that the connection is lost.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// As [`TryWrite::try_write`], for a socket that is asked for each message: what it takes leaves the slab ([`Slab::pass`]).
    ///
    /// # Errors
    /// As above.
    fn try_write_slab(&self, slab: &mut Slab) -> io::Result<()> {
        let written = self.try_write(slab.bytes())?;
        slab.pass(written);
        Ok(())
    }
}

impl fmt::Debug for dyn TryWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TryWrite")
    }
}

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// No message is accepted any more; what is queued will be written.
    Finishing,
    Aborted,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Bytes of messages accepted and not yet known to be written, those in the writer's hands included.
    queued: usize,
    /// How many of them the writer holds.
    with_writer: usize,
    /// A slab of which the socket took a part, older than all others. Its frames must be finished.
    begun: Option<Slab>,
    /// Full slabs, oldest first; empty unless the receiver is slow.
    backlog: VecDeque<Slab>,
    /// The slab that is being filled, younger than all of the backlog.
    tail: Option<Slab>,
    /// What only a queue under pressure has.
    pressure: Option<Box<Pressure>>,
    /// Whether those who trim know of this queue.
    listed: bool,
    control: Vec<u8>,
    /// Raw bytes that go out last.
    farewell: Vec<u8>,
    waker: Option<Waker>,
    /// Whether the writer waits for something to write (and not for its socket).
    idle: bool,
    /// Whether a producer is writing a slab itself at this moment.
    flushing: bool,
    /// The socket, if producers may write to it themselves. Given up at the end: an outbox may live on in somebody's memory of
    /// routes, and the socket must not.
    direct: Option<Arc<dyn TryWrite>>,
}

/// What a queue needs beyond the half that is nobody's business.
#[derive(Debug, Default)]
struct Pressure {
    /// Handshakes that outlived the slabs around them, older than all of the backlog.
    kept: Option<Slab>,
    /// Who holds how much.
    ledger: Ledger,
}

/// The queue of one receiver; shared between everybody who sends to it and its writer.
#[derive(Debug)]
pub struct Outbox {
    state: Mutex<State>,
    framing: Framing,
    policy: Arc<QueuePolicy>,
    this: Weak<Self>,
}

impl Outbox {
    /// An empty outbox. It owns no buffer until something is pushed.
    #[must_use]
    pub fn new(framing: Framing, policy: &Arc<QueuePolicy>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            state: Mutex::new(State {
                phase: Phase::Open,
                queued: 0,
                with_writer: 0,
                begun: None,
                backlog: VecDeque::new(),
                tail: None,
                pressure: None,
                listed: false,
                control: Vec::new(),
                farewell: Vec::new(),
                waker: None,
                idle: false,
                flushing: false,
                direct: None,
            }),
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
        let is_handshake = || {
            message
                .get(TRANSPORT_HEADER_LEN..)
                .is_some_and(wireguard::is_handshake)
        };
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
    fn slabs_or_unlist(&self) -> usize {
        let mut state = self.state.lock();
        let slabs = state.backlog.len() + usize::from(state.tail.is_some());
        state.listed = slabs > 0;
        slabs
    }

    /// Drops the oldest slabs, but for their handshakes, until no more than `slabs` are left.
    fn thin(&self, slabs: usize, reason: DropReason) {
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

/// Slabs that were too old, dropped (and so counted) after the lock has been released.
#[derive(Default)]
struct Expired(Vec<Slab>);

impl State {
    /// Whether the writer would find something to do.
    fn has_work(&self) -> bool {
        self.begun.is_some()
            || self.pressure.as_ref().is_some_and(|it| it.kept.is_some())
            || self.tail.is_some()
            || !self.backlog.is_empty()
            || !self.control.is_empty()
            || self.phase != Phase::Open
    }

    #[inline]
    fn append(&mut self, head: &[u8], message: &[u8]) {
        let tail = self.tail.as_mut().expect("a slab with room is there");
        tail.append(head, message);
        self.queued += head.len() + message.len();
    }

    fn admit(
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

    fn take_control(&mut self, policy: &QueuePolicy) -> Vec<u8> {
        policy.unreserve(self.control.len());
        std::mem::take(&mut self.control)
    }

    /// Drops the oldest slab that nobody has begun, but keeps its handshakes, in their place.
    fn drop_oldest(&mut self, framing: Framing, reason: DropReason, dropped: &mut Expired) {
        let Some(mut slab) = self.backlog.pop_front().or_else(|| self.tail.take()) else {
            return;
        };
        self.uncharge(&slab);
        let len = slab.len;
        slab.retain(framing, reason, |message| {
            message
                .get(TRANSPORT_HEADER_LEN..)
                .is_some_and(wireguard::is_handshake)
        });
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

    fn oldest(&mut self) -> Option<Slab> {
        let kept = self.pressure.as_mut().and_then(|it| it.kept.take());
        let slab = kept
            .or_else(|| self.backlog.pop_front())
            .or_else(|| self.tail.take())?;
        self.uncharge(&slab);
        Some(slab)
    }

    /// The waker of a writer that waits for something to write.
    #[inline]
    fn wake_idle(&mut self) -> Option<Waker> {
        if std::mem::take(&mut self.idle) {
            self.waker.take()
        } else {
            None
        }
    }

    fn wait(&mut self, cx: &Context<'_>, idle: bool) {
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

/// The sender of a message, as far as queues tell senders apart: the last bytes of the hash that is its ID.
fn sender(message: &[u8]) -> u64 {
    message
        .get(TRANSPORT_HEADER_LEN - 8..TRANSPORT_HEADER_LEN)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_ne_bytes)
}

#[cfg(test)]
mod pressure_tests;
#[cfg(test)]
mod tests;
