//! One stream to one pod: what others can ask of it, and the queue of what goes out over it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::crosspod::PodAddr;
use crate::outbox::{Framing, Outbox, QueuePolicy};
use crate::proto::PeerId;
use crate::proto::cluster::{FrameType, forward_head};
use crate::telemetry::counters::DropReason;

/// An established stream to a pod. Always in an [`Arc`]; it outlives its stream, and takes nothing more then.
pub(crate) struct Link {
    pod: PodAddr,
    outbox: Arc<Outbox>,
    is_ours: AtomicBool,
    carries_peers: AtomicBool,
}

impl Link {
    pub(super) fn new(pod: PodAddr, policy: &Arc<QueuePolicy>, carries_peers: bool) -> Arc<Self> {
        Arc::new(Self {
            pod,
            outbox: Outbox::new(Framing::Frame, policy),
            is_ours: AtomicBool::new(false),
            carries_peers: AtomicBool::new(carries_peers),
        })
    }

    /// The pod's announced address, by which it is known.
    pub(crate) fn pod(&self) -> &PodAddr {
        &self.pod
    }

    /// Whether the pod has shown, by what stock pods never send, that it is one of ours: only then it is sent REFWD.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_ours.load(Ordering::Acquire)
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

    /// Sends what was queued; once a batch.
    pub(crate) fn flush(&self) {
        self.outbox.flush();
    }

    pub(super) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// True the first time.
    pub(super) fn set_ours(&self) -> bool {
        !self.is_ours.swap(true, Ordering::AcqRel)
    }

    pub(super) fn set_carries_peers(&self) {
        self.carries_peers.store(true, Ordering::Release);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("pod", &self.pod.0)
            .field("is_ours", &self.is_ours())
            .field("carries_peers", &self.carries_peers())
            .finish_non_exhaustive()
    }
}
