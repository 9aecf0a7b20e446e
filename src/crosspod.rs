//! The seam between the relay and whatever carries messages to other pods. Neither side sees the other's types.
//!
//! The relay asks [`CrossPod`] to forward what is for nobody here, and [`Locate`] where a peer is; it tells a [`Directory`] who comes
//! and goes here, and asks it who is online elsewhere. The fabric hands what arrives from other pods to [`LocalPeers`], through one
//! [`Courier`] a stream, and says there when a peer has moved. Without a fabric, a message for a peer that is not here is
//! dropped and counted.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service};

use crate::proto::PeerId;
use crate::telemetry::counters::DropReason;

/// A message on its way to another pod.
#[derive(Debug, Clone, Copy)]
pub struct Forward<'a> {
    /// Whom it is for.
    pub destination: PeerId,
    /// The whole transport message, already stamped with its sender's ID.
    pub message: &'a [u8],
}

/// What became of a [`Forward`]. It is an admission, not a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// It is on its way to the pod that has the peer; the relay counts it as forwarded.
    Sent,
    /// It is in the queue of the stream to the pod that has the peer; the fabric counts it as forwarded when it has been written, or
    /// as dropped.
    Queued,
    /// It waits, in order, until the peer's pod is known; the fabric counts what becomes of it.
    Held,
    /// It was dropped.
    Dropped(DropReason),
}

/// Forwards messages to other pods. Each connection has a clone of its own.
pub trait CrossPod: Send + Sync {
    /// Takes one message; answers at once and never waits.
    fn forward(&mut self, message: Forward<'_>) -> Forwarded;

    /// As [`forward`](Self::forward), if the way is known without a look-up: messages for the same peer went it before, and nothing has
    /// changed since, not even that the peer has come to this pod. None: nothing was done.
    fn forward_again(&mut self, _message: Forward<'_>) -> Option<Forwarded> {
        None
    }

    /// The end of a batch: what was taken may go out now.
    fn flush(&mut self) {}

    /// A clone for another connection.
    fn fork(&self) -> Box<dyn CrossPod>;
}

impl fmt::Debug for dyn CrossPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CrossPod")
    }
}

/// Where another pod is reached: `host:port`. Ordered as text, which is the order that decides between two pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodAddr(pub String);

/// Asks which other pod has a peer; none: no pod has it.
pub type Locate = BoxCloneSyncService<PeerId, Option<PodAddr>, BoxError>;

/// Makes a [`CrossPod`] of a tower service whose futures are ready when called: retries, load-shed and metrics are then
/// ordinary layers around it.
///
/// A service that is not ready, or whose future is not, sheds the message: reading never waits, and a message that
/// was overtaken may not be sent late. So does one that fails: this is where the stack's errors end. A stack that wants
/// another reason counted than [`DropReason::FabricOverloaded`] answers with [`Forwarded::Dropped`] itself.
#[derive(Debug, Clone)]
pub struct ForwardService<S>(S);

impl<S> ForwardService<S> {
    /// Wraps `service`.
    #[must_use]
    pub const fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S> CrossPod for ForwardService<S>
where
    // Neither the future nor the error is named: those of tower's layers hold the request, and so differ by its lifetime.
    S: for<'a> Service<Forward<'a>, Response = Forwarded> + Clone + Send + Sync + 'static,
{
    fn forward(&mut self, message: Forward<'_>) -> Forwarded {
        const SHED: Forwarded = Forwarded::Dropped(DropReason::FabricOverloaded);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(())) = self.0.poll_ready(&mut cx) else {
            return SHED;
        };
        let future = std::pin::pin!(self.0.call(message));
        match future.poll(&mut cx) {
            Poll::Ready(Ok(forwarded)) => forwarded,
            Poll::Ready(Err(_)) | Poll::Pending => SHED,
        }
    }

    fn fork(&self) -> Box<dyn CrossPod> {
        Box::new(self.clone())
    }
}

/// Where a peer is connected, as far as a [`Directory`] knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To this pod.
    Here,
    /// To another pod, or it was a moment ago and may well be back: it counts as online.
    Elsewhere,
    /// To no pod.
    Nowhere,
}

/// Who is connected where, in all pods. The relay tells it what happens here.
///
/// `registered`, `ended` and `place` are called under the lock that orders presence, so that what the directory tells other
/// pods has the order of the changes. They must not wait, and must not call [`LocalPeers::place_changed`].
pub trait Directory: Send + Sync {
    /// A peer has connected to this pod, for the first time or anew.
    fn registered(&self, peer: &PeerId);

    /// A peer is not connected to this pod any more.
    fn ended(&self, peer: &PeerId);

    /// Where the peer is.
    fn place(&self, peer: &PeerId) -> Place;

    /// Somebody here waits for these peers, which are nowhere as far as this directory knows. It may ask around, and tells what it
    /// finds out with [`LocalPeers::place_changed`].
    fn watched(&self, peers: &[PeerId]);

    /// From now on this pod lets its peers go: they are expected on other pods in a moment.
    fn draining(&self);
}

impl fmt::Debug for dyn Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Directory")
    }
}

/// The peers of this pod, as the fabric sees them.
pub trait LocalPeers: Send + Sync {
    /// Queues a transport message that another pod forwarded, as it is: its sender stamped it.
    ///
    /// # Errors
    /// If the peer is not here, or its queue refused the message; the refusal has been counted.
    fn deliver(&self, destination: &PeerId, message: &[u8]) -> Result<(), DeliverError>;

    /// Whether the peer is connected to this pod.
    fn has_peer(&self, peer: &PeerId) -> bool;

    /// Delivers what one stream brings. It remembers the last few receivers, so that a flow costs no look-up.
    fn courier(self: Arc<Self>) -> Box<dyn Courier>;

    /// What [`Directory::place`] says of this peer has changed, or a newer registration has taken the place of an older. Looks
    /// there, ends the connection that the peer has here if it is elsewhere by now, and tells those who watch the peer. No lock
    /// that the directory needs may be held.
    fn place_changed(&self, peer: &PeerId);

    /// Whether somebody here is subscribed to the peer.
    fn is_watched(&self, peer: &PeerId) -> bool;

    /// All peers that somebody here is subscribed to, in no order.
    fn watched(&self) -> Vec<PeerId>;
}

impl fmt::Debug for dyn LocalPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalPeers")
    }
}

/// Delivers the messages of one stream from another pod.
pub trait Courier: Send {
    /// As [`LocalPeers::deliver`]; the message goes out with the next [`Courier::flush`], and what is counted is counted then.
    ///
    /// # Errors
    /// As [`LocalPeers::deliver`].
    fn deliver(&mut self, destination: &PeerId, message: &[u8]) -> Result<(), DeliverError>;

    /// The end of a batch.
    fn flush(&mut self);
}

impl fmt::Debug for dyn Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Courier")
    }
}

/// Why a forwarded message was not queued for its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeliverError {
    /// The peer is not connected here (any more): the pod that asked should look for it again.
    #[error("peer is not connected to this pod")]
    LocalPeerGone,
    /// What was to be delivered is no transport message.
    #[error("not a transport message of 38 to 8820 bytes")]
    Malformed,
    /// The peer's queue did not take it.
    #[error("peer's queue refused the message: {}", .0.reason())]
    Refused(DropReason),
}
