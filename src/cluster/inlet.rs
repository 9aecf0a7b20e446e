//! What comes in over one link, on its way to the sink: at once, or after what an earlier stream to the same pod still brings.
//!
//! Two pods that dialed each other have two streams for a moment. What the newer one brings waits until it is known what becomes of the
//! older one, and its messages until that one has brought all that was sent on it. PING and PONG do not wait: they decide it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::info;

use super::fabric::FrameSink;
use super::link::{Dialer, Link};
use super::links::Links;
use crate::proto::cluster::{FRAME_HEADER_LEN, Frame, FrameType, next_frame, parse};

/// How long what a stream brings waits until it is known what becomes of an earlier stream to the same pod.
const PARK_LIMIT: Duration = Duration::from_secs(4);

/// How long a message waits for the end of the stream that its sender used before, so that it overtakes nothing.
const ORDER_LIMIT: Duration = Duration::from_secs(1);

/// Bytes of frames that may wait; what comes then is not worth more memory, and ends the waiting.
const WAITING_MAX: usize = 4 * 1024 * 1024;

type Opened = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The way to the sink of one link.
pub(super) struct Inlet {
    links: Arc<Links>,
    link: Arc<Link>,
    sink: Box<dyn FrameSink>,
    /// Resolves when what waits may go on; none while nothing waits.
    opens: Option<Opened>,
    /// Whole frames, one behind the other.
    waiting: Vec<u8>,
    /// The first message has been held against earlier streams.
    is_ordered: bool,
}

impl Inlet {
    pub(super) fn new(links: &Arc<Links>, link: &Arc<Link>, sink: Box<dyn FrameSink>) -> Self {
        let parked = Arc::clone(link);
        let opens = async move {
            // Too late is not worse than never.
            let _ = timeout(PARK_LIMIT, parked.unparked()).await;
        };
        Self {
            links: Arc::clone(links),
            link: Arc::clone(link),
            sink,
            opens: link.is_parked().then(|| Box::pin(opens) as Opened),
            waiting: Vec::new(),
            is_ordered: false,
        }
    }

    /// Takes a frame that says something about peers.
    pub(super) fn frame(&mut self, kind: u8, payload: &[u8], frame: Frame<'_>) {
        if self.opens.is_none() && !self.must_wait(kind) {
            return self.sink.frame(frame);
        }
        let [high, low] = u16::try_from(payload.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes();
        self.waiting.extend_from_slice(&[kind, high, low]);
        self.waiting.extend_from_slice(payload);
        if self.waiting.len() > WAITING_MAX {
            self.is_ordered = true;
            self.open();
        }
    }

    /// Whether this is the first message, and an earlier stream is still to bring some.
    fn must_wait(&mut self, kind: u8) -> bool {
        let is_message = kind == FrameType::Forward as u8 || kind == FrameType::Reforward as u8;
        if self.is_ordered || !is_message {
            return false;
        }
        self.is_ordered = true;
        let Some(earlier) = self.links.earlier(&self.link) else {
            return false;
        };
        self.opens = Some(Box::pin(async move {
            let _ = timeout(ORDER_LIMIT, earlier).await;
        }));
        true
    }

    /// Resolves when what waits may go on, which [`open`](Self::open) then does; never while nothing waits. Cancel-safe.
    pub(super) async fn opened(&mut self) {
        match &mut self.opens {
            Some(opens) => opens.await,
            None => std::future::pending().await,
        }
    }

    /// Lets go on what has waited.
    pub(super) fn open(&mut self) {
        self.opens = None;
        let waiting = std::mem::take(&mut self.waiting);
        let mut rest = &waiting[..];
        while let Some(raw) = next_frame(rest) {
            let (frame, later) = rest.split_at(raw.len());
            rest = later;
            let payload = &frame[FRAME_HEADER_LEN..];
            // It has been read before.
            if let Ok(frame) = parse(raw.kind, payload) {
                self.frame(raw.kind, payload, frame);
            }
        }
        self.sink.flush();
    }

    /// The pod has shown that it is one of ours.
    pub(super) fn became_ours(&mut self) {
        // Whoever must prove the secret and has not is told nothing, not even who is here.
        if self.link.carries_peers() && self.link.set_ours() {
            info!(
                relay.pod = self.link.pod().0,
                dialed = self.link.dialer() == Dialer::Us,
                "pod connected"
            );
            self.sink.became_ours();
            self.links.settle(self.link.pod());
        }
    }

    /// The end of a batch.
    pub(super) fn flush(&mut self) {
        self.sink.flush();
    }

    /// The end of the stream: what waits has come, and counts. The sink, to be told.
    pub(super) fn close(mut self) -> Box<dyn FrameSink> {
        self.is_ordered = true;
        self.open();
        self.sink
    }
}
