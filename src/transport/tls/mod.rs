//! TLS on a TCP stream, made for the message path: the server's side of a handshake, then two halves of a stream.
//!
//! The handshake and all of TLS 1.2 are rustls'. After a handshake of TLS 1.3 the keys are taken from it, and the records are ours
//! (`record`, docs/adr/0048): one read of the socket brings up to 62 KiB of them, which are opened in the reader's buffer; one slab
//! is sealed where it lies and leaves with one system call, also when a producer writes it. An idle connection holds keys and no buffer.
//! Which certificate is shown is the configuration's affair.

mod error;
mod keys;
mod read;
mod record;
mod session;
mod write;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

pub use error::TlsError;
pub use read::TlsReadHalf;
pub use write::TlsWriteHalf;

use self::keys::Keys;
use self::read::{Filled, ReadState};
use self::session::Stage;
use self::write::WriteState;

/// The first byte of every TLS connection: a record of the type *handshake*.
const HANDSHAKE_RECORD: u8 = 22;

/// What somebody gets who speaks HTTP here; a browser shows it.
const PLAIN_HTTP_ANSWER: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
    this port wants TLS: use https:// or rels://\n";

/// What both halves share. Lock order: `write`, then `keys`. A socket is never written to under the lock of the keys.
#[derive(Debug)]
struct Shared {
    tcp: TcpStream,
    keys: Mutex<Keys>,
    write: Mutex<WriteState>,
}

/// The server's end of a TLS connection, its handshake done.
#[derive(Debug)]
pub struct TlsStream {
    read: TlsReadHalf,
    write: TlsWriteHalf,
    alpn: Option<Vec<u8>>,
}

impl TlsStream {
    /// Does the handshake as `config` says. There is no time limit in it: that is the caller's. Cancel-safe in that a cancelled
    /// handshake ends the connection. Until the first byte comes, nothing is allocated.
    ///
    /// # Errors
    /// Those of [`TlsError`]; the other side has been told what TLS has a word for.
    pub async fn accept(mut tcp: TcpStream, config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let mut first = [0; 4];
        let seen = tcp.peek(&mut first).await.map_err(TlsError::Lost)?;
        match first[..seen] {
            [] => return Err(TlsError::Lost(io::ErrorKind::UnexpectedEof.into())),
            [HANDSHAKE_RECORD, ..] => {}
            [b'A'..=b'Z', b'A'..=b'Z', b'A'..=b'Z' | b' ', ..] => {
                // Whether it is read is the other side's affair.
                let _ = tcp.write_all(PLAIN_HTTP_ANSWER).await;
                return Err(TlsError::PlainHttp);
            }
            _ => return Err(TlsError::NotTls),
        }
        // Small messages of the handshake must not wait for each other.
        let _ = tcp.set_nodelay(true);
        let shared = Arc::new(Shared {
            keys: Mutex::new(Keys::new(config).map_err(TlsError::Handshake)?),
            write: Mutex::default(),
            tcp,
        });
        let mut stream = Self {
            read: TlsReadHalf {
                shared: Arc::clone(&shared),
                state: ReadState::default(),
            },
            write: TlsWriteHalf { shared },
            alpn: None,
        };
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        let TlsReadHalf { shared, state } = &mut stream.read;
        stream.alpn = shared.keys.lock().rustls().and_then(|it| it.alpn());
        state.take_over(shared).map_err(TlsError::Handshake)?;
        Ok(stream)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TlsError>> {
        let TlsReadHalf { shared, state } = &mut self.read;
        let lost = |error: io::Error| match error.downcast::<rustls::Error>() {
            Ok(error) => TlsError::Handshake(error),
            Err(error) => TlsError::Lost(error),
        };
        loop {
            ready!(shared.poll_flush(cx)).map_err(lost)?;
            match state.stage {
                Stage::Open => return Poll::Ready(Ok(())),
                // Who closes together with the last message of the handshake, as an ACME authority does, has not failed.
                Stage::PeerClosed if !shared.is_handshaking() => {
                    return Poll::Ready(Ok(()));
                }
                Stage::PeerClosed => {
                    return Poll::Ready(Err(TlsError::Lost(io::ErrorKind::UnexpectedEof.into())));
                }
                Stage::Handshake => {}
            }
            if let Filled::Ended = ready!(state.poll_fill(shared, cx, None)).map_err(lost)? {
                return Poll::Ready(Err(TlsError::Lost(io::ErrorKind::UnexpectedEof.into())));
            }
        }
    }

    /// The protocol that was agreed upon by ALPN, if any.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// The stream in two halves, which may be used from two tasks.
    #[must_use]
    pub fn into_split(self) -> (TlsReadHalf, TlsWriteHalf) {
        (self.read, self.write)
    }

    /// The stream below; for its options only.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        &self.read.shared.tcp
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
