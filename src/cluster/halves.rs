//! The two halves of a TCP stream between pods, each with a descriptor of its own.
//!
//! The halves that tokio has share one, and the runtime is told of all that comes on it, whoever reads at that moment: every segment on a
//! busy stream wakes the worker that looks after the sockets, for nothing, as the reading one would have found it anyway. Here the half
//! that writes asks for room only, and the half that reads asks for nothing as long as there is always more
//! (docs/adr/0075-busy-streams-between-pods.md).

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::task::coop;

use crate::buffers::BUFFER_LEN;
use crate::outbox::TryWrite;

/// A stream is busy after more bytes than that in full reads; [`FrameReader`](super::reader::FrameReader) has them with its fourth. Not
/// sooner: to be told by the runtime again costs some microseconds.
const BUSY_AFTER: usize = 3 * BUFFER_LEN;

/// Splits a stream that does not block. To be called in a runtime.
pub(super) fn split(stream: TcpStream) -> io::Result<(ReadHalf, WriteHalf)> {
    let read = Arc::new(stream.try_clone()?);
    let watch = watch(&read)?;
    let write = register(stream, Interest::WRITABLE)?;
    Ok((
        ReadHalf {
            stream: read,
            watch: Some(watch),
            full: 0,
        },
        WriteHalf(Arc::new(Writable(write))),
    ))
}

fn watch(stream: &Arc<TcpStream>) -> io::Result<AsyncFd<Arc<TcpStream>>> {
    register(Arc::clone(stream), Interest::READABLE)
}

/// Has the runtime tell of what is of `interest`. `T` is a stream of the standard library, owned or shared: its descriptor is the same and
/// open for as long as it lives.
#[expect(
    deprecated,
    reason = "what took its place is unsafe, for the sake of types of which that is not true"
)]
fn register<T: AsFd + AsRawFd>(stream: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(stream, interest)
}

/// The half that reads.
#[derive(Debug)]
pub(super) struct ReadHalf {
    stream: Arc<TcpStream>,
    /// Tells when there is something to read; none while there always is, and after the end.
    watch: Option<AsyncFd<Arc<TcpStream>>>,
    /// Bytes that reads have brought since one was not full; none are counted while the stream is busy.
    full: usize,
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let space = buf.initialize_unfilled();
        let len = space.len();
        let count = loop {
            let Some(watch) = &this.watch else {
                // As whoever reads from tokio's own sockets: after so many reads it is others' turn.
                let budget = ready!(coop::poll_proceed(cx));
                match (&*this.stream).read(space) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // What has come in between is told at once.
                        this.watch = Some(self::watch(&this.stream)?);
                        continue;
                    }
                    result => {
                        budget.made_progress();
                        break result?;
                    }
                }
            };
            let mut ready = ready!(watch.poll_read_ready(cx))?;
            if let Ok(result) = ready.try_io(|_| (&*this.stream).read(space)) {
                let count = result?;
                if 0 < count && count < len {
                    // That was all; what comes from now on is told again.
                    ready.clear_ready();
                }
                break count;
            }
        };
        match &this.watch {
            Some(_) if count == len => {
                this.full += count;
                if this.full > BUSY_AFTER {
                    this.full = 0;
                    this.watch = None;
                }
            }
            Some(_) => this.full = 0,
            // If that fails, the next read says so: these bytes are good.
            None if 0 < count && count < len => this.watch = watch(&this.stream).ok(),
            None => {}
        }
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// The half that writes, shared between the writer and the producers that find it idle; the last handle that goes closes it.
#[derive(Debug, Clone)]
pub(super) struct WriteHalf(Arc<Writable>);

#[derive(Debug)]
struct Writable(AsyncFd<TcpStream>);

impl Writable {
    fn shutdown(&self) -> io::Result<()> {
        self.0.get_ref().shutdown(Shutdown::Write)
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        // The other half keeps the socket open. An error means that the stream is over anyway.
        let _ = self.shutdown();
    }
}

impl TryWrite for WriteHalf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .0
            .try_io(Interest::WRITABLE, |mut stream| stream.write(bytes))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.0.poll_write_ready(cx))?;
            // The readiness may be old; it is cleared then.
            if let Ok(result) = ready.try_io(|stream| stream.get_ref().write(bytes)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    const LEN: usize = BUFFER_LEN;
    /// For what should come at once.
    const LIMIT: Duration = Duration::from_secs(10);

    async fn pair() -> (TcpStream, ReadHalf, WriteHalf) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (near, _) = listener.accept().await.unwrap();
        let (read, write) = split(near.into_std().unwrap()).unwrap();
        (far, read, write)
    }

    /// Waits until so many bytes are there to be read.
    async fn arrived(half: &ReadHalf, count: usize) {
        let mut buffer = vec![0; count];
        let all = async {
            while half.stream.peek(&mut buffer).ok() != Some(count) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, all).await.expect("the bytes arrive");
    }

    /// What one read brings.
    async fn read(half: &mut ReadHalf) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; LEN];
        let count = timeout(LIMIT, half.read(&mut buffer))
            .await
            .expect("the half hears of what there is")?;
        buffer.truncate(count);
        Ok(buffer)
    }

    /// Whether a read would wait.
    fn waits(half: &mut ReadHalf) -> bool {
        let mut buffer = [0; LEN];
        half.read(&mut buffer).now_or_never().is_none()
    }

    /// A stream that is busy, all of which has been read.
    async fn busy() -> (TcpStream, ReadHalf, WriteHalf) {
        let (mut far, mut half, write) = pair().await;
        for round in 0..4 {
            assert!(half.watch.is_some(), "busy after {round} full reads");
            far.write_all(&[7; LEN]).await.unwrap();
            arrived(&half, LEN).await;
            assert!(read(&mut half).await.unwrap() == [7; LEN]);
        }
        assert!(half.watch.is_none(), "not busy after 4 full reads");
        (far, half, write)
    }

    #[tokio::test]
    async fn a_busy_stream_that_has_nothing_more_hears_of_what_comes_then() {
        let (mut far, mut half, _write) = busy().await;
        assert!(waits(&mut half));
        assert!(half.watch.is_some());
        let (got, ()) = tokio::join!(read(&mut half), async {
            tokio::task::yield_now().await;
            far.write_all(b"next").await.unwrap();
        });
        assert_eq!(got.unwrap(), b"next");
    }

    #[tokio::test]
    async fn a_read_that_is_not_full_ends_the_busy_time_and_loses_nothing_behind_it() {
        let (mut far, mut half, _write) = busy().await;
        far.write_all(b"short").await.unwrap();
        arrived(&half, 5).await;
        assert_eq!(read(&mut half).await.unwrap(), b"short");
        assert!(half.watch.is_some());
        for _ in 0..2 {
            far.write_all(b"behind").await.unwrap();
            arrived(&half, 6).await;
            assert_eq!(read(&mut half).await.unwrap(), b"behind");
            assert!(waits(&mut half));
        }
    }

    #[tokio::test]
    async fn full_reads_count_in_a_row_only() {
        let (mut far, mut half, _write) = pair().await;
        for len in [LEN, LEN, LEN, 1, LEN] {
            far.write_all(&vec![7; len]).await.unwrap();
            arrived(&half, len).await;
            assert_eq!(read(&mut half).await.unwrap().len(), len);
        }
        assert!(half.watch.is_some());
    }

    #[tokio::test]
    async fn a_busy_stream_hears_of_its_end() {
        for is_watched_again in [true, false] {
            let (mut far, mut half, _write) = busy().await;
            assert!(!is_watched_again || waits(&mut half));
            far.shutdown().await.unwrap();
            for _ in 0..2 {
                assert_eq!(read(&mut half).await.unwrap(), b"");
            }

            let (far, mut half, _write) = busy().await;
            assert!(!is_watched_again || waits(&mut half));
            far.set_zero_linger().unwrap();
            drop(far);
            let error = read(&mut half).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn who_reads_a_busy_stream_on_and_on_lets_others_have_their_turn() {
        let (mut far, mut half, _write) = busy().await;
        let all = 1000;
        far.write_all(&vec![7; all]).await.unwrap();
        arrived(&half, all).await;
        let mut buffer = [0; 1];
        let reads = poll_fn(|cx| {
            let mut reads = 0;
            while reads < all
                && Pin::new(&mut half)
                    .poll_read(cx, &mut ReadBuf::new(&mut buffer))
                    .is_ready()
            {
                reads += 1;
            }
            Poll::Ready(reads)
        });
        assert!(reads.await < all);
    }

    #[tokio::test]
    async fn the_last_handle_to_the_half_that_writes_closes_it() {
        let (mut far, mut half, write) = busy().await;
        let other = write.clone();
        drop(write);
        other.try_write(b"last").unwrap();
        drop(other);
        let mut got = Vec::new();
        let all = timeout(LIMIT, far.read_to_end(&mut got)).await;
        all.expect("the end comes").unwrap();
        assert_eq!(got, b"last");
        // The other way is open.
        far.write_all(b"more").await.unwrap();
        assert_eq!(read(&mut half).await.unwrap(), b"more");
    }

    #[tokio::test]
    async fn a_producer_that_finds_no_room_leaves_a_writer_that_hears_of_it() {
        let (mut far, _read, mut write) = pair().await;
        let mut written = 0;
        // The first words of a new socket may come before the runtime has looked at it.
        write.write_all(&[7]).await.unwrap();
        while let Ok(count) = write.try_write(&[7; LEN]) {
            written += count;
        }
        assert!(written > 0);
        let writing = async {
            write.write_all(&[8]).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let reading = far.read_to_end(&mut got);
        let (_, read) = timeout(LIMIT, async { tokio::join!(writing, reading) })
            .await
            .expect("the writer goes on");
        assert_eq!(read.unwrap(), 1 + written + 1);
    }

    #[tokio::test]
    async fn the_half_that_writes_waits_for_room() {
        const ALL: usize = 16 << 20;
        let (mut far, _read, mut write) = pair().await;
        let writing = async {
            write.write_all(&vec![7; ALL]).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let reading = async {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            assert!(got.len() == ALL && got.iter().all(|&byte| byte == 7));
        };
        timeout(LIMIT, async { tokio::join!(writing, reading) })
            .await
            .expect("all is written");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn all_bytes_come_in_order_whatever_the_sizes(
            pieces in proptest::collection::vec((1_usize..200_000, any::<bool>()), 1..20),
            reads in proptest::collection::vec(1_usize..90_000, 1..5),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (far, mut half, _write) = pair().await;
                let all = pieces.iter().map(|piece| piece.0).sum();
                let sent: Vec<u8> = (0_usize..all).map(|at| (at / 7) as u8).collect();
                // On a thread of its own: what comes, comes at any moment.
                let mut far = far.into_std().unwrap();
                far.set_nonblocking(false).unwrap();
                let bytes = sent.clone();
                let writing = std::thread::spawn(move || {
                    let mut rest = &bytes[..];
                    for (len, pause) in pieces {
                        let (now, later) = rest.split_at(len);
                        far.write_all(now).unwrap();
                        rest = later;
                        if pause {
                            std::thread::yield_now();
                        }
                    }
                });
                let mut got = Vec::new();
                for &len in reads.iter().cycle() {
                    let mut buffer = vec![0; len];
                    let read = timeout(LIMIT, half.read(&mut buffer)).await;
                    match read.expect("the half hears of what there is").unwrap() {
                        0 => break,
                        count => got.extend_from_slice(&buffer[..count]),
                    }
                }
                writing.join().unwrap();
                assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
            });
        }
    }
}
