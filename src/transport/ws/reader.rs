//! The receiving half: cuts messages out of what one read brought, unmasks them in place, answers pings.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use super::frame::{self, CloseCode, Head, Opcode};
use crate::buffers::{BUFFER_LEN, Buffer};
use crate::outbox::Outbox;
use crate::transport::{MessageReader, ReadError};

/// What one read takes: little enough to fit one slab (of the same buffers) also when it goes on to another pod, in frames whose heads are
/// 31 bytes longer than those that clients send. Else each full read would cost a second write, of one message.
const READ_LEN: usize = BUFFER_LEN - 2 * 1024;

/// What one read brought, and how much of it has been cut up.
#[derive(Debug)]
struct Batch {
    buffer: Buffer,
    start: usize,
    end: usize,
}

/// Reads the frames of one client.
///
/// It holds a buffer only while a batch is being cut up; between batches it holds what is left of an unfinished frame.
#[derive(Debug)]
pub struct WsReader<R> {
    io: R,
    batch: Option<Batch>,
    /// The beginning of a frame whose rest has not come yet.
    carry: Vec<u8>,
    /// What came behind the upgrade request.
    early: Bytes,
    /// The pieces of a fragmented message.
    pieces: Vec<u8>,
    in_pieces: bool,
    full: bool,
    outbox: Arc<Outbox>,
}

impl<R: AsyncRead + Unpin> WsReader<R> {
    pub(super) fn new(io: R, already_read: &[u8], outbox: Arc<Outbox>) -> Self {
        Self {
            io,
            batch: None,
            carry: Vec::new(),
            early: Bytes::copy_from_slice(already_read),
            pieces: Vec::new(),
            in_pieces: false,
            full: false,
            outbox,
        }
    }

    /// Keeps the unfinished frame and gives the buffer back.
    fn put_aside(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.carry.clear();
            self.carry
                .extend_from_slice(&batch.buffer[batch.start..batch.end]);
        }
    }

    /// Bytes of memory it keeps between batches.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let batch = self.batch.as_ref().map_or(0, |batch| batch.buffer.len());
        batch + self.carry.capacity() + self.pieces.capacity() + self.early.len()
    }

    /// What can be refused before the payload is there.
    fn check(&self, head: &Head, limit: usize) -> Result<(), ReadError> {
        match (head.opcode, self.in_pieces) {
            (Opcode::Text | Opcode::Binary, true) => {
                return Err(protocol("new message inside a fragmented one"));
            }
            (Opcode::Continuation, false) => {
                return Err(protocol("continuation of no message"));
            }
            (Opcode::Text, false) => {
                return Err(violation(CloseCode::Unsupported, "text message"));
            }
            (Opcode::Binary | Opcode::Continuation, _) => {
                let before = if self.in_pieces { self.pieces.len() } else { 0 };
                if head.payload_len > (limit - before.min(limit)) as u64 {
                    return Err(violation(
                        CloseCode::TooBig,
                        "message longer than its limit",
                    ));
                }
            }
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => {}
        }
        Ok(())
    }
}

fn violation(code: CloseCode, what: &'static str) -> ReadError {
    ReadError::Violation {
        what,
        answer: frame::close(code),
    }
}

fn protocol(what: &'static str) -> ReadError {
    violation(CloseCode::Protocol, what)
}

/// What a close frame means (RFC 6455, sections 5.5.1 and 7.4).
fn closed(payload: &[u8]) -> ReadError {
    let (code, reason) = match payload {
        [] => {
            return ReadError::Closed {
                code: None,
                answer: frame::control(Opcode::Close, &[]),
            };
        }
        [_] => return protocol("close frame with half a code"),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !frame::is_valid_close_code(code) {
        return protocol("close code that may not be sent");
    }
    if std::str::from_utf8(reason).is_err() {
        return violation(CloseCode::InvalidText, "close reason is not UTF-8");
    }
    ReadError::Closed {
        code: Some(code),
        answer: frame::control(Opcode::Close, &code.to_be_bytes()),
    }
}

impl<R: AsyncRead + Send + Unpin + 'static> MessageReader for WsReader<R> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        if self.batch.is_some() {
            return Poll::Ready(Ok(()));
        }
        let mut buffer = Buffer::take();
        let start = self.carry.len();
        let end = if self.early.is_empty() {
            let mut space = ReadBuf::new(&mut buffer[start..READ_LEN]);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut space))?;
            let read = space.filled().len();
            if read == 0 {
                return Poll::Ready(Err(ReadError::Ended));
            }
            start + read
        } else {
            let early = self.early.split_to(self.early.len().min(READ_LEN - start));
            buffer[start..start + early.len()].copy_from_slice(&early);
            if self.early.is_empty() {
                // An empty `Bytes` may still keep its memory.
                self.early = Bytes::new();
            }
            start + early.len()
        };
        buffer[..start].copy_from_slice(&self.carry);
        self.carry.clear();
        self.full = end == READ_LEN;
        self.batch = Some(Batch {
            buffer,
            start: 0,
            end,
        });
        Poll::Ready(Ok(()))
    }

    fn next_message(&mut self, limit: usize) -> Result<Option<&mut [u8]>, ReadError> {
        // None: the message is in `pieces`.
        let range = loop {
            let Some(batch) = &self.batch else {
                return Ok(None);
            };
            let unread = &batch.buffer[batch.start..batch.end];
            let Some(head) = frame::parse_head(unread).map_err(|error| protocol(error.what()))?
            else {
                self.put_aside();
                return Ok(None);
            };
            self.check(&head, limit)?;
            let payload = batch.start + head.len;
            // Checked above: no payload is longer than the limit, or than a control frame may be.
            let end = payload + usize::try_from(head.payload_len).expect("a checked length");
            if end > batch.end {
                self.put_aside();
                return Ok(None);
            }
            let batch = self.batch.as_mut().expect("a batch, as above");
            batch.start = end;
            let bytes = &mut batch.buffer[payload..end];
            frame::apply_mask(bytes, head.mask);
            match head.opcode {
                Opcode::Binary if head.fin => break Some(payload..end),
                Opcode::Binary | Opcode::Text => {
                    self.pieces.clear();
                    self.pieces.extend_from_slice(bytes);
                    self.in_pieces = true;
                }
                Opcode::Continuation => {
                    self.pieces.extend_from_slice(bytes);
                    if head.fin {
                        self.in_pieces = false;
                        break None;
                    }
                }
                Opcode::Ping => {
                    // A connection that takes no pong any more is ending anyway.
                    self.outbox
                        .push_control_raw(&frame::control(Opcode::Pong, bytes));
                }
                Opcode::Pong => {}
                Opcode::Close => return Err(closed(bytes)),
            }
        };
        Ok(Some(match range {
            Some(range) => {
                let batch = self.batch.as_mut().expect("the message lies in it");
                &mut batch.buffer[range]
            }
            None => &mut self.pieces,
        }))
    }

    fn is_full(&self) -> bool {
        self.full
    }

    fn release(&mut self) {
        self.carry.shrink_to_fit();
        if !self.in_pieces {
            self.pieces = Vec::new();
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.batch = None;
        let mut buffer = Buffer::take();
        loop {
            let mut space = ReadBuf::new(&mut buffer);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut space)) {
                Ok(()) if !space.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}
