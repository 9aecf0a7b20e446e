//! The receiving half: takes the datagrams that quinn has, and lends each out to be changed in place.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use quinn::{Connection, ConnectionError};

use crate::buffers::Buffer;
use crate::transport::{MessageReader, ReadError};

/// Messages in one batch: then the receivers' connections, which share this thread, have their turn to send.
const BATCH: usize = 64;

type Datagrams = Pin<Box<dyn Stream<Item = Result<Bytes, ConnectionError>> + Send>>;

/// Reads the datagrams of one client. Between batches it holds no buffer.
pub struct QuicReader {
    connection: Connection,
    /// One future for all datagrams: waiting for the next one allocates nothing.
    datagrams: Datagrams,
    /// What the fill brought.
    first: Option<Bytes>,
    /// The message that is lent out lies here: a datagram as quinn has it may share its memory with others.
    buffer: Option<Buffer>,
    /// Messages lent out since the fill.
    lent: usize,
    full: bool,
    /// Datagrams taken from quinn over the whole connection.
    taken: u64,
    /// Datagrams that quinn dropped before they could be taken, as far as they have been reported.
    lost: u64,
}

impl fmt::Debug for QuicReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicReader")
            .field("connection", &self.connection.stable_id())
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl QuicReader {
    pub(super) fn new(connection: Connection) -> Self {
        let datagrams = stream::unfold(connection.clone(), async |connection| {
            Some((connection.read_datagram().await, connection))
        });
        Self {
            connection,
            datagrams: Box::pin(datagrams),
            first: None,
            buffer: None,
            lent: 0,
            full: false,
            taken: 0,
            lost: 0,
        }
    }

    fn poll_datagram(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, ReadError>> {
        let next = ready!(self.datagrams.as_mut().poll_next(cx));
        let datagram = next.expect("it goes on for ever").map_err(ended)?;
        self.taken += 1;
        Poll::Ready(Ok(datagram))
    }
}

/// What the end of a QUIC connection means.
fn ended(error: ConnectionError) -> ReadError {
    match error {
        ConnectionError::ApplicationClosed(close) => ReadError::Closed {
            code: u16::try_from(close.error_code.into_inner()).ok(),
            answer: Vec::new(),
        },
        ConnectionError::LocallyClosed | ConnectionError::Reset => ReadError::Ended,
        ConnectionError::TimedOut => ReadError::Io(io::Error::new(
            io::ErrorKind::TimedOut,
            "nothing heard for 60 s",
        )),
        // Its own TLS or QUIC went wrong, or ours did.
        other => ReadError::Io(io::Error::other(other)),
    }
}

impl MessageReader for QuicReader {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        if self.first.is_none() {
            self.first = Some(ready!(self.poll_datagram(cx))?);
            self.lent = 0;
            self.full = false;
        }
        Poll::Ready(Ok(()))
    }

    fn next_message(&mut self, limit: usize) -> Result<Option<&mut [u8]>, ReadError> {
        let datagram = match self.first.take() {
            Some(first) => first,
            None if self.lent >= BATCH => {
                self.full = true;
                self.buffer = None;
                return Ok(None);
            }
            // Nobody need be woken: whoever gets none fills again, and is woken for that.
            None => match self.poll_datagram(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(datagram) => datagram?,
                Poll::Pending => {
                    self.buffer = None;
                    return Ok(None);
                }
            },
        };
        if datagram.len() > limit {
            return Err(ReadError::Violation {
                what: "message longer than its limit",
                answer: Vec::new(),
            });
        }
        self.lent += 1;
        let buffer = self.buffer.get_or_insert_with(Buffer::take);
        let message = &mut buffer[..datagram.len()];
        message.copy_from_slice(&datagram);
        Ok(Some(message))
    }

    fn is_full(&self) -> bool {
        self.full
    }

    fn take_lost(&mut self) -> u64 {
        // In this order: with nothing left to take, all that had come by then was either taken or dropped.
        let received = self.connection.stats().frame_rx.datagram;
        if self.first.is_some() {
            return 0;
        }
        if let Poll::Ready(Ok(datagram)) =
            self.poll_datagram(&mut Context::from_waker(Waker::noop()))
        {
            self.first = Some(datagram);
            self.lent = 0;
            return 0;
        }
        let lost = received.saturating_sub(self.taken);
        lost - std::mem::replace(&mut self.lost, lost)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.first = None;
        self.buffer = None;
        while ready!(self.poll_datagram(cx)).is_ok() {}
        Poll::Ready(())
    }
}
