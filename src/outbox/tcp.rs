//! A TCP stream that an outbox is written to: its options, and its sending half, shared between the writer and the producers that find it idle.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

use super::TryWrite;

/// Sets what a stream wants that an outbox is written to: nothing waits for more, and the kernel holds at most about `unsent` bytes that
/// it has not sent. A kernel that refuses an option relays all the same.
pub(crate) fn tune(stream: &TcpStream, unsent: u32) {
    let socket = socket2::SockRef::from(stream);
    set_option("TCP_NODELAY", socket.set_tcp_nodelay(true));
    #[cfg(target_os = "linux")]
    set_option("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(unsent));
    #[cfg(not(target_os = "linux"))]
    let _ = unsent;
}

/// Tells that an option could not be set, at a level that nobody needs to see.
pub(crate) fn set_option(option: &'static str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(option, %error, "socket option not set");
    }
}

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
