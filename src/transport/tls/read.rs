//! The receiving half: records out of the socket, data out of the records.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::Shared;
use super::session::Stage;
use crate::buffers::Buffer;

/// What has been read and not yet been asked for.
#[derive(Debug)]
pub(super) struct ReadState {
    /// Data that did not fit into the caller's buffer, and how much of it has been handed out since.
    left: Vec<u8>,
    left_at: usize,
    pub(super) stage: Stage,
}

impl Default for ReadState {
    fn default() -> Self {
        Self {
            left: Vec::new(),
            left_at: 0,
            stage: Stage::Handshake,
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

impl ReadState {
    /// Reads once from the socket and takes the records apart: data goes to `out`, and what has no room there stays here.
    pub(super) fn poll_fill(
        &mut self,
        shared: &Shared,
        cx: &mut Context<'_>,
        mut out: Option<&mut ReadBuf<'_>>,
    ) -> Poll<io::Result<Filled>> {
        // Only this half changes what is carried, but for a writer that gets rid of some: then it is less.
        let (mut buffer, start, count) = loop {
            ready!(shared.tcp.poll_read_ready(cx))?;
            let mut buffer = Buffer::take();
            let start = shared.session.lock().carried();
            match shared.tcp.try_read(&mut buffer[start..]) {
                Ok(0) => return Poll::Ready(Ok(Filled::Ended)),
                Ok(count) => break (buffer, start, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Who waits holds nothing.
                    shared.session.lock().release();
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        };
        let left = &mut self.left;
        let mut session = shared.session.lock();
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
        drop(session);
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
            if let Filled::Ended = ready!(self.poll_fill(shared, cx, Some(out)))? {
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
