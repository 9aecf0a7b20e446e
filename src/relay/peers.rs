//! The connected peers as callers and a fabric between pods see them.

use std::fmt;
use std::sync::Arc;

use tracing::info;

use crate::crosspod::{Courier, DeliverError, LocalPeers};
use crate::peer::{Shared, Tally};
use crate::proto::PeerId;
use crate::proto::limits::{MESSAGE_MAX, TRANSPORT_HEADER_LEN};
use crate::proto::peer::{MessageType, message_type};
use crate::routing::{EndReason, Registration, RouteMemo};
use crate::telemetry::counters::{Counters, DropReason};
use crate::transport::{RemoteAddr, TransportKind};

/// The peers connected to a relay: for looking, not for changing; only connections themselves come and go.
#[derive(Debug, Clone, Copy)]
pub struct Peers<'a>(pub(super) &'a Arc<Shared>);

impl Peers<'_> {
    /// How many are connected.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.registry.len()
    }

    /// Whether none is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this peer is connected.
    #[must_use]
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.0.registry.contains(peer)
    }

    /// A handle to this peer's connection.
    #[must_use]
    pub fn get(&self, peer: &PeerId) -> Option<Peer> {
        self.0.registry.get(peer).map(|registration| Peer {
            registration,
            counters: Arc::clone(&self.0.counters),
        })
    }

    /// The IDs of all connected peers, in no order; no snapshot, as peers come and go meanwhile.
    #[must_use]
    pub fn ids(&self) -> Vec<PeerId> {
        let mut ids = Vec::with_capacity(self.len());
        self.0
            .registry
            .for_each(|registration| ids.push(*registration.peer()));
        ids
    }
}

/// A handle to the connection of one peer. It stays bound to that connection, also when the peer connects anew.
#[derive(Debug, Clone)]
pub struct Peer {
    registration: Arc<Registration>,
    counters: Arc<Counters>,
}

impl Peer {
    /// Whose connection it is.
    #[must_use]
    pub fn id(&self) -> &PeerId {
        self.registration.peer()
    }

    /// Where it comes from.
    #[must_use]
    pub fn remote(&self) -> RemoteAddr {
        self.registration.remote()
    }

    /// What carries it.
    #[must_use]
    pub fn transport(&self) -> TransportKind {
        self.registration.kind()
    }

    /// Whether this is still the connection to which messages for the peer go.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.registration.is_current()
    }

    /// Queues a transport message as it is (38 to 8820 bytes, stamped by its sender). Never waits.
    ///
    /// # Errors
    /// As [`LocalPeers::deliver`].
    pub fn send(&self, message: &[u8]) -> Result<(), DeliverError> {
        deliver(&self.registration, &self.counters, message)
    }

    /// Ends the connection at once, without *close*.
    pub fn close(&self) {
        self.registration.end(EndReason::Aborted);
        self.registration.outbox().abort();
    }

    /// Writes what is queued, then *close*, and ends the connection; a peer that does not take it is cut off after 3 s.
    pub fn close_gracefully(&self) {
        self.registration.close(EndReason::Requested);
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id().fmt(f)
    }
}

fn is_transport(message: &[u8]) -> bool {
    (TRANSPORT_HEADER_LEN..=MESSAGE_MAX).contains(&message.len())
        && message_type(message) == Ok(MessageType::Transport)
}

fn deliver(
    registration: &Registration,
    counters: &Counters,
    message: &[u8],
) -> Result<(), DeliverError> {
    if !is_transport(message) {
        counters.dropped(DropReason::Malformed, 1);
        return Err(DeliverError::Malformed);
    }
    registration.outbox().push(message).map_err(|reason| {
        counters.dropped(reason, 1);
        DeliverError::Refused(reason)
    })?;
    registration.outbox().flush();
    Ok(())
}

impl LocalPeers for Shared {
    fn deliver(&self, destination: &PeerId, message: &[u8]) -> Result<(), DeliverError> {
        let registration = self
            .registry
            .get(destination)
            .ok_or(DeliverError::LocalPeerGone)?;
        deliver(&registration, &self.counters, message)
    }

    fn has_peer(&self, peer: &PeerId) -> bool {
        self.registry.contains(peer)
    }

    fn courier(self: Arc<Self>) -> Box<dyn Courier> {
        Box::new(StreamCourier {
            shared: self,
            memo: RouteMemo::default(),
            tally: Tally::default(),
        })
    }

    fn place_changed(&self, peer: &PeerId) {
        if let Some(old) = self.presence.place_changed(peer) {
            self.instruments.taken_over_by_pod();
            info!(
                relay.peer.id = %peer, client.address = %old.remote(),
                "peer connected to another pod, which took over its connection here"
            );
        }
    }

    fn is_watched(&self, peer: &PeerId) -> bool {
        self.presence.is_watched(peer)
    }

    fn watched(&self) -> Vec<PeerId> {
        self.presence.all_watched()
    }
}

/// What one stream from another pod brings, to the peers it is for.
struct StreamCourier {
    shared: Arc<Shared>,
    memo: RouteMemo,
    tally: Tally,
}

impl Courier for StreamCourier {
    fn deliver(&mut self, destination: &PeerId, message: &[u8]) -> Result<(), DeliverError> {
        self.tally.from_pods += 1;
        if !is_transport(message) {
            self.tally.drop(DropReason::Malformed);
            return Err(DeliverError::Malformed);
        }
        let refused = |tally: &mut Tally, reason| {
            tally.drop(reason);
            Err(DeliverError::Refused(reason))
        };
        // The second turn is for a receiver that was taken over between the look-up and the push.
        for _ in 0..2 {
            let receiver = self
                .memo
                .route(&self.shared.registry, destination)
                .ok_or(DeliverError::LocalPeerGone)?;
            match receiver.outbox().push(message) {
                Ok(()) => return Ok(()),
                Err(DropReason::ReceiverClosed) if !receiver.is_current() => {}
                Err(reason) => return refused(&mut self.tally, reason),
            }
        }
        refused(&mut self.tally, DropReason::ReceiverClosed)
    }

    fn flush(&mut self) {
        self.memo.flush();
        self.tally.flush(&self.shared.counters);
        self.memo.release();
    }
}
