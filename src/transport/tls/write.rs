//! The sending half: data into records, records into the socket, shared between the writer and the producers that find it idle.

use std::cell::RefCell;
use std::error::Error;
use std::io::{self, IoSlice};
use std::mem;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::AlertDescription;
use tokio::io::AsyncWrite;

use super::Shared;
use super::record::{DATA_MAX, Fault, Frame, Sealer};
use super::session::{Sealed, Session};
use crate::buffers::BUFFER_LEN;
use crate::outbox::{Slab, TryWrite};

/// Records that one slab makes.
const SLAB_RECORDS: usize = BUFFER_LEN.div_ceil(DATA_MAX);

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
    /// Who makes the records, once it is not rustls; gone again after an alert, the last word.
    sealer: Option<Box<Sealer>>,
    /// The other side wants our key changed. However often it says so, once is enough, and before the next data is soon enough.
    update_due: bool,
}

impl WriteState {
    fn is_clear(&self) -> bool {
        self.pending.is_empty()
    }

    /// Bytes that wait for the socket.
    #[cfg(test)]
    pub(super) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// From now on records are made here.
    pub(super) fn take_over(&mut self, sealer: Sealer) {
        self.sealer = Some(Box::new(sealer));
    }
}

fn broken(error: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn over() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
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

    /// Changes our key if it must be before `data` is sealed; what says so comes behind `records`.
    fn renew(&self, write: &mut WriteState, data: usize, records: &mut Sealed) -> io::Result<()> {
        let Some(sealer) = &mut write.sealer else {
            return Ok(());
        };
        if write.update_due || sealer.is_worn(data.div_ceil(DATA_MAX) as u64) {
            sealer.update(self.keys.lock().next_to_write().map_err(broken)?, records);
            write.update_due = false;
        }
        Ok(())
    }

    /// Encrypts at most one slab of `data` and writes it; what the socket does not take waits. Returns how much was encrypted.
    /// To be called only when nothing waits.
    fn seal_and_write(&self, write: &mut WriteState, data: &[u8]) -> io::Result<usize> {
        let data = &data[..data.len().min(BUFFER_LEN)];
        SEALED.with_borrow_mut(|sealed| {
            sealed.clear();
            self.renew(write, data.len(), sealed)?;
            match &mut write.sealer {
                Some(sealer) => sealer.seal(data, sealed),
                None => {
                    let mut keys = self.keys.lock();
                    let session = keys.rustls().ok_or_else(over)?;
                    session.seal(data, sealed).map_err(broken)?;
                }
            }
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
        let due = self.keys.lock().rustls().map(Session::take_due);
        write.pending.extend_from_slice(&due.unwrap_or_default());
        let _ = self.drain(&mut write);
    }

    /// Changes our key because the other side wants it: now, or before the next data if something waits for the socket.
    pub(super) fn answer_key_update(&self) {
        let mut write = self.write.lock();
        write.update_due = !write.closed;
        if write.update_due && write.is_clear() {
            let mut sealed = Sealed::default();
            if self.renew(&mut write, 0, &mut sealed).is_ok() {
                write.pending.extend_from_slice(sealed.bytes());
                let _ = self.drain(&mut write);
            }
        }
    }

    /// Says why the connection ends, if the other side does not know, and nothing after that.
    pub(super) fn fail(&self, fault: Fault) {
        let mut write = self.write.lock();
        let sealer = write.sealer.take();
        if let (Some(mut sealer), Some(alert), false) = (sealer, fault.alert(), write.closed) {
            let mut sealed = Sealed::default();
            sealer.alert(alert, &mut sealed);
            write.pending.extend_from_slice(sealed.bytes());
        }
        let _ = self.drain(&mut write);
    }

    fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        let mut write = self.write.lock();
        self.drain(&mut write)?;
        let count = self.seal_and_write(&mut write, data)?;
        self.written(&mut write, count)
    }

    /// What a producer is told after so much has been encrypted.
    fn written(&self, write: &mut WriteState, count: usize) -> io::Result<usize> {
        if write.is_clear() {
            return Ok(count);
        }
        write.encrypted = count;
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn try_write_slab(&self, slab: &mut Slab) -> io::Result<()> {
        let mut write = self.write.lock();
        self.drain(&mut write)?;
        let write = &mut *write;
        let count = match (&write.sealer, slab.bytes_and_one()) {
            (Some(_), Some(data_and_one)) => self.seal_slab(write, data_and_one)?,
            _ => self.seal_and_write(write, slab.bytes())?,
        };
        slab.pass(self.written(write, count)?);
        Ok(())
    }

    /// Seals a slab where it lies, and writes it. Whatever the socket does not take is copied, and the slab is done with.
    fn seal_slab(&self, write: &mut WriteState, data_and_one: &mut [u8]) -> io::Result<usize> {
        let len = data_and_one.len() - 1;
        let mut renewal = Sealed::default();
        self.renew(write, len, &mut renewal)?;
        let Some(sealer) = &mut write.sealer else {
            return Err(over());
        };
        let mut frames = [Frame::default(); SLAB_RECORDS];
        for (number, frame) in frames.iter_mut().enumerate() {
            let start = number * DATA_MAX;
            if start < len {
                let end = len.min(start + DATA_MAX);
                *frame = sealer.seal_in_place(&mut data_and_one[start..=end]);
            }
        }
        let mut slices = [IoSlice::new(&[]); 1 + 3 * SLAB_RECORDS];
        let mut used = 1;
        slices[0] = IoSlice::new(renewal.bytes());
        for (data, frame) in data_and_one[..len].chunks(DATA_MAX).zip(&frames) {
            slices[used] = IoSlice::new(&frame.head);
            slices[used + 1] = IoSlice::new(data);
            slices[used + 2] = IoSlice::new(&frame.trailer);
            used += 3;
        }
        let slices = &slices[usize::from(renewal.bytes().is_empty())..used];
        let mut written = match self.tcp.try_write_vectored(slices) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        for slice in slices {
            let taken = written.min(slice.len());
            written -= taken;
            write.pending.extend_from_slice(&slice[taken..]);
        }
        Ok(len)
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
            let count = mem::take(&mut write.encrypted);
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
            if let Some(sealer) = &mut write.sealer {
                sealer.alert(AlertDescription::CloseNotify, &mut sealed);
            } else if let Some(session) = self.keys.lock().rustls() {
                session.close(&mut sealed).map_err(broken)?;
            }
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

    fn try_write_slab(&self, slab: &mut Slab) -> io::Result<()> {
        self.shared.try_write_slab(slab)
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
