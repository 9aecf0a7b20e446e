//! One stream to one pod: what others can ask of it, and the queue of what goes out over it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::crosspod::PodAddr;
use crate::outbox::{Framing, Outbox, QueuePolicy};
use crate::proto::PeerId;
use crate::proto::cluster::{FrameType, PING, forward_head};
use crate::telemetry::counters::DropReason;

/// How long a stream that another one has replaced may take for its last bytes, both ways.
const RETIRE_LIMIT: Duration = Duration::from_secs(3);

/// Which end dialed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialer {
    /// This pod.
    Us,
    /// The other one.
    Them,
}

/// An established stream to a pod. Always in an [`Arc`]; it outlives its stream, and takes nothing more then.
pub(crate) struct Link {
    pod: PodAddr,
    /// In the order in which links were made.
    number: u64,
    dialer: Dialer,
    outbox: Arc<Outbox>,
    /// Since when it is known that the pod is one of ours.
    ours_since: OnceLock<Instant>,
    carries_peers: AtomicBool,
    /// Another link has its place: it is being finished.
    is_retired: AtomicBool,
    /// It was given up because nothing came for too long.
    was_silent: AtomicBool,
    /// How many PONGs have come.
    pongs: watch::Sender<u64>,
    has_ended: watch::Sender<bool>,
    /// Whether it must wait until it is known what becomes of an earlier stream to the same pod.
    is_parked: watch::Sender<bool>,
    aborted: Notify,
}

impl Link {
    /// As if this pod had dialed.
    #[cfg(test)]
    pub(super) fn new(pod: PodAddr, policy: &Arc<QueuePolicy>, carries_peers: bool) -> Arc<Self> {
        Self::dialed_by(Dialer::Us, pod, policy, carries_peers)
    }

    pub(super) fn dialed_by(
        dialer: Dialer,
        pod: PodAddr,
        policy: &Arc<QueuePolicy>,
        carries_peers: bool,
    ) -> Arc<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            pod,
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            dialer,
            outbox: Outbox::new(Framing::Frame, policy),
            ours_since: OnceLock::new(),
            carries_peers: AtomicBool::new(carries_peers),
            is_retired: AtomicBool::new(false),
            was_silent: AtomicBool::new(false),
            pongs: watch::Sender::new(0),
            has_ended: watch::Sender::new(false),
            is_parked: watch::Sender::new(false),
            aborted: Notify::new(),
        })
    }

    /// The pod's announced address, by which it is known.
    pub(crate) fn pod(&self) -> &PodAddr {
        &self.pod
    }

    /// Whether the pod has shown, by what stock pods never send, that it is one of ours: only then it is sent REFWD.
    pub(crate) fn is_ours(&self) -> bool {
        self.ours_since.get().is_some()
    }

    /// For how long that has been known; none: it is not.
    pub(super) fn ours_for(&self) -> Option<Duration> {
        self.ours_since.get().map(Instant::elapsed)
    }

    /// Whether messages of peers may travel over it, either way: there is no cluster secret, or the pod has proven it, or the operator
    /// allows pods that have not.
    pub(crate) fn carries_peers(&self) -> bool {
        self.carries_peers.load(Ordering::Acquire)
    }

    /// Whether it takes anything.
    pub(crate) fn is_up(&self) -> bool {
        self.outbox.is_open()
    }

    /// Queues a FWD or REFWD with this message: one copy. It goes out with the next [`flush`](Self::flush). Counted as
    /// forwarded when it has been written.
    ///
    /// # Errors
    /// Why it was not queued; the caller counts it. [`DropReason::ReceiverClosed`]: the link is down, and nothing of the message
    /// was or will be written.
    #[inline]
    pub(crate) fn forward(
        &self,
        kind: FrameType,
        destination: &PeerId,
        message: &[u8],
    ) -> Result<(), DropReason> {
        let head = forward_head(kind, destination, message.len()).ok_or(DropReason::Malformed)?;
        self.outbox.push_behind(&head, message)
    }

    /// Queues a whole frame that is no message, ahead of all messages; it goes out by itself. False: the link is down, or was given
    /// up just now because it takes nothing any more.
    pub(crate) fn control(&self, frame: &[u8]) -> bool {
        self.outbox.push_control(frame)
    }

    /// Bytes of such frames that have not been written yet.
    pub(crate) fn control_backlog(&self) -> usize {
        self.outbox.control_len()
    }

    /// Sends what was queued; once a batch.
    pub(crate) fn flush(&self) {
        self.outbox.flush();
    }

    pub(super) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn dialer(&self) -> Dialer {
        self.dialer
    }

    /// Whether it was given up because nothing came from the pod for too long.
    pub(super) fn was_silent(&self) -> bool {
        self.was_silent.load(Ordering::Acquire)
    }

    pub(super) fn set_silent(&self) {
        self.was_silent.store(true, Ordering::Release);
    }

    /// True the first time.
    pub(super) fn set_ours(&self) -> bool {
        self.ours_since.set(Instant::now()).is_ok()
    }

    pub(super) fn set_carries_peers(&self) {
        self.carries_peers.store(true, Ordering::Release);
    }

    /// Another link has its place: what is queued still goes out, what comes in is still taken, until both ends are done.
    pub(super) fn retire(self: &Arc<Self>) {
        if self.is_retired.swap(true, Ordering::AcqRel) {
            return;
        }
        self.outbox.finish(None, &[]);
        let link = Arc::clone(self);
        tokio::spawn(async move {
            let ended = tokio::time::timeout(RETIRE_LIMIT, link.ended());
            if ended.await.is_err() {
                link.abort();
            }
        });
    }

    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// Ends it at once; what is queued is dropped and counted.
    pub(super) fn abort(&self) {
        self.outbox.abort();
        self.aborted.notify_one();
    }

    /// Resolves when it was given up; for its session alone. Cancel-safe.
    pub(super) async fn aborted(&self) {
        self.aborted.notified().await;
    }

    pub(super) fn ponged(&self) {
        self.pongs.send_modify(|pongs| *pongs += 1);
    }

    /// Sends a PING and waits for a PONG that comes after it; whether one came. Cancel-safe.
    pub(super) async fn answers_ping(&self, limit: Duration) -> bool {
        let mut pongs = self.pongs.subscribe();
        self.control(&PING)
            && tokio::select! {
                biased;
                answered = tokio::time::timeout(limit, pongs.changed()) => matches!(answered, Ok(Ok(()))),
                () = self.ended() => false,
            }
    }

    /// What comes in over it waits.
    pub(super) fn park(&self) {
        self.is_parked.send_replace(true);
    }

    pub(super) fn is_parked(&self) -> bool {
        *self.is_parked.borrow()
    }

    pub(super) fn unpark(&self) {
        self.is_parked.send_replace(false);
    }

    /// Resolves when what comes in may be taken. Cancel-safe.
    pub(super) async fn unparked(&self) {
        // It cannot fail: the sender is right here.
        let _ = self.is_parked.subscribe().wait_for(|parked| !parked).await;
    }

    pub(super) fn set_ended(&self) {
        self.has_ended.send_replace(true);
    }

    /// Resolves when nothing more comes from its stream. Cancel-safe.
    pub(super) async fn ended(&self) {
        // It cannot fail: the sender is right here.
        let _ = self.has_ended.subscribe().wait_for(|ended| *ended).await;
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("pod", &self.pod.0)
            .field("number", &self.number)
            .field("dialer", &self.dialer)
            .field("is_ours", &self.is_ours())
            .field("carries_peers", &self.carries_peers())
            .field("is_up", &self.is_up())
            .field("is_retired", &self.is_retired())
            .field("is_parked", &self.is_parked())
            .finish_non_exhaustive()
    }
}
