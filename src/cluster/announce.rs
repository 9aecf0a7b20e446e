//! What the links say: who has whom, and messages for peers of this pod (cluster-protocol.md, faults 7 and 8).

use std::sync::Arc;

use super::fabric::{Fabric, FrameSink};
use super::forward::Forwarder;
use super::held::Hop;
use super::leaving::LINGER;
use super::link::Link;
use super::owners::Owners;
use super::pods::PodNumber;
use super::shard::State;
use super::timeline::Due;
use crate::crosspod::{Courier, CrossPod, DeliverError, Forward, Forwarded, LocalPeers};
use crate::proto::PeerId;
use crate::proto::cluster::{Frame, Seqno, encode_i_have, encode_lost};
use crate::telemetry::counters::DropReason;

/// How long it is believed that the peers of a pod come back that has been silent for so long already, in milliseconds: theirs have had
/// the time to connect elsewhere.
const SILENT_LINGER: u64 = 500;

/// How old a link must be to tell from its silence that it leads to a stock pod, in milliseconds.
const STOCK_AFTER: u64 = 1_000;

impl Fabric for Owners {
    fn link_up(self: Arc<Self>, link: &Arc<Link>) -> Box<dyn FrameSink> {
        let pod = self.pods.number(link.pod(), self.now());
        if pod.is_none() {
            tracing::error!(
                relay.pod = link.pod().0,
                "more pods than can be told apart: its peers cannot be reached"
            );
        }
        Box::new(Sink {
            courier: self.local().map(LocalPeers::courier),
            again: Forwarder::new(&self, Hop::Second),
            link: Arc::clone(link),
            pod,
            told_not_here: None,
            owners: self,
        })
    }

    fn use_link(&self, link: &Arc<Link>) {
        let now = self.now();
        if self.pods.up(link, now) {
            self.timeline.add(now + STOCK_AFTER, Due::StockPods);
            // What waited for this pod's peers leaves before anything new.
            self.settle_all();
        }
    }
}

/// Takes the frames of one link.
struct Sink {
    owners: Arc<Owners>,
    link: Arc<Link>,
    pod: Option<PodNumber>,
    /// None: the relay is gone.
    courier: Option<Box<dyn Courier>>,
    /// Sends on what came for a peer that is not here any more.
    again: Forwarder,
    /// The last peer of which the link was told in this batch that it is not here: a burst is told once.
    told_not_here: Option<PeerId>,
}

impl Sink {
    /// A message from another pod.
    fn message(&mut self, hop: Hop, destination: &PeerId, message: &[u8]) {
        if !self.link.carries_peers() {
            self.owners.counters.received_from_pods(1);
            return self.owners.counters.dropped(DropReason::UnprovenPod, 1);
        }
        let Some(courier) = &mut self.courier else {
            self.owners.counters.received_from_pods(1);
            return self.owners.counters.dropped(DropReason::NoSuchPeer, 1);
        };
        match courier.deliver(destination, message) {
            Err(DeliverError::LocalPeerGone) => {}
            // Refused messages have been counted.
            Ok(()) | Err(_) => return,
        }
        self.tell_not_here(destination);
        match hop {
            Hop::First => self.send_on(destination, message),
            Hop::Second => self.owners.counters.dropped(DropReason::NoSuchPeer, 1),
        }
    }

    /// The pod that sent a message for `peer` must look for the peer again.
    fn tell_not_here(&mut self, peer: &PeerId) {
        if self.told_not_here.as_ref() == Some(peer) {
            return;
        }
        // Under the lock: if the peer comes at this moment, that is told after this.
        let shard = self.owners.lock(peer);
        if shard
            .owners
            .get(peer)
            .is_none_or(|known| known.state != State::Here)
        {
            self.link.control(&encode_lost(peer, Seqno(0)));
            self.told_not_here = Some(*peer);
        }
    }

    /// The second hop. Back to a stock pod there is none: it does not have the peer, or it would not have sent this.
    fn send_on(&mut self, destination: &PeerId, message: &[u8]) {
        if !self.link.is_ours() && self.pod.is_some() {
            let known = self
                .owners
                .lock(destination)
                .owners
                .get(destination)
                .copied();
            if known.is_some_and(|known| Some(known.pod) == self.pod && known.state == State::There)
            {
                return self.owners.counters.dropped(DropReason::NoSuchPeer, 1);
            }
        }
        let forwarded = self.again.forward(Forward {
            destination: *destination,
            message,
        });
        match forwarded {
            Forwarded::Dropped(reason) => self.owners.counters.dropped(reason, 1),
            Forwarded::Sent => self.owners.counters.forwarded(1),
            Forwarded::Queued | Forwarded::Held => {}
        }
    }
}

impl FrameSink for Sink {
    fn frame(&mut self, frame: Frame<'_>) {
        match frame {
            Frame::Forward {
                destination,
                message,
            } => self.message(Hop::First, &destination, message),
            Frame::Reforward {
                destination,
                message,
            } => self.message(Hop::Second, &destination, message),
            // What an unproven pod says must not lead messages astray, and it need not know who is here.
            _ if !self.link.carries_peers() => {}
            Frame::WhoHas(peer) => {
                // Under the lock, so that no change of the peer overtakes the answer.
                let shard = self.owners.lock(&peer);
                if let Some(known) = shard.owners.get(&peer)
                    && known.state == State::Here
                {
                    self.link.control(&encode_i_have(&peer, known.seqno));
                }
            }
            Frame::IHave { peer, seqno } => {
                if let Some(pod) = self.pod {
                    self.owners.claimed(pod, &peer, seqno);
                }
            }
            Frame::Lost { peer, seqno } => {
                if let Some(pod) = self.pod {
                    self.owners.lost(pod, &peer, seqno);
                }
            }
            // The link's own business, or nobody's.
            Frame::Hello(_)
            | Frame::Open { .. }
            | Frame::OpenAck { .. }
            | Frame::Data { .. }
            | Frame::Close { .. }
            | Frame::Ping
            | Frame::Pong
            | Frame::Unknown(_) => {}
        }
    }

    fn flush(&mut self) {
        if let Some(courier) = &mut self.courier {
            courier.flush();
        }
        self.again.flush();
        self.told_not_here = None;
    }

    fn became_ours(&mut self) {
        self.owners.exchange(&self.link);
    }

    fn down(mut self: Box<Self>, _replaced: bool) {
        self.flush();
        let now = self.owners.now();
        if let Some(pod) = self.pod
            && let Some(epoch) = self.owners.pods.down(pod, &self.link, now)
        {
            let linger = if self.link.was_silent() {
                SILENT_LINGER
            } else {
                LINGER
            };
            self.owners.timeline.add(now + linger, Due::Pod(pod, epoch));
        }
    }
}
