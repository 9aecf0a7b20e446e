//! The whole local path without a socket: frames in, cut, unmasked, parsed, routed, queued, written out by the receiver's writer.
//!
//! The connections are those of [`Relay::accept`]; only the bytes come from memory and end nowhere. What is missing, compared
//! with a relay in use, is the kernel: the two system calls for each batch, which cost more than all of this. Producers cannot write
//! to such a stream themselves, so each batch wakes the receiver's writer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use criterion::{BenchmarkId, Criterion, Throughput};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;
use tokio::time::Instant;
use trunkline::Relay;
use trunkline::auth::AllowAll;
use trunkline::proto::PeerId;
use trunkline::proto::peer::encode_auth;
use trunkline::telemetry::counters::DropReason;
use trunkline::transport::RemoteAddr;
use trunkline::transport::ws::Stream;

use crate::world::{id, masked, transport};

/// Messages that one read brings.
const BATCHES: [usize; 2] = [1, 16];

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("local path");
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch as u64));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without sockets starts anywhere");
        let pair = Pair::connect(&runtime, batch);
        group.bench_function(BenchmarkId::new("messages a read", batch), |bencher| {
            bencher.iter_custom(|batches| {
                let began = Instant::now();
                runtime.block_on(pair.pass(batches));
                began.elapsed()
            });
        });
        pair.check();
    }
    group.finish();
}

/// A sender and a receiver at one relay.
struct Pair {
    relay: Relay,
    sender: Arc<Mutex<Wire>>,
    receiver: Arc<Mutex<Wire>>,
    /// Bytes that the receiver is sent for one batch.
    delivered: u64,
}

impl Pair {
    fn connect(runtime: &Runtime, batch: usize) -> Self {
        let relay = Relay::builder()
            .exposed_address("relay.example.com")
            .validator(AllowAll)
            .build()
            .expect("settings that are right");
        let message = transport(&id(1));
        let sender = Wire::start(runtime, &relay, &id(0), masked(&message).repeat(batch));
        let receiver = Wire::start(runtime, &relay, &id(1), Vec::new());
        // A server's head of four bytes stands before each message.
        let delivered = ((4 + message.len()) * batch) as u64;
        Self {
            relay,
            sender,
            receiver,
            delivered,
        }
    }

    /// Lets the sender read so many batches, and waits until the receiver's writer has written them all.
    async fn pass(&self, batches: u64) {
        self.receiver.lock().awaited = batches * self.delivered;
        let reader = {
            let mut sender = self.sender.lock();
            sender.batches = batches;
            sender.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        std::future::poll_fn(|cx| self.receiver.lock().poll_written(cx)).await;
    }

    /// That nothing was measured but messages that arrived.
    fn check(&self) {
        for reason in DropReason::ALL {
            assert_eq!(self.relay.counters().dropped_count(reason), 0, "{reason:?}");
        }
    }
}

/// The client's side of one connection.
#[derive(Default)]
struct Wire {
    /// What is read first.
    auth: Vec<u8>,
    /// What is read then, once for each of `batches`.
    frames: Vec<u8>,
    batches: u64,
    /// Whether the last read brought something: the next finds the socket empty, and the other tasks have their turn.
    just_read: bool,
    reader: Option<Waker>,
    /// Bytes still to be written.
    awaited: u64,
    waiting: Option<Waker>,
}

impl Wire {
    /// Connects a peer and waits until the relay has answered.
    fn start(runtime: &Runtime, relay: &Relay, peer: &PeerId, frames: Vec<u8>) -> Arc<Mutex<Self>> {
        let auth = encode_auth(peer, &[0; 43]).expect("the token is short enough");
        let wire = Arc::new(Mutex::new(Self {
            auth: masked(&auth),
            frames,
            awaited: 1,
            ..Self::default()
        }));
        let end = Stream(End(Arc::clone(&wire)));
        let relay = relay.clone();
        runtime.spawn(async move { relay.accept(end, RemoteAddr::unknown()).await });
        runtime.block_on(std::future::poll_fn(|cx| wire.lock().poll_written(cx)));
        wire
    }

    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.awaited == 0 {
            return Poll::Ready(());
        }
        self.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The relay's end of it.
struct End(Arc<Mutex<Wire>>);

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.lock();
        if !wire.auth.is_empty() {
            space.put_slice(&std::mem::take(&mut wire.auth));
            return Poll::Ready(Ok(()));
        }
        if std::mem::take(&mut wire.just_read) && wire.batches > 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if wire.batches == 0 {
            wire.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        wire.batches -= 1;
        wire.just_read = true;
        space.put_slice(&wire.frames);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.lock();
        wire.awaited = wire.awaited.saturating_sub(bytes.len() as u64);
        if wire.awaited == 0
            && let Some(waiting) = wire.waiting.take()
        {
            waiting.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
