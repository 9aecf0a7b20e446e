//! The engine of all loads that send: one task a pair, which reads what has come, and sends what its pace allows.
//!
//! Sender and receiver of a pair live in one task of one thread: the window's credit is a subtraction, not a message. It knows
//! pairs of connections only, and neither a relay nor a proxy.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hdrhistogram::Histogram;
use quinn::Connection;
use tokio::time::{Instant, Sleep, sleep_until};

use super::frame::Batch;
use super::path::Ends;
use super::quic::SETTLING;
use super::scan::Sequence;

/// One read takes up to this much: what a fast relay writes at once, and little enough to stay in the cache.
const READ_BUFFER: usize = 256 * 1024;
/// Latencies up to an hour are told apart; what is longer counts as that.
const LONGEST_NS: u64 = 3_600_000_000_000;
/// Writes between two reads: a sender without a window must not starve its receiver.
const WRITES_IN_TURN: usize = 32;

/// When a pair sends its next batch.
#[derive(Debug)]
pub(super) enum Pace {
    /// While no more than this many messages are in flight afterwards.
    Window(u64),
    /// Whenever the socket takes it.
    Open,
    /// At a steady beat.
    Beat(Beat),
}

/// A steady beat that catches up after a delay.
#[derive(Debug)]
pub(super) struct Beat {
    interval: Duration,
    due: Instant,
    sleep: Pin<Box<Sleep>>,
    /// The last batch had to wait for the socket: those that fell due meanwhile count from when they were due.
    held_up: bool,
}

impl Pace {
    /// A batch each `interval`, the first one at `first`.
    pub(super) fn beat(interval: Duration, first: Instant) -> Self {
        Self::Beat(Beat {
            interval,
            due: first,
            sleep: Box::pin(sleep_until(first)),
            held_up: false,
        })
    }
}

/// What all tasks of a load have in common.
#[derive(Debug)]
pub(super) struct Shared {
    /// Send times count from here.
    began: Instant,
    /// All receivers read into it, one after another: it stays in the cache, and idle pairs hold none.
    buffer: RefCell<Vec<u8>>,
    latency: RefCell<Histogram<u64>>,
    recording: Cell<bool>,
    stopped: Cell<bool>,
}

impl Shared {
    /// Of a load that begins now.
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            began: Instant::now(),
            buffer: RefCell::new(vec![0; READ_BUFFER]),
            latency: RefCell::new(
                Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are in order"),
            ),
            recording: Cell::new(false),
            stopped: Cell::new(false),
        })
    }

    /// Begins or ends the recording of latencies.
    pub(super) fn record(&self, on: bool) {
        self.recording.set(on);
    }

    /// One-way latencies recorded so far, in nanoseconds; empties the record.
    pub(super) fn take_latency(&self) -> Histogram<u64> {
        let mut recorded = self.latency.borrow_mut();
        let taken = recorded.clone();
        recorded.reset();
        taken
    }

    /// Lets no pair begin another batch.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
    }

    fn since_start(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_nanos())
            .expect("no load runs for 500 years")
    }

    /// Where receivers read into, while nobody else does.
    pub(super) fn buffer(&self) -> std::cell::RefMut<'_, Vec<u8>> {
        self.buffer.borrow_mut()
    }
}

/// One pair's counters, seen by its task and by who watches it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    sent: Cell<u64>,
    received: Cell<u64>,
    payload_bytes: Cell<u64>,
    sequence: Cell<Sequence>,
    /// Messages below this number count no longer as in flight, whether they came or not.
    forgiven: Cell<u64>,
    sender_ended: Cell<bool>,
    receiver_ended: Cell<bool>,
    /// Over QUIC, the sender's and the receiver's connection.
    quic: Option<(Connection, Connection)>,
    waker: RefCell<Option<Waker>>,
}

impl Tally {
    /// Messages handed to the socket, or about to be.
    pub(super) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Messages that came.
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Payload bytes that came.
    pub(super) fn payload_bytes(&self) -> u64 {
        self.payload_bytes.get()
    }

    /// Messages that never came, by their sequence numbers; those in flight are among them.
    pub(super) fn lost(&self) -> u64 {
        self.sequence.get().lost(self.sent.get())
    }

    /// Messages that came after a later one.
    pub(super) fn reordered(&self) -> u64 {
        self.sequence.get().reordered()
    }

    /// Whether one of the pair's connections has ended.
    pub(super) fn ended(&self) -> bool {
        self.sender_ended() || self.receiver_ended()
    }

    /// Whether the sender's has.
    pub(super) fn sender_ended(&self) -> bool {
        self.sender_ended.get()
    }

    /// Whether the receiver's has.
    pub(super) fn receiver_ended(&self) -> bool {
        self.receiver_ended.get()
    }

    /// Over QUIC, both connections, the sender's first.
    pub(super) fn quic(&self) -> Option<&(Connection, Connection)> {
        self.quic.as_ref()
    }

    /// One of them, or both, got no answer any more.
    pub(super) fn end(&self, sender: bool, receiver: bool) {
        self.sender_ended.set(self.sender_ended() || sender);
        self.receiver_ended.set(self.receiver_ended() || receiver);
    }

    /// Messages sent that have neither come nor been overtaken nor been given up.
    pub(super) fn in_flight(&self) -> u64 {
        self.sent.get() - self.sequence.get().expected().max(self.forgiven.get())
    }

    /// Gives up what is in flight: it was lost at the end of a window, and no later message will tell.
    pub(super) fn forgive(&self) {
        self.forgiven.set(self.sent.get());
        self.wake();
    }

    /// Lets the task look at its pace again.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn keep_waker(&self, cx: &Context<'_>) {
        match &mut *self.waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            empty => *empty = Some(cx.waker().clone()),
        }
    }
}

/// Which of a pair's connections.
#[derive(Debug, Clone, Copy)]
enum Side {
    Sender,
    Receiver,
}

/// The task of one pair: a future that ends when one of the connections does.
#[derive(Debug)]
pub(super) struct PairTask {
    ends: Ends,
    batch: Batch,
    /// How many messages of a batch, its first ones, go to this pair's receiver.
    own: usize,
    pace: Pace,
    tally: Rc<Tally>,
    shared: Rc<Shared>,
    /// The batch is stamped and not yet wholly written.
    writing: bool,
    timed: bool,
}

impl PairTask {
    /// A pair that sends `batch` at `pace`; the first `own` messages of it are the ones that the receiver gets. `timed`: each
    /// batch carries the time at which it is sent.
    pub(super) fn new(
        ends: Ends,
        batch: Batch,
        own: usize,
        pace: Pace,
        timed: bool,
        shared: Rc<Shared>,
    ) -> (Self, Rc<Tally>) {
        let tally = Rc::new(Tally {
            quic: ends.sender.quic().zip(ends.receiver.quic()),
            ..Tally::default()
        });
        let task = Self {
            ends,
            batch,
            own,
            pace,
            tally: Rc::clone(&tally),
            shared,
            writing: false,
            timed,
        };
        (task, tally)
    }

    /// Does what can be done now; fails with the side whose connection has ended.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<(), Side> {
        self.tally.keep_waker(cx);
        self.read_sender(cx).map_err(|_| Side::Sender)?;
        loop {
            let received = self.poll_receive_once(cx).map_err(|_| Side::Receiver)?;
            let sent = self.poll_send_some(cx).map_err(|_| Side::Sender)?;
            if received.is_pending() && sent.is_pending() {
                break;
            }
        }
        let Ends { sender, receiver } = &mut self.ends;
        for (peer, side) in [(sender, Side::Sender), (receiver, Side::Receiver)] {
            if let Poll::Ready(Err(_)) = peer.poll_control(cx) {
                return Err(side);
            }
        }
        Ok(())
    }

    /// Reads all that has come to the sender: nothing but health checks.
    fn read_sender(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let sender = &mut self.ends.sender;
        while let Poll::Ready(read) =
            sender.poll_receive(cx, &mut self.shared.buffer(), &mut |_, _, _| {})
        {
            read?;
        }
        Ok(())
    }

    /// Whether the receiver's connection has ended, too. What came before its end counts.
    fn receiver_has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match self.poll_receive_once(cx) {
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => return false,
                Err(_) => return true,
            }
        }
    }

    /// One read.
    fn poll_receive_once(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let shared = &self.shared;
        let mut sequence = self.tally.sequence.get();
        let (mut messages, mut bytes) = (0, 0);
        let mut latency = shared.recording.get().then(|| shared.latency.borrow_mut());
        // Read at the first message: the time at which the read call returned, for all that it brought.
        let mut now = None;
        let read = self.ends.receiver.poll_receive(
            cx,
            &mut shared.buffer(),
            &mut |payload, number, sent_ns| {
                if number == SETTLING {
                    return;
                }
                sequence.see(number);
                messages += 1;
                bytes += payload as u64;
                if let Some(latency) = &mut latency {
                    let now = *now.get_or_insert_with(|| shared.since_start(Instant::now()));
                    latency.saturating_record(now.saturating_sub(sent_ns));
                }
            },
        );
        self.tally.sequence.set(sequence);
        self.tally
            .received
            .set(self.tally.received.get() + messages);
        self.tally
            .payload_bytes
            .set(self.tally.payload_bytes.get() + bytes);
        match read {
            Poll::Ready(read) => read.map(Poll::Ready),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Some writes, as many as the pace and the socket allow. Ready if there may be more to write at once.
    fn poll_send_some(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        for _ in 0..WRITES_IN_TURN {
            if !self.writing {
                let Poll::Ready(sent_ns) = self.poll_turn(cx) else {
                    return Ok(Poll::Pending);
                };
                let first = self.tally.sent.get();
                for slot in 0..self.batch.len() {
                    self.batch.stamp(slot, first + slot as u64, sent_ns);
                }
                self.tally.sent.set(first + self.own as u64);
                self.writing = true;
            }
            match self.ends.sender.poll_send(cx, self.batch.bytes()) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => {
                    if let Pace::Beat(beat) = &mut self.pace {
                        beat.held_up = true;
                    }
                    return Ok(Poll::Pending);
                }
            }
            self.writing = false;
        }
        Ok(Poll::Ready(()))
    }

    /// Ready with the time to be stamped when the next batch's turn has come.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<u64> {
        if self.shared.stopped.get() {
            return Poll::Pending;
        }
        match &mut self.pace {
            Pace::Window(window) if self.tally.in_flight() + self.own as u64 > *window => {
                Poll::Pending
            }
            Pace::Window(_) | Pace::Open if self.timed => {
                Poll::Ready(self.shared.since_start(Instant::now()))
            }
            Pace::Window(_) | Pace::Open => Poll::Ready(0),
            Pace::Beat(beat) => {
                let now = Instant::now();
                if now < beat.due {
                    beat.held_up = false;
                    beat.sleep.as_mut().reset(beat.due);
                    if beat.sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                let stamp = if beat.held_up { beat.due } else { now };
                beat.due += beat.interval;
                Poll::Ready(self.shared.since_start(stamp))
            }
        }
    }
}

impl Future for PairTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (sender, receiver) = match self.step(cx) {
            Ok(()) => return Poll::Pending,
            Err(Side::Sender) => (true, self.receiver_has_ended(cx)),
            Err(Side::Receiver) => (self.read_sender(cx).is_err(), true),
        };
        self.tally.end(sender, receiver);
        Poll::Ready(())
    }
}
