//! The sending half: sockets that producers may write to, and the task that takes slabs from the outbox and writes each with as few calls as the socket allows.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{Outbox, Slab, Taken};

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

/// Writes the outbox out until it is finished, aborted, or the socket fails. The outbox is aborted in any case then.
pub async fn write_out<W: AsyncWrite + Send + Unpin>(mut io: W, outbox: Arc<Outbox>) {
    write_slabs(&mut io, &outbox).await;
    outbox.abort();
}

async fn write_slabs<W: AsyncWrite + Unpin>(io: &mut W, outbox: &Outbox) {
    loop {
        match poll_fn(|cx| outbox.poll_take(cx)).await {
            Taken::Control(bytes) => {
                if !write_all(io, &bytes, outbox).await {
                    return;
                }
            }
            Taken::Data(slab) => {
                // On failure the slab counts its messages as dropped when it goes.
                if !write_all(io, slab.bytes(), outbox).await {
                    return;
                }
                slab.delivered();
            }
            Taken::Finished => {
                // A failing shutdown means that the other side is gone, which is what we want.
                let _ = io.shutdown().await;
                return;
            }
            Taken::Aborted => return,
        }
    }
}

/// Whether all bytes could be written; gives up when the connection is aborted meanwhile.
async fn write_all<W: AsyncWrite + Unpin>(io: &mut W, bytes: &[u8], outbox: &Outbox) -> bool {
    let mut written = 0;
    poll_fn(|cx| {
        while written < bytes.len() {
            match Pin::new(&mut *io).poll_write(cx, &bytes[written..]) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Pending => return outbox.poll_aborted(cx).map(|()| false),
            }
        }
        // A stream that buffers (TLS) hands on what it has; for plain TCP this does nothing.
        match Pin::new(&mut *io).poll_flush(cx) {
            Poll::Ready(result) => Poll::Ready(result.is_ok()),
            Poll::Pending => outbox.poll_aborted(cx).map(|()| false),
        }
    })
    .await
}
