//! The receiving half: records out of the socket, data out of the records.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::Shared;
use super::record::{Fault, Opener, Progress, Stop};
use super::session::Stage;
use crate::buffers::{BUFFER_LEN, Buffer};

/// A caller's buffer of this length or more is read into, and what comes is opened there. It has room for the beginning of a
/// record that came before, and for as much again.
const DIRECT_MIN: usize = BUFFER_LEN / 2;

/// What has been read and not yet been asked for.
#[derive(Debug)]
pub(super) struct ReadState {
    /// Data that did not fit into the caller's buffer, and how much of it has been handed out since.
    left: Vec<u8>,
    left_at: usize,
    pub(super) stage: Stage,
    /// From the handshake of TLS 1.3 on.
    own: Option<Box<Own>>,
}

/// The records that are ours to open.
#[derive(Debug)]
struct Own {
    opener: Opener,
    /// The beginning of a record.
    carry: Vec<u8>,
    /// Why no more is read; what came before it is handed out first.
    fault: Option<Fault>,
}

impl Default for ReadState {
    fn default() -> Self {
        Self {
            left: Vec::new(),
            left_at: 0,
            stage: Stage::Handshake,
            own: None,
        }
    }
}

/// What one look at the socket has brought.
pub(super) enum Filled {
    /// Bytes, and perhaps data.
    Some,
    /// The end of the stream.
    Ended,
}

impl Own {
    /// Reads once from the socket into `space` and opens what came. Returns how much data lies at the front of it, and the stage.
    fn poll_fill(
        &mut self,
        shared: &Shared,
        cx: &mut Context<'_>,
        space: &mut [u8],
    ) -> Poll<io::Result<(usize, Stage)>> {
        let carried = self.carry.len();
        let count = loop {
            ready!(shared.tcp.poll_read_ready(cx))?;
            match shared.tcp.try_read(&mut space[carried..]) {
                Ok(0) => return Poll::Ready(Ok((0, Stage::PeerClosed))),
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Who waits holds nothing.
                    if self.carry.is_empty() {
                        self.carry = Vec::new();
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        };
        let bytes = &mut space[..carried + count];
        bytes[..carried].copy_from_slice(&self.carry);
        self.carry.clear();
        let mut progress = Progress::default();
        let stage = match self.open(shared, bytes, &mut progress) {
            Ok(stage) => stage,
            Err(fault) => {
                self.fault = Some(fault);
                shared.fail(fault);
                return Poll::Ready(Ok((progress.plain, Stage::Open)));
            }
        };
        if stage == Stage::Open {
            self.carry.extend_from_slice(&bytes[progress.unread..]);
        }
        Poll::Ready(Ok((progress.plain, stage)))
    }

    fn open(
        &mut self,
        shared: &Shared,
        bytes: &mut [u8],
        progress: &mut Progress,
    ) -> Result<Stage, Fault> {
        loop {
            match self.opener.open(bytes, progress)? {
                Stop::Starved => return Ok(Stage::Open),
                Stop::Closed => return Ok(Stage::PeerClosed),
                Stop::KeyUpdate { answer } => {
                    self.opener.set_key(shared.keys.lock().next_to_read()?);
                    if answer {
                        shared.answer_key_update();
                    }
                }
            }
        }
    }
}

impl ReadState {
    /// Takes the keys from rustls, if it is TLS 1.3. To be called when the handshake is done and all that was due is written.
    pub(super) fn take_over(&mut self, shared: &Shared) -> Result<(), rustls::Error> {
        if self.stage != Stage::Open {
            return Ok(());
        }
        let mut write = shared.write.lock();
        let Some(over) = shared.keys.lock().take_over()? else {
            return Ok(());
        };
        write.take_over(over.sealer);
        self.own = Some(Box::new(Own {
            opener: over.opener,
            carry: over.carry,
            fault: None,
        }));
        Ok(())
    }

    /// Reads once from the socket and lets rustls take the records apart: data goes to `out`, and what has no room there stays here.
    pub(super) fn poll_fill(
        &mut self,
        shared: &Shared,
        cx: &mut Context<'_>,
        mut out: Option<&mut ReadBuf<'_>>,
    ) -> Poll<io::Result<Filled>> {
        let lost = || io::Error::from(io::ErrorKind::NotConnected);
        // Only this half changes what is carried, but for a writer that gets rid of some: then it is less.
        let (mut buffer, start, count) = loop {
            ready!(shared.tcp.poll_read_ready(cx))?;
            let mut buffer = Buffer::take();
            let start = shared.keys.lock().rustls().ok_or_else(lost)?.carried();
            match shared.tcp.try_read(&mut buffer[start..]) {
                Ok(0) => return Poll::Ready(Ok(Filled::Ended)),
                Ok(count) => break (buffer, start, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Who waits holds nothing.
                    shared.keys.lock().rustls().ok_or_else(lost)?.release();
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        };
        let left = &mut self.left;
        let mut keys = shared.keys.lock();
        let session = keys.rustls().ok_or_else(lost)?;
        let carried = session.carried();
        let result = session.advance(&mut buffer[start - carried..start + count], |data| {
            let mut rest = data;
            if let Some(out) = out.as_deref_mut() {
                let (now, later) = data.split_at(data.len().min(out.remaining()));
                out.put_slice(now);
                rest = later;
            }
            left.extend_from_slice(rest);
        });
        let due = session.has_due();
        drop(keys);
        if due {
            shared.send_due();
        }
        match result {
            Ok(stage) => {
                self.stage = stage;
                Poll::Ready(Ok(Filled::Some))
            }
            Err(error) => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error))),
        }
    }

    /// As [`ReadState::poll_fill`], for records that are ours.
    fn poll_fill_own(
        &mut self,
        shared: &Shared,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let own = self.own.as_mut().expect("the caller has looked");
        if let Some(fault) = own.fault {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
        }
        self.stage = if out.remaining() >= DIRECT_MIN {
            let (count, stage) = ready!(own.poll_fill(shared, cx, out.initialize_unfilled()))?;
            out.advance(count);
            stage
        } else {
            let mut buffer = Buffer::take();
            let (count, stage) = ready!(own.poll_fill(shared, cx, &mut buffer))?;
            let (now, later) = buffer[..count].split_at(count.min(out.remaining()));
            out.put_slice(now);
            self.left.extend_from_slice(later);
            stage
        };
        Poll::Ready(Ok(()))
    }

    fn poll_read(
        &mut self,
        shared: &Shared,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        while self.left.is_empty() && out.filled().len() == before {
            // The end, as the other side said it or as its kernel did: what it had to say is complete in either case, for
            // messages have their length in them.
            if self.stage == Stage::PeerClosed || out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if self.own.is_some() {
                ready!(self.poll_fill_own(shared, cx, out))?;
            } else if let Filled::Ended = ready!(self.poll_fill(shared, cx, Some(out)))? {
                self.stage = Stage::PeerClosed;
            }
        }
        let (now, later) = {
            let left = &self.left[self.left_at..];
            left.split_at(left.len().min(out.remaining()))
        };
        out.put_slice(now);
        if later.is_empty() {
            self.left = Vec::new();
            self.left_at = 0;
        } else {
            self.left_at += now.len();
        }
        Poll::Ready(Ok(()))
    }
}

/// The receiving half of a [`TlsStream`](super::TlsStream).
#[derive(Debug)]
pub struct TlsReadHalf {
    pub(super) shared: Arc<Shared>,
    pub(super) state: ReadState,
}

impl AsyncRead for TlsReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { shared, state } = self.get_mut();
        state.poll_read(shared, cx, out)
    }
}
