//! WebSocket as the message path needs it (RFC 6455): frames cut out of the read buffer and unmasked in place, whole slabs
//! written with one call. hyper does the upgrade; this room starts after it. No extension is ever negotiated.

pub mod frame;
mod reader;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

pub use reader::WsReader;

use super::tls::{TlsReadHalf, TlsStream, TlsWriteHalf};
use super::{IntoTransport, MessageReader, MessageTransport, ReadError, TransportKind};
use crate::outbox::{Framing, Outbox, QueuePolicy, SharedWriteHalf, tune, write_out};

/// Unsent bytes that the kernel may hold for one receiver (`TCP_NOTSENT_LOWAT`): what lies there can neither be dropped for
/// its age nor counted against the budget.
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// How long a refused connection may take to read why.
const REFUSAL_LINGER: Duration = Duration::from_secs(1);

/// The server's side of an upgraded WebSocket connection over two halves of a byte stream.
#[derive(Debug)]
pub struct WsTransport<R, W> {
    reader: WsReader<R>,
    writer: W,
    outbox: Arc<Outbox>,
}

impl<R, W> WsTransport<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Takes over a stream right after the upgrade; `already_read` is what came behind the request.
    #[must_use]
    pub fn new(read: R, write: W, already_read: &[u8], policy: &Arc<QueuePolicy>) -> Self {
        let outbox = Outbox::new(Framing::WebSocket, policy);
        Self {
            reader: WsReader::new(read, already_read, Arc::clone(&outbox)),
            writer: write,
            outbox,
        }
    }
}

/// A stream that was upgraded, with the bytes that came behind the request.
#[derive(Debug)]
pub struct Upgraded<S = TcpStream> {
    /// The raw stream: TCP, or [`TlsStream`].
    pub stream: S,
    /// Bytes read past the upgrade request.
    pub already_read: bytes::Bytes,
}

impl IntoTransport for Upgraded {
    type Transport = WsTransport<OwnedReadHalf, SharedWriteHalf>;

    fn into_transport(self, policy: &Arc<QueuePolicy>) -> Self::Transport {
        tune(&self.stream, NOTSENT_LOWAT);
        let (read, write) = self.stream.into_split();
        let write = SharedWriteHalf::new(write);
        let transport = WsTransport::new(read, write.clone(), &self.already_read, policy);
        transport.outbox.set_direct(Arc::new(write));
        transport
    }
}

impl IntoTransport for Upgraded<TlsStream> {
    type Transport = WsTransport<TlsReadHalf, TlsWriteHalf>;

    fn into_transport(self, policy: &Arc<QueuePolicy>) -> Self::Transport {
        tune(self.stream.tcp(), NOTSENT_LOWAT);
        let (read, write) = self.stream.into_split();
        let transport = WsTransport::new(read, write.clone(), &self.already_read, policy);
        transport.outbox.set_direct(Arc::new(write));
        transport
    }
}

/// Any other upgraded stream of bytes, split under a lock.
#[derive(Debug)]
pub struct Stream<S>(pub S);

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> IntoTransport for Stream<S> {
    type Transport = WsTransport<tokio::io::ReadHalf<S>, tokio::io::WriteHalf<S>>;

    fn into_transport(self, policy: &Arc<QueuePolicy>) -> Self::Transport {
        let (read, write) = tokio::io::split(self.0);
        WsTransport::new(read, write, &[], policy)
    }
}

impl<R, W> MessageTransport for WsTransport<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Reader = WsReader<R>;

    fn kind(&self) -> TransportKind {
        TransportKind::WebSocket
    }

    fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    async fn first_message<T: Send>(
        &mut self,
        limit: usize,
        then: impl FnOnce(&[u8]) -> T + Send,
    ) -> Result<T, ReadError> {
        loop {
            if let Some(message) = self.reader.next_message(limit)? {
                return Ok(then(message));
            }
            // No writer task runs yet: pongs go out from here.
            let control = self.outbox.take_control();
            if !control.is_empty() {
                self.writer.write_all(&control).await?;
            }
            std::future::poll_fn(|cx| self.reader.poll_fill(cx)).await?;
        }
    }

    async fn refuse(mut self, farewell: &[u8]) {
        let goodbye = async {
            let mut last = self.outbox.take_control();
            last.extend_from_slice(farewell);
            self.writer.write_all(&last).await?;
            self.writer.shutdown().await?;
            std::future::poll_fn(|cx| self.reader.poll_drain(cx)).await;
            io::Result::Ok(())
        };
        // Whether the other side takes it is its own affair.
        let _ = tokio::time::timeout(REFUSAL_LINGER, goodbye).await;
    }

    fn split(self) -> (Self::Reader, impl Future<Output = ()> + Send + 'static) {
        let writer = write_out(self.writer, Arc::clone(&self.outbox));
        (self.reader, writer)
    }
}

#[cfg(test)]
mod tests;
