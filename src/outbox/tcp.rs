//! The sending half of a TCP stream, shared between the writer and the producers that find it idle.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

use super::TryWrite;

/// A handle to the sending half; the last one that goes closes it.
#[derive(Debug, Clone)]
pub struct SharedWriteHalf(Arc<OwnedWriteHalf>);

impl SharedWriteHalf {
    /// Takes the half of a stream that was split.
    #[must_use]
    pub fn new(half: OwnedWriteHalf) -> Self {
        Self(Arc::new(half))
    }

    fn stream(&self) -> &TcpStream {
        (*self.0).as_ref()
    }
}

impl TryWrite for SharedWriteHalf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }
}

impl AsyncWrite for SharedWriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream().poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                // The readiness was old; it is cleared now.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(self.stream()).shutdown(Shutdown::Write))
    }
}
