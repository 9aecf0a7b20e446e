//! The sending half: takes slabs from the outbox and writes each with as few calls as the socket allows.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{Outbox, Taken};

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
