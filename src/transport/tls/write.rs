//! The sending half: data into records, records into the socket, shared between the writer and the producers that find it idle.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::Shared;
use super::session::Sealed;
use crate::buffers::BUFFER_LEN;
use crate::outbox::TryWrite;

thread_local! {
    /// Where records are made. They leave it at once, so that one for each thread does for all connections.
    static SEALED: RefCell<Sealed> = RefCell::default();
}

/// What has been encrypted and not been taken by the socket.
#[derive(Debug, Default)]
pub(super) struct WriteState {
    pending: Vec<u8>,
    pending_at: usize,
    /// Bytes of data that a producer's write has encrypted and left here. It was told that it would block, so the writer comes
    /// with the same bytes again, which are then done already.
    encrypted: usize,
    closed: bool,
}

impl WriteState {
    fn is_clear(&self) -> bool {
        self.pending.is_empty()
    }
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Shared {
    /// Hands the socket what waits for it.
    fn drain(&self, write: &mut WriteState) -> io::Result<()> {
        while write.pending_at < write.pending.len() {
            write.pending_at += self.tcp.try_write(&write.pending[write.pending_at..])?;
        }
        // The memory of a receiver that was slow once is not kept.
        write.pending = Vec::new();
        write.pending_at = 0;
        Ok(())
    }

    /// Encrypts at most one slab of `data` and writes it; what the socket does not take waits. Returns how much was encrypted.
    /// To be called only when nothing waits.
    fn seal_and_write(&self, write: &mut WriteState, data: &[u8]) -> io::Result<usize> {
        let data = &data[..data.len().min(BUFFER_LEN)];
        SEALED.with_borrow_mut(|sealed| {
            sealed.clear();
            self.session.lock().seal(data, sealed).map_err(broken)?;
            self.write_sealed(write, sealed.bytes())
        })?;
        Ok(data.len())
    }

    fn write_sealed(&self, write: &mut WriteState, records: &[u8]) -> io::Result<()> {
        let written = match self.tcp.try_write(records) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        write.pending.extend_from_slice(&records[written..]);
        Ok(())
    }

    /// Sends what TLS has to say by itself, behind what waits already. What the socket does not take goes out with the next
    /// write; an error is met there, too.
    pub(super) fn send_due(&self) {
        let mut write = self.write.lock();
        let due = self.session.lock().take_due();
        write.pending.extend_from_slice(&due);
        let _ = self.drain(&mut write);
    }

    fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        let mut write = self.write.lock();
        self.drain(&mut write)?;
        let count = self.seal_and_write(&mut write, data)?;
        if write.is_clear() {
            return Ok(count);
        }
        write.encrypted = count;
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn poll_drained(&self, write: &mut WriteState, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.drain(write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_write_ready(cx))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut write = self.write.lock();
        if write.encrypted > 0 {
            let count = std::mem::take(&mut write.encrypted);
            debug_assert!(count <= data.len(), "the same bytes are offered again");
            return Poll::Ready(Ok(count.min(data.len())));
        }
        ready!(self.poll_drained(&mut write, cx))?;
        Poll::Ready(self.seal_and_write(&mut write, data))
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drained(&mut self.write.lock(), cx)
    }

    fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut write = self.write.lock();
        if !write.closed {
            write.closed = true;
            let mut sealed = Sealed::default();
            self.session.lock().close(&mut sealed).map_err(broken)?;
            write.pending.extend_from_slice(sealed.bytes());
        }
        ready!(self.poll_drained(&mut write, cx))?;
        Poll::Ready(socket2::SockRef::from(&self.tcp).shutdown(Shutdown::Write))
    }
}

/// The sending half of a [`TlsStream`](super::TlsStream); clones are handles to the same half. What a write has accepted is
/// with the kernel only after a flush; a [`TryWrite`] that says *would block* may have encrypted its bytes, and the next
/// `poll_write` must begin with the same ones, as an outbox and its writer do.
#[derive(Debug, Clone)]
pub struct TlsWriteHalf {
    pub(super) shared: Arc<Shared>,
}

impl TryWrite for TlsWriteHalf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.try_write(bytes)
    }
}

impl AsyncWrite for TlsWriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.poll_shutdown(cx)
    }
}
