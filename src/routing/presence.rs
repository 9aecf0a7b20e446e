//! Who is told when a peer comes or goes (peer-protocol.md, *Peer state*).
//!
//! One lock orders all changes: a registration and the notices about it happen under it, and so does the answer to a
//! subscription. Hence the notices about one ID enter each subscriber's outbox in the order of the changes, and the last one a
//! client holds is the truth. Connections come and go some thousand times a second at most; the message path never comes here.
//!
//! A peer is online when it is connected to any pod. What happens on other pods is not told as events, which could overtake
//! each other: whoever learns of a change has this room look at what is true by now, under the lock.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::registration::{EndReason, Registration};
use super::registry::Registry;
use crate::crosspod::{Directory, Place};
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

/// Those who are interested in one ID.
#[derive(Debug, Default)]
struct Watched {
    /// Whether the peer was online when this was last looked at: what the last notice says, or would say.
    online: bool,
    watches: HashMap<u64, Watch>,
}

type Watchers = HashMap<PeerId, Watched>;

/// Registrations and the subscriptions to them.
#[derive(Debug)]
pub struct Presence {
    registry: Arc<Registry>,
    watchers: Mutex<Watchers>,
    counters: Arc<Counters>,
    /// Who is on other pods, if there are any.
    directory: OnceLock<Arc<dyn Directory>>,
}

impl Presence {
    /// Watches over `registry`.
    #[must_use]
    pub fn new(registry: Arc<Registry>, counters: Arc<Counters>) -> Self {
        Self {
            registry,
            watchers: Mutex::default(),
            counters,
            directory: OnceLock::new(),
        }
    }

    /// Presence is that of all pods from now on; false if it was so already, with another directory.
    pub fn join(&self, directory: &Arc<dyn Directory>) -> bool {
        let watchers = self.watchers.lock();
        if self.directory.set(Arc::clone(directory)).is_err() {
            return false;
        }
        self.registry
            .for_each(|registration| directory.registered(registration.peer()));
        let unknown: Vec<PeerId> = watchers
            .iter()
            .filter_map(|(id, watched)| (!watched.online).then_some(*id))
            .collect();
        drop(watchers);
        directory.watched(&unknown);
        true
    }

    /// Who is on other pods, if this relay has joined any.
    #[must_use]
    pub fn directory(&self) -> Option<&Arc<dyn Directory>> {
        self.directory.get()
    }

    /// Whether a peer is connected to any pod.
    fn is_online(&self, peer: &PeerId) -> bool {
        self.registry.contains(peer)
            || self
                .directory
                .get()
                .is_some_and(|directory| directory.place(peer) != Place::Nowhere)
    }

    /// Makes `registration` reachable and tells those who wait for its peer. Returns the older connection of the same peer,
    /// which has been told to end: the peer stays online, so nobody hears *offline*.
    pub fn register(&self, registration: &Arc<Registration>) -> Option<Arc<Registration>> {
        let mut watchers = self.watchers.lock();
        let old = self.registry.insert(Arc::clone(registration));
        if let Some(directory) = self.directory.get() {
            directory.registered(registration.peer());
        }
        self.tell_change(&mut watchers, registration.peer(), true);
        drop(watchers);
        if let Some(old) = &old {
            old.end(EndReason::TakenOver);
            old.outbox().abort();
        }
        old
    }

    /// Ends a registration and its subscriptions; tells *offline* unless a newer connection has its place, here or on another pod.
    pub fn unregister(&self, registration: &Registration, mut subscriptions: Subscriptions) {
        while self.end_some(registration, &mut subscriptions) {}
        let mut watchers = self.watchers.lock();
        if !self.registry.remove(registration) {
            return;
        }
        let peer = registration.peer();
        let online = self.directory.get().is_some_and(|directory| {
            directory.ended(peer);
            directory.place(peer) != Place::Nowhere
        });
        if online {
            return;
        }
        self.tell_change(&mut watchers, peer, false);
        let is_watched = watchers.contains_key(peer);
        drop(watchers);
        if is_watched && let Some(directory) = self.directory.get() {
            // It may have gone to a pod that does not tell.
            directory.watched(std::slice::from_ref(peer));
        }
    }

    /// Looks where a peer is by now, as [`LocalPeers::place_changed`](crate::crosspod::LocalPeers::place_changed) says. Returns the
    /// connection that has been told to end because the peer is on another pod.
    pub fn place_changed(&self, peer: &PeerId) -> Option<Arc<Registration>> {
        let directory = self.directory.get()?;
        let mut watchers = self.watchers.lock();
        let place = directory.place(peer);
        let mut old = None;
        match (place, self.registry.get(peer)) {
            (Place::Elsewhere, Some(here)) => {
                self.registry.remove(&here);
                old = Some(here);
            }
            // Whoever took it over is gone before we came to look.
            (Place::Nowhere, Some(_)) => directory.registered(peer),
            (Place::Here, _) | (_, None) => {}
        }
        let online = self.registry.contains(peer) || place == Place::Elsewhere;
        self.tell_change(&mut watchers, peer, online);
        drop(watchers);
        if let Some(old) = &old {
            old.end(EndReason::TakenOver);
            old.outbox().abort();
        }
        old
    }

    /// Whether somebody is subscribed to a peer.
    #[must_use]
    pub fn is_watched(&self, peer: &PeerId) -> bool {
        self.watchers.lock().contains_key(peer)
    }

    /// All peers that somebody is subscribed to, in no order.
    #[must_use]
    pub fn all_watched(&self) -> Vec<PeerId> {
        self.watchers.lock().keys().copied().collect()
    }

    /// Tells those who watch a peer that it came (those who wait for that), or that it went.
    fn tell_change(&self, watchers: &mut Watchers, peer: &PeerId, online: bool) {
        let Some(watched) = watchers.get_mut(peer) else {
            return;
        };
        let was_online = std::mem::replace(&mut watched.online, online);
        if online {
            let notice = notice(MessageType::PeersOnline, peer);
            for watch in watched.watches.values_mut() {
                if std::mem::take(&mut watch.armed) {
                    self.tell(&watch.subscriber, MessageType::PeersOnline, &notice);
                }
            }
        } else if was_online {
            let notice = notice(MessageType::PeersOffline, peer);
            for watch in watched.watches.values() {
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
    /// `elsewhere` gets the IDs that are not known to be connected to any pod.
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
            let online_now = self.is_online(&id);
            // Whoever watched it before must hear of a change that nobody has come to look at yet.
            if watchers
                .get(&id)
                .is_some_and(|watched| watched.online != online_now)
            {
                self.tell_change(&mut watchers, &id, online_now);
            }
            let watched = watchers.entry(id).or_default();
            watched.online = online_now;
            watched.watches.insert(
                subscriber.serial(),
                Watch {
                    subscriber: Arc::clone(subscriber),
                    armed: true,
                },
            );
            if watched.online {
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
        drop(watchers);
        if let Some(directory) = self.directory.get()
            && !elsewhere.is_empty()
        {
            directory.watched(elsewhere);
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
            .and_then(|watched| watched.watches.get_mut(&subscriber.serial()));
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
    if let Some(watched) = watchers.get_mut(id) {
        watched.watches.remove(&serial);
        if watched.watches.is_empty() {
            watchers.remove(id);
        }
    }
}

fn notice(kind: MessageType, id: &PeerId) -> Vec<u8> {
    peer::encode_peer_ids(kind, std::slice::from_ref(id))
        .next()
        .expect("one ID makes one message")
}
