//! Plain integers that the message path adds to, once a batch; the metrics read them when somebody asks.
//!
//! Invariant (operations.md, *Metrics*): at any quiet moment, transport messages received (from peers and from other pods) =
//! delivered + forwarded + dropped by reason, exactly.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::proto::peer::MessageType;

/// Why a message that was received reached nobody; the label `reason` of the drop metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// The receiver's queue has no room: it takes messages more slowly than they come.
    QueueFull,
    /// All queues together have used up the relay's memory budget.
    OverBudget,
    /// The message waited longer than `--queue-max-age`.
    Expired,
    /// The receiver's connection ended before the message was written.
    ReceiverClosed,
    /// No peer of that ID is connected.
    NoSuchPeer,
    /// A transport message too short to hold a peer ID.
    Malformed,
    /// A list of peer IDs that is no whole number of them.
    MalformedPeerList,
    /// A known type at the wrong time: a second *auth*, a legacy *hello*.
    Unexpected,
    /// A subscription beyond `--max-subscriptions`.
    SubscriptionLimit,
    /// The fabric between the pods takes nothing more at the moment.
    FabricOverloaded,
    /// A message for a QUIC peer that is larger than a datagram on its path can be.
    TooLargeForPath,
    /// A QUIC peer's datagrams came faster than the relay could take them in.
    ReceiveOverflow,
    /// Too much waits already until it is known which pod has the receiver.
    HoldFull,
    /// The message waited too long until it was known which pod has the receiver.
    HoldExpired,
    /// The stream to the receiver's pod is gone.
    LinkGone,
    /// It came from a pod that has not proven the cluster secret.
    UnprovenPod,
}

impl DropReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::QueueFull,
        Self::OverBudget,
        Self::Expired,
        Self::ReceiverClosed,
        Self::NoSuchPeer,
        Self::Malformed,
        Self::MalformedPeerList,
        Self::Unexpected,
        Self::SubscriptionLimit,
        Self::FabricOverloaded,
        Self::TooLargeForPath,
        Self::ReceiveOverflow,
        Self::HoldFull,
        Self::HoldExpired,
        Self::LinkGone,
        Self::UnprovenPod,
    ];

    /// The metric label.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::OverBudget => "over_budget",
            Self::Expired => "expired",
            Self::ReceiverClosed => "receiver_closed",
            Self::NoSuchPeer => "no_such_peer",
            Self::Malformed => "malformed",
            Self::MalformedPeerList => "malformed_peer_list",
            Self::Unexpected => "unexpected",
            Self::SubscriptionLimit => "subscription_limit",
            Self::FabricOverloaded => "fabric_overloaded",
            Self::TooLargeForPath => "too_large_for_path",
            Self::ReceiveOverflow => "receive_overflow",
            Self::HoldFull => "hold_full",
            Self::HoldExpired => "hold_expired",
            Self::LinkGone => "link_gone",
            Self::UnprovenPod => "unproven_pod",
        }
    }

    /// Whether what was dropped is a transport message; the others were for the relay itself.
    #[must_use]
    pub fn is_transport(self) -> bool {
        !matches!(
            self,
            Self::MalformedPeerList | Self::Unexpected | Self::SubscriptionLimit
        )
    }

    /// Whether a queue dropped it (`relay_transport_queue_drops_total`) or the relay did for another reason
    /// (`relay_messages_dropped_total`).
    #[must_use]
    pub fn is_queue(self) -> bool {
        matches!(
            self,
            Self::QueueFull | Self::OverBudget | Self::Expired | Self::ReceiverClosed
        )
    }
}

/// The relay's counters. All additions are relaxed: they order nothing.
#[derive(Debug, Default)]
pub struct Counters {
    dropped: [AtomicU64; DropReason::ALL.len()],
    received: [AtomicU64; MessageType::ALL.len()],
    sent: [AtomicU64; MessageType::ALL.len()],
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    forwarded: AtomicU64,
    from_pods: AtomicU64,
}

impl Counters {
    /// Transport messages were handed to the kernel: `bytes` without transport framing.
    pub fn delivered(&self, messages: u64, bytes: u64) {
        self.sent[MessageType::Transport.index()].fetch_add(messages, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A control message of this type was queued for a peer.
    pub fn control_sent(&self, kind: MessageType) {
        self.sent[kind.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Messages of this type arrived.
    pub fn received(&self, kind: MessageType, messages: u64) {
        self.received[kind.index()].fetch_add(messages, Ordering::Relaxed);
    }

    /// Bytes of transport messages arrived, without transport framing.
    pub fn received_bytes(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Transport messages were handed to the fabric for other pods.
    pub fn forwarded(&self, messages: u64) {
        self.forwarded.fetch_add(messages, Ordering::Relaxed);
    }

    /// Transport messages came from other pods.
    pub fn received_from_pods(&self, messages: u64) {
        self.from_pods.fetch_add(messages, Ordering::Relaxed);
    }

    /// How many transport messages came from other pods.
    #[must_use]
    pub fn received_from_pods_count(&self) -> u64 {
        self.from_pods.load(Ordering::Relaxed)
    }

    /// How many messages were handed to the fabric.
    #[must_use]
    pub fn forwarded_count(&self) -> u64 {
        self.forwarded.load(Ordering::Relaxed)
    }

    /// Messages were dropped.
    pub fn dropped(&self, reason: DropReason, messages: u64) {
        self.dropped[reason as usize].fetch_add(messages, Ordering::Relaxed);
    }

    /// How many messages were dropped for this reason.
    #[must_use]
    pub fn dropped_count(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].load(Ordering::Relaxed)
    }

    /// How many messages of this type arrived.
    #[must_use]
    pub fn received_count(&self, kind: MessageType) -> u64 {
        self.received[kind.index()].load(Ordering::Relaxed)
    }

    /// How many messages of this type were sent.
    #[must_use]
    pub fn sent_count(&self, kind: MessageType) -> u64 {
        self.sent[kind.index()].load(Ordering::Relaxed)
    }

    /// Bytes of transport messages that arrived and that were delivered.
    #[must_use]
    pub fn transfer_bytes(&self) -> (u64, u64) {
        (
            self.received_bytes.load(Ordering::Relaxed),
            self.sent_bytes.load(Ordering::Relaxed),
        )
    }
}
