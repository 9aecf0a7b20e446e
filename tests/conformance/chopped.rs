//! A stream that a server reads in pieces: the one way to be sure where a read ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Where reads end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// Where the client's writes end.
    Nowhere,
    /// Behind every byte.
    Everywhere,
    /// Anywhere, often within a frame's head. The number is the seed.
    Random(u64),
}

/// The server's end of a stream in memory.
#[derive(Debug)]
pub(crate) struct Chopped {
    stream: DuplexStream,
    cut: Cut,
    random: StdRng,
}

impl Chopped {
    pub(crate) fn new(stream: DuplexStream, cut: Cut) -> Self {
        let seed = match cut {
            Cut::Random(seed) => seed,
            Cut::Nowhere | Cut::Everywhere => 0,
        };
        Self {
            stream,
            cut,
            random: StdRng::seed_from_u64(seed),
        }
    }

    fn next_piece(&mut self) -> usize {
        match self.cut {
            Cut::Nowhere => usize::MAX,
            Cut::Everywhere => 1,
            Cut::Random(_) => {
                let longest = [3, 20, 150, 9000][self.random.random_range(0..4)];
                self.random.random_range(1..=longest)
            }
        }
    }
}

impl AsyncRead for Chopped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut piece = buf.take(self.next_piece());
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        let read = piece.filled().len();
        // The piece zeroed what it did not fill, but only this much belongs to the caller.
        buf.initialize_unfilled_to(read);
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Chopped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
