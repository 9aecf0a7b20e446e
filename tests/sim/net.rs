//! A network in memory: streams between addresses, with delay, breaks, and directions in which nothing arrives.
//!
//! As in TCP, bytes arrive in their order or not at all. What cannot be delivered is kept, and the sender's stream is given up after a while without
//! an acknowledgement. Time is tokio's, paused; chance comes from one seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes under way in one direction of a stream before its writer waits.
const WINDOW: usize = 256 * 1024;

/// How long a kernel goes on with a stream whose bytes are not acknowledged (`TCP_USER_TIMEOUT`).
const USER_TIMEOUT: Duration = Duration::from_secs(15);

/// The network; clones are the same one.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<State>>);

struct State {
    random: SmallRng,
    /// The longest delay of one direction.
    delay: Duration,
    listeners: BTreeMap<SocketAddr, Arc<Mutex<Listener>>>,
    /// Directions in which nothing arrives: from, to.
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
    /// All streams that may be alive.
    streams: Vec<Arc<Stream>>,
}

#[derive(Default)]
struct Listener {
    waiting: VecDeque<End>,
    waker: Option<Waker>,
}

/// Both directions of a stream.
struct Stream {
    ends: [SocketAddr; 2],
    /// `pipes[0]` goes from `ends[0]` to `ends[1]`.
    pipes: [Mutex<Pipe>; 2],
}

struct Pipe {
    delay: Duration,
    /// What is under way, and when it arrives.
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// Since when the oldest byte could not be delivered.
    is_cut: bool,
    stuck_since: Option<Instant>,
    /// The writer has said that there will be no more.
    is_finished: bool,
    /// Nothing is written or read any more.
    is_broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn new(delay: Duration, is_cut: bool) -> Self {
        Self {
            delay,
            chunks: VecDeque::new(),
            bytes: 0,
            is_cut,
            stuck_since: None,
            is_finished: false,
            is_broken: false,
            reader: None,
            writer: None,
        }
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }

    fn break_off(&mut self) {
        self.is_broken = true;
        self.chunks.clear();
        self.bytes = 0;
        self.wake();
    }

    /// Nothing arrives any more, or all that is under way does.
    fn set_cut(&mut self, is_cut: bool) {
        self.is_cut = is_cut;
        let now = Instant::now();
        if is_cut {
            self.stuck_since = (!self.chunks.is_empty() || self.is_finished).then_some(now);
        } else {
            self.stuck_since = None;
            for (arrives, _) in &mut self.chunks {
                *arrives = now + self.delay;
            }
        }
        self.wake();
    }
}

impl Stream {
    fn break_off(&self) {
        for pipe in &self.pipes {
            pipe.lock().break_off();
        }
    }

    fn is_over(&self) -> bool {
        self.pipes.iter().any(|pipe| pipe.lock().is_broken)
    }
}

/// One end of a stream.
pub(crate) struct End {
    stream: Arc<Stream>,
    /// Which of the two.
    side: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl End {
    /// Who is at the other end.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.stream.ends[1 - self.side]
    }
}

impl Drop for End {
    /// A closed socket: what was written still arrives, and whoever writes to it is told that nobody reads.
    fn drop(&mut self) {
        let mut out = self.stream.pipes[self.side].lock();
        out.is_finished = true;
        if out.is_cut {
            out.stuck_since.get_or_insert_with(Instant::now);
        }
        out.wake();
        drop(out);
        let mut incoming = self.stream.pipes[1 - self.side].lock();
        if !incoming.is_cut {
            incoming.break_off();
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut pipe = this.stream.pipes[1 - this.side].lock();
        pipe.reader = Some(cx.waker().clone());
        if pipe.is_broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.is_cut {
            return Poll::Pending;
        }
        let now = Instant::now();
        let Some((arrives, chunk)) = pipe.chunks.front_mut() else {
            return if pipe.is_finished {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            };
        };
        if *arrives > now {
            let mut timer = Box::pin(sleep_until(*arrives));
            if timer.as_mut().poll(cx).is_pending() {
                this.timer = Some(timer);
                return Poll::Pending;
            }
        }
        let count = chunk.len().min(buf.remaining());
        buf.put_slice(&chunk[..count]);
        chunk.drain(..count);
        let done = chunk.is_empty();
        pipe.bytes -= count;
        if done {
            pipe.chunks.pop_front();
        }
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.stream.pipes[self.side].lock();
        if pipe.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW - pipe.bytes;
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = room.min(bytes.len());
        let now = Instant::now();
        if pipe.is_cut {
            pipe.stuck_since.get_or_insert(now);
        }
        let arrives = now + pipe.delay;
        pipe.chunks.push_back((arrives, bytes[..count].to_vec()));
        pipe.bytes += count;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.stream.pipes[self.side].lock();
        pipe.is_finished = true;
        if pipe.is_cut {
            pipe.stuck_since.get_or_insert_with(Instant::now);
        }
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Net {
    /// One whose delays, up to `delay` each way, come from `seed`.
    pub(crate) fn new(seed: u64, delay: Duration) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: SmallRng::seed_from_u64(seed),
            delay,
            listeners: BTreeMap::new(),
            cut: BTreeSet::new(),
            streams: Vec::new(),
        })))
    }

    /// Takes streams at this address from now on; the old listener's waiting ones are gone.
    pub(crate) fn listen(&self, at: SocketAddr) -> Incoming {
        let listener = Arc::<Mutex<Listener>>::default();
        self.0.lock().listeners.insert(at, Arc::clone(&listener));
        Incoming(listener)
    }

    /// Nobody listens at this address any more.
    pub(crate) fn unlisten(&self, at: SocketAddr) {
        self.0.lock().listeners.remove(&at);
    }

    /// A stream from an address to another. Waits for ever where nothing arrives.
    pub(crate) async fn dial(&self, from: SocketAddr, to: SocketAddr) -> io::Result<End> {
        let delay = {
            let mut state = self.0.lock();
            let most = state.delay;
            most.mul_f64(state.random.random_range(0.05..=1.0))
        };
        tokio::time::sleep(delay * 2).await;
        loop {
            let open = {
                let state = self.0.lock();
                !state.cut.contains(&(from, to)) && !state.cut.contains(&(to, from))
            };
            if open {
                break;
            }
            // A SYN is sent again after a second.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let mut state = self.0.lock();
        let Some(listener) = state.listeners.get(&to).cloned() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let stream = Arc::new(Stream {
            ends: [from, to],
            pipes: [(); 2].map(|()| Mutex::new(Pipe::new(delay, false))),
        });
        state.streams.retain(|stream| !stream.is_over());
        state.streams.push(Arc::clone(&stream));
        drop(state);
        let end = |side| End {
            stream: Arc::clone(&stream),
            side,
            timer: None,
        };
        let mut listener = listener.lock();
        listener.waiting.push_back(end(1));
        if let Some(waker) = listener.waker.take() {
            waker.wake();
        }
        Ok(end(0))
    }

    /// From now on nothing gets from one address to the other, or all of it again.
    pub(crate) fn set_cut(&self, from: SocketAddr, to: SocketAddr, is_cut: bool) {
        let mut state = self.0.lock();
        if is_cut {
            state.cut.insert((from, to));
        } else {
            state.cut.remove(&(from, to));
        }
        for stream in &state.streams {
            for side in 0..2 {
                if (stream.ends[side], stream.ends[1 - side]) == (from, to) {
                    let mut pipe = stream.pipes[side].lock();
                    if pipe.is_cut != is_cut {
                        pipe.set_cut(is_cut);
                    }
                }
            }
        }
    }

    /// Breaks all streams between two addresses, as a reset does.
    pub(crate) fn reset(&self, one: SocketAddr, other: SocketAddr) {
        let state = self.0.lock();
        for stream in &state.streams {
            if stream.ends.contains(&one) && stream.ends.contains(&other) {
                stream.break_off();
            }
        }
    }

    /// Breaks all streams of one address.
    pub(crate) fn reset_all(&self, of: SocketAddr) {
        let state = self.0.lock();
        for stream in &state.streams {
            if stream.ends.contains(&of) {
                stream.break_off();
            }
        }
    }

    /// How many streams are alive.
    pub(crate) fn streams(&self) -> usize {
        let state = self.0.lock();
        let alive = |stream: &&Arc<Stream>| Arc::strong_count(stream) > 1 && !stream.is_over();
        state.streams.iter().filter(alive).count()
    }

    /// What the kernels do: gives up streams whose bytes are not acknowledged. For ever.
    pub(crate) async fn run(self) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = Instant::now();
            let mut state = self.0.lock();
            state.streams.retain(|stream| {
                let stuck = stream.pipes.iter().any(|pipe| {
                    let since = pipe.lock().stuck_since;
                    since.is_some_and(|since| now - since >= USER_TIMEOUT)
                });
                if stuck {
                    stream.break_off();
                }
                Arc::strong_count(stream) > 1 && !stream.is_over()
            });
        }
    }
}

/// The streams that are dialed to one address.
pub(crate) struct Incoming(Arc<Mutex<Listener>>);

impl Incoming {
    /// The next one.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut listener = self.0.lock();
        match listener.waiting.pop_front() {
            Some(end) => Poll::Ready(end),
            None => {
                listener.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
