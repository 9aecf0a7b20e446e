//! One connected peer as everybody else sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::outbox::Outbox;
use crate::proto::PeerId;
use crate::proto::peer::CLOSE;
use crate::transport::{RemoteAddr, TransportKind};

/// Why a connection was ended from outside its own loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum EndReason {
    /// A newer connection has the same peer ID.
    TakenOver = 1,
    /// The relay shuts down.
    Shutdown = 2,
    /// Its writer ended: the socket failed, or the peer took not even control messages any more.
    WriterEnded = 3,
    /// Somebody who holds a handle asked for it.
    Requested = 4,
    /// Likewise, at once and without *close*.
    Aborted = 5,
}

impl EndReason {
    /// The reason in logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::TakenOver => "taken_over",
            Self::Shutdown => "shutdown",
            Self::WriterEnded => "connection_lost",
            Self::Requested | Self::Aborted => "requested",
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::TakenOver,
            2 => Self::Shutdown,
            3 => Self::WriterEnded,
            4 => Self::Requested,
            5 => Self::Aborted,
            _ => return None,
        })
    }
}

/// One connection of one peer, from its registration to its end.
#[derive(Debug)]
pub struct Registration {
    peer: PeerId,
    serial: u64,
    kind: TransportKind,
    remote: RemoteAddr,
    outbox: Arc<Outbox>,
    /// Whether the registry still holds this one; senders that remember it ask before they use it.
    current: AtomicBool,
    /// When it last sent something, in ticks.
    heard: AtomicU32,
    end: AtomicU8,
    waker: AtomicWaker,
}

impl Registration {
    /// `serial` is unique in this relay and grows: of two connections of one peer the larger is the newer.
    #[must_use]
    pub fn new(
        peer: PeerId,
        serial: u64,
        kind: TransportKind,
        remote: RemoteAddr,
        outbox: Arc<Outbox>,
        now: u32,
    ) -> Arc<Self> {
        Arc::new(Self {
            peer,
            serial,
            kind,
            remote,
            outbox,
            current: AtomicBool::new(true),
            heard: AtomicU32::new(now),
            end: AtomicU8::new(0),
            waker: AtomicWaker::new(),
        })
    }

    /// Whose connection it is.
    #[must_use]
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// The number of this connection in this relay.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// What carries it.
    #[must_use]
    pub fn kind(&self) -> TransportKind {
        self.kind
    }

    /// Where it came from.
    #[must_use]
    pub fn remote(&self) -> RemoteAddr {
        self.remote
    }

    /// What waits to be written to it.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Whether messages for the peer go to this connection.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Acquire)
    }

    pub(super) fn retire(&self) {
        self.current.store(false, Ordering::Release);
    }

    /// Notes that the peer sent something at `now` (ticks).
    pub fn hear(&self, now: u32) {
        // Most batches come within one tick of the last: reading is cheaper than writing a shared line.
        if self.heard.load(Ordering::Relaxed) != now {
            self.heard.store(now, Ordering::Relaxed);
        }
    }

    /// When the peer last sent something, in ticks.
    #[must_use]
    pub fn heard(&self) -> u32 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Asks the connection's loop to end; the first reason counts.
    pub fn end(&self, reason: EndReason) {
        let first = self
            .end
            .compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Relaxed);
        if first.is_ok() {
            self.waker.wake();
        }
    }

    /// As [`end`](Self::end), and *close* is the last thing that the peer hears.
    pub fn close(&self, reason: EndReason) {
        // In this order: the writer may be done at once, and then gives a reason of its own.
        self.end(reason);
        self.outbox.finish(Some(&CLOSE), &[]);
    }

    /// Ready when the connection has been asked to end. For its own loop only.
    pub fn poll_end(&self, cx: &mut Context<'_>) -> Poll<EndReason> {
        if let Some(reason) = EndReason::from_number(self.end.load(Ordering::Acquire)) {
            return Poll::Ready(reason);
        }
        self.waker.register(cx.waker());
        match EndReason::from_number(self.end.load(Ordering::Acquire)) {
            Some(reason) => Poll::Ready(reason),
            None => Poll::Pending,
        }
    }
}
