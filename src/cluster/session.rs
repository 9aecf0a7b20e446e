//! The life of one link: reads its frames, answers PINGs, notices silence, and says when it has ended.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::hello::GreetError;
use super::inlet::Inlet;
use super::link::Link;
use super::ping::{Due, Pinger};
use super::reader::FrameReader;
use super::streams::Streams;
use crate::outbox::write_out;
use crate::proto::cluster::{Frame, FrameError, PING, PONG, parse};
use crate::stack::drain::Watch;

/// How long a stream that has ended, or is to end, may take to write what is queued.
const FINISH_LIMIT: Duration = Duration::from_secs(1);

/// After how many full reads in a row a stream that always has more lets others go first: each such turn costs a look at all sockets
/// and wakes another worker.
const FULL_READS: u32 = 4;

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the other pod closed it")]
    Closed,
    #[error("stream lost: {0}")]
    Lost(#[from] io::Error),
    #[error(
        "it ended in the middle of TLS: the pod was killed or gave it up, or something between the pods closes streams"
    )]
    Cut,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("nothing came from the pod for 15 s")]
    Silence,
    #[error("it could not be written to")]
    Unwritable,
    #[error("{0}")]
    Greet(#[from] GreetError),
    #[error("shutting down")]
    Stopped,
}

impl End {
    /// Whether both ends may have agreed on it. Else the pod may be gone, and what it had with it.
    fn is_orderly(&self) -> bool {
        matches!(self, Self::Closed | Self::Stopped)
    }
}

/// What a link needs to run.
pub(super) struct Session<R> {
    pub(super) streams: Arc<Streams>,
    pub(super) link: Arc<Link>,
    pub(super) reader: FrameReader<R>,
    pub(super) inlet: Inlet,
    /// A HELLO is still expected: the pod was dialed and has not answered.
    pub(super) expects_answer: bool,
}

impl<R: AsyncRead + Unpin> Session<R> {
    /// Runs the link until it ends. `write` is the stream's other half.
    pub(super) async fn run(
        mut self,
        write: impl tokio::io::AsyncWrite + Send + Unpin + 'static,
        stop: Watch,
    ) {
        let mut writer = tokio::spawn(write_out(write, Arc::clone(self.link.outbox())));
        let end = self.read(&mut writer, stop).await;
        // From here on everybody takes another way; what is queued here still goes out if the pod takes it.
        self.link.outbox().finish(None, &[]);
        let is_orderly = end.is_orderly() || self.link.is_retired();
        if matches!(end, End::Silence) {
            self.link.set_silent();
        }
        let Self {
            streams,
            link,
            inlet,
            ..
        } = self;
        let sink = inlet.close();
        let mut is_replaced = false;
        streams.links.remove(&link, is_orderly, |replaced| {
            is_replaced = replaced;
            sink.down(replaced);
        });
        link.set_ended();
        let pod = &link.pod().0;
        if link.is_retired() || is_replaced && matches!(end, End::Closed) {
            debug!(relay.pod = pod, "stream closed: another one is kept");
        } else if matches!(end, End::Closed | End::Stopped) {
            info!(relay.pod = pod, "pod disconnected: {end}");
        } else {
            warn!(relay.pod = pod, "pod disconnected: {end}");
        }
        streams.links.settle(link.pod());
        if end.is_orderly() && !writer.is_finished() {
            // Its error would be a panic, which has been reported.
            let _ = timeout(FINISH_LIMIT, &mut writer).await;
        }
        link.abort();
    }

    async fn read(&mut self, writer: &mut JoinHandle<()>, mut stop: Watch) -> End {
        let mut pinger = Pinger::new(Instant::now());
        let mut timer = std::pin::pin!(sleep_until(pinger.next()));
        let mut writer_is_done = false;
        let mut full_reads = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.started() => return End::Stopped,
                () = self.link.aborted() => return End::Unwritable,
                _ = &mut *writer, if !writer_is_done => {
                    // All was written, and the pod may still have something to say.
                    if !self.link.is_retired() {
                        return End::Unwritable;
                    }
                    writer_is_done = true;
                    continue;
                }
                () = self.inlet.opened() => {
                    self.inlet.open();
                    continue;
                }
                () = &mut timer => {
                    match pinger.due(Instant::now()) {
                        Due::Silence => return End::Silence,
                        Due::Ping { lost } => {
                            self.streams.metrics.ping_sent(lost);
                            self.link.control(&PING);
                        }
                        Due::Nothing => {}
                    }
                    timer.as_mut().reset(pinger.next());
                    continue;
                }
                filled = poll_fn(|cx| self.reader.poll_fill(cx)) => match filled {
                    Ok(true) => {}
                    Ok(false) => return End::Closed,
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return End::Cut,
                    Err(error) => return End::Lost(error),
                },
            }
            pinger.heard(Instant::now());
            if let Err(end) = self.batch(&mut pinger) {
                return end;
            }
            // The first PONG brings the end of patience nearer.
            if pinger.next() < timer.deadline() {
                timer.as_mut().reset(pinger.next());
            }
            full_reads = if self.reader.is_full() {
                full_reads + 1
            } else {
                0
            };
            if full_reads == FULL_READS {
                full_reads = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Goes through what one read brought.
    fn batch(&mut self, pinger: &mut Pinger) -> Result<(), End> {
        while let Some(raw) = self.reader.peek() {
            let payload = self.reader.take(raw);
            let frame = match parse(raw.kind, payload) {
                Ok(frame) => frame,
                Err(error) if error.ends_stream() => return Err(error.into()),
                Err(_) => continue,
            };
            match frame {
                Frame::WhoHas(_) | Frame::IHave { .. } | Frame::Forward { .. } => {
                    self.inlet.frame(raw.kind, payload, frame);
                }
                Frame::Lost { .. } | Frame::Reforward { .. } => {
                    self.inlet.became_ours();
                    self.inlet.frame(raw.kind, payload, frame);
                }
                Frame::Ping => {
                    self.inlet.became_ours();
                    self.link.control(&PONG);
                }
                Frame::Pong => {
                    self.inlet.became_ours();
                    pinger.answered();
                    self.link.ponged();
                }
                Frame::Hello(payload) if self.expects_answer => {
                    self.expects_answer = false;
                    let pod = self.streams.judge_answer(payload)?;
                    if pod != *self.link.pod() {
                        debug!(
                            relay.pod = self.link.pod().0,
                            announced = pod.0,
                            "the pod answered late, and announces another address"
                        );
                    }
                    self.link.set_carries_peers();
                    self.inlet.became_ours();
                }
                // Nothing that this version knows a use for.
                Frame::Hello(_)
                | Frame::Open { .. }
                | Frame::OpenAck { .. }
                | Frame::Data { .. }
                | Frame::Close { .. }
                | Frame::Unknown(_) => {}
            }
        }
        self.inlet.flush();
        Ok(())
    }
}
