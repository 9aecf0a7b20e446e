//! Who is told when a peer comes or goes (peer-protocol.md, *Peer state*).
//!
//! One lock orders all changes: a registration and the notices about it happen under it, and so does the answer to a
//! subscription. Hence the notices about one ID enter each subscriber's outbox in the order of the changes, and the last one a
//! client holds is the truth. Connections come and go some thousand times a second at most; the message path never comes here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::registration::{EndReason, Registration};
use super::registry::Registry;
use crate::proto::PeerId;
use crate::proto::limits::{HEADER_LEN, PEER_ID_LEN};
use crate::proto::peer::{self, MessageType};
use crate::telemetry::counters::Counters;

/// Subscriptions of a connection that ends which are taken out under one lock: some 50 us.
const ENDED_AT_ONCE: usize = 64;

/// One subscriber's interest in one ID.
#[derive(Debug)]
struct Watch {
    subscriber: Arc<Registration>,
    /// Whether the next *online* is to be told: once per subscription.
    armed: bool,
}

/// The IDs that one connection has subscribed to; it must be handed back when the connection ends.
#[derive(Debug, Default)]
pub struct Subscriptions(HashSet<PeerId>);

impl Subscriptions {
    /// How many IDs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

type Watchers = HashMap<PeerId, HashMap<u64, Watch>>;

/// Registrations and the subscriptions to them.
#[derive(Debug)]
pub struct Presence {
    registry: Arc<Registry>,
    watchers: Mutex<Watchers>,
    counters: Arc<Counters>,
}

impl Presence {
    /// Watches over `registry`.
    #[must_use]
    pub fn new(registry: Arc<Registry>, counters: Arc<Counters>) -> Self {
        Self {
            registry,
            watchers: Mutex::default(),
            counters,
        }
    }

    /// Makes `registration` reachable and tells those who wait for its peer. Returns the older connection of the same peer,
    /// which has been told to end: the peer stays online, so nobody hears *offline*.
    pub fn register(&self, registration: &Arc<Registration>) -> Option<Arc<Registration>> {
        let mut watchers = self.watchers.lock();
        let old = self.registry.insert(Arc::clone(registration));
        if let Some(watches) = watchers.get_mut(registration.peer()) {
            let notice = notice(MessageType::PeersOnline, registration.peer());
            for watch in watches.values_mut() {
                if std::mem::take(&mut watch.armed) {
                    self.tell(&watch.subscriber, MessageType::PeersOnline, &notice);
                }
            }
        }
        drop(watchers);
        if let Some(old) = &old {
            old.end(EndReason::TakenOver);
            old.outbox().abort();
        }
        old
    }

    /// Ends a registration and its subscriptions; tells *offline* unless a newer connection has its place.
    pub fn unregister(&self, registration: &Registration, mut subscriptions: Subscriptions) {
        while self.end_some(registration, &mut subscriptions) {}
        let watchers = self.watchers.lock();
        if !self.registry.remove(registration) {
            return;
        }
        if let Some(watches) = watchers.get(registration.peer()) {
            let notice = notice(MessageType::PeersOffline, registration.peer());
            for watch in watches.values() {
                self.tell(&watch.subscriber, MessageType::PeersOffline, &notice);
            }
        }
    }

    /// Ends some of the subscriptions of a connection that is ending; true if there are more. They may be many, and everybody who
    /// comes or goes waits for the lock: let others run in between.
    #[must_use]
    pub fn end_some(&self, registration: &Registration, subscriptions: &mut Subscriptions) -> bool {
        if !subscriptions.is_empty() {
            let mut watchers = self.watchers.lock();
            for id in subscriptions.0.extract_if(|_| true).take(ENDED_AT_ONCE) {
                forget(&mut watchers, &id, registration.serial());
            }
        }
        !subscriptions.is_empty()
    }

    /// Subscribes to `ids`, of which those online are told at once; IDs beyond `limit` are refused and their number returned.
    /// `elsewhere` gets the IDs that are not connected here.
    pub fn subscribe(
        &self,
        subscriber: &Arc<Registration>,
        subscriptions: &mut Subscriptions,
        ids: impl Iterator<Item = PeerId>,
        limit: usize,
        elsewhere: &mut Vec<PeerId>,
    ) -> usize {
        let mut refused = 0;
        let mut online = Vec::new();
        let mut watchers = self.watchers.lock();
        for id in ids {
            if subscriptions.len() >= limit && !subscriptions.0.contains(&id) {
                refused += 1;
                continue;
            }
            subscriptions.0.insert(id);
            watchers.entry(id).or_default().insert(
                subscriber.serial(),
                Watch {
                    subscriber: Arc::clone(subscriber),
                    armed: true,
                },
            );
            if self.registry.contains(&id) {
                online.push(id);
            } else {
                elsewhere.push(id);
            }
        }
        // Still under the lock: a change that follows must be told after this.
        let fit = (subscriber.outbox().control_max() - HEADER_LEN) / PEER_ID_LEN;
        for some in online.chunks(fit) {
            for answer in peer::encode_peer_ids(MessageType::PeersOnline, some) {
                self.tell(subscriber, MessageType::PeersOnline, &answer);
            }
        }
        refused
    }

    /// Ends the subscriptions to `ids`.
    pub fn unsubscribe(
        &self,
        subscriber: &Registration,
        subscriptions: &mut Subscriptions,
        ids: impl Iterator<Item = PeerId>,
    ) {
        let mut watchers = self.watchers.lock();
        for id in ids {
            if subscriptions.0.remove(&id) {
                forget(&mut watchers, &id, subscriber.serial());
            }
        }
        subscriptions.0.shrink_to(subscriptions.0.len() * 2);
    }

    /// Tells one subscriber that a peer is online on another pod, if it still waits for that and the peer has not come here.
    pub fn found_elsewhere(&self, subscriber: &Registration, id: &PeerId) {
        let mut watchers = self.watchers.lock();
        let watch = watchers
            .get_mut(id)
            .and_then(|watches| watches.get_mut(&subscriber.serial()));
        if let Some(watch) = watch
            && std::mem::take(&mut watch.armed)
        {
            let notice = notice(MessageType::PeersOnline, id);
            self.tell(&watch.subscriber, MessageType::PeersOnline, &notice);
        }
    }

    /// How many IDs are watched by somebody.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.watchers.lock().len()
    }

    fn tell(&self, subscriber: &Registration, kind: MessageType, notice: &[u8]) {
        // A subscriber that cannot take the notice is ending, and its subscriptions with it.
        if subscriber.outbox().push_control(notice) {
            self.counters.control_sent(kind);
        }
    }
}

fn forget(watchers: &mut Watchers, id: &PeerId, serial: u64) {
    if let Some(watches) = watchers.get_mut(id) {
        watches.remove(&serial);
        if watches.is_empty() {
            watchers.remove(id);
        }
    }
}

fn notice(kind: MessageType, id: &PeerId) -> Vec<u8> {
    peer::encode_peer_ids(kind, std::slice::from_ref(id))
        .next()
        .expect("one ID makes one message")
}
