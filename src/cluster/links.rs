//! Which link leads to which pod, and which of two is kept when both pods dialed (cluster-protocol.md, fault 4).
//!
//! The stream that the pod with the smaller announced address dialed is kept. Each end decides by itself, from the same rule, and closes
//! the other stream only when the kept one has answered a PING: so both decide the same, and a stream that is dead wins nothing.
//! Until then messages go where they went before, and what the new stream brings waits. Nothing of this is done to stock pods, which have no such rule: of two streams with
//! one of them the newer is used, and both are read until it closes one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::fabric::Fabric;
use super::link::{Dialer, Link};
use crate::crosspod::PodAddr;

/// How long the stream that would be kept may take to answer.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// Streams of one pod that may be open at once: more come only from a pod that keeps dialing, and then the oldest go.
const STREAMS_MAX: usize = 4;

/// The links that are up, by the pods' announced addresses.
pub(super) struct Links {
    own: PodAddr,
    /// Is told which link is used, under the lock of `state`.
    fabric: Arc<dyn Fabric>,
    state: RwLock<State>,
    /// Moves with each change of `state`.
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The streams of each pod; never none, the one that is used first. Ordered, so that a simulation takes the same course each time.
    by_pod: BTreeMap<PodAddr, Vec<Arc<Link>>>,
    /// Addresses that have been dialed, as long as it is not known what comes of that. The sender goes with the end of it.
    greeted: BTreeMap<SocketAddr, Greeted>,
    /// Addresses that were dialed, and the other ones that the pods there announce.
    aliases: BTreeMap<SocketAddr, PodAddr>,
}

/// A pod that has been dialed, and with which HELLO.
#[derive(Debug)]
struct Greeted {
    hello: Vec<u8>,
    over: watch::Sender<()>,
}

/// A pod that was dialed is greeted as long as this lives.
pub(super) struct Greeting {
    links: Arc<Links>,
    address: SocketAddr,
}

impl Drop for Greeting {
    fn drop(&mut self) {
        self.links.state.write().greeted.remove(&self.address);
    }
}

/// There is a link to this pod already, which this pod dialed under another address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AlreadyLinked;

impl Links {
    pub(super) fn new(own: PodAddr, fabric: Arc<dyn Fabric>) -> Self {
        Self {
            own,
            fabric,
            state: RwLock::default(),
            changes: watch::Sender::new(()),
        }
    }

    /// How many pods there is a link to.
    pub(super) fn len(&self) -> usize {
        self.state.read().by_pod.len()
    }

    /// The pods whose link, the one that is used, carries peers' messages.
    pub(super) fn carrying(&self) -> Vec<PodAddr> {
        let state = self.state.read();
        let used = state.by_pod.values().filter_map(|streams| streams.first());
        used.filter(|link| link.carries_peers())
            .map(|link| link.pod().clone())
            .collect()
    }

    /// Whether the link that is used to this pod carries peers' messages.
    pub(super) fn carries_peers(&self, pod: &PodAddr) -> bool {
        let state = self.state.read();
        let used = state.by_pod.get(pod).and_then(|streams| streams.first());
        used.is_some_and(|link| link.carries_peers())
    }

    /// Who dialed the only stream that there is, those that are being closed included.
    #[cfg(test)]
    pub(super) fn only_dialer(&self) -> Option<Dialer> {
        let state = self.state.read();
        let mut streams = state.by_pod.values().flatten();
        let only = streams.next()?;
        streams.next().is_none().then(|| only.dialer())
    }

    /// The pod at `dialed` announces another address.
    pub(super) fn set_alias(&self, dialed: SocketAddr, pod: &PodAddr) {
        self.state.write().aliases.insert(dialed, pod.clone());
    }

    /// Until it is dropped, a stream to this address, on which `hello` is said, may become a link.
    pub(super) fn greet(self: &Arc<Self>, address: SocketAddr, hello: &[u8]) -> Greeting {
        let greeted = Greeted {
            hello: hello.to_owned(),
            over: watch::Sender::new(()),
        };
        self.state.write().greeted.insert(address, greeted);
        Greeting {
            links: Arc::clone(self),
            address,
        }
    }

    /// Whether this pod is greeting somebody with this very HELLO. Another pod that announces our address says the same only in the
    /// same second.
    pub(super) fn greets_with(&self, hello: &[u8]) -> bool {
        let state = self.state.read();
        state.greeted.values().any(|greeted| greeted.hello == hello)
    }

    /// Whether there is a link to the pod at this address.
    pub(super) fn is_linked(&self, dialed: SocketAddr) -> bool {
        let state = self.state.read();
        state.by_pod.contains_key(&PodAddr(dialed.to_string()))
            || state
                .aliases
                .get(&dialed)
                .is_some_and(|pod| state.by_pod.contains_key(pod))
    }

    /// Resolves when there is no link to the pod at this address. Cancel-safe.
    pub(super) async fn unlinked(&self, dialed: SocketAddr) {
        let mut changes = self.changes.subscribe();
        while self.is_linked(dialed) {
            // It cannot fail: the sender is right here.
            let _ = changes.changed().await;
        }
    }

    /// Takes a link in.
    ///
    /// # Errors
    /// If this pod has dialed that pod already. Who dials knows that, and must not leave the choice to the other end.
    pub(super) fn put(&self, link: &Arc<Link>) -> Result<(), AlreadyLinked> {
        let mut state = self.state.write();
        let streams = state.by_pod.entry(link.pod().clone()).or_default();
        if link.dialer() == Dialer::Us
            && streams
                .iter()
                .any(|other| other.dialer() == Dialer::Us && other.is_up())
        {
            return Err(AlreadyLinked);
        }
        match streams.first() {
            // One of ours is used until it is settled which is kept.
            Some(first) if first.is_ours() && first.is_up() => {
                link.park();
                streams.push(Arc::clone(link));
            }
            // A pod that has proven the secret on a stream of its own need not do so on ours.
            Some(first) if first.is_up() && first.carries_peers() && !link.carries_peers() => {
                streams.push(Arc::clone(link));
            }
            _ => {
                streams.insert(0, Arc::clone(link));
                self.fabric.use_link(link);
            }
        }
        if streams.len() > STREAMS_MAX
            && let Some(oldest) = streams[1..].iter().min_by_key(|link| link.number())
        {
            oldest.abort();
        }
        self.changed(state);
        Ok(())
    }

    /// Takes a link out. `down` is told whether another one has its place, if both ends have agreed on that (`is_orderly`).
    pub(super) fn remove(&self, link: &Arc<Link>, is_orderly: bool, down: impl FnOnce(bool)) {
        let mut state = self.state.write();
        let Some(streams) = state.by_pod.get_mut(link.pod()) else {
            return down(false);
        };
        let was_used = streams
            .first()
            .is_some_and(|first| Arc::ptr_eq(first, link));
        streams.retain(|there| !Arc::ptr_eq(there, link));
        if !was_used {
            down(true);
        } else if let Some(next) = streams.iter().position(|link| link.is_up()) {
            let next = streams.remove(next);
            streams.insert(0, Arc::clone(&next));
            if is_orderly {
                self.fabric.use_link(&next);
                down(true);
            } else {
                down(false);
                self.fabric.use_link(&next);
            }
            next.unpark();
        } else {
            // Those that are left were retired, and leave, too.
            down(false);
        }
        if streams.is_empty() {
            state.by_pod.remove(link.pod());
            // Whoever is at its other addresses the next time says so then.
            state.aliases.retain(|_, announced| announced != link.pod());
        }
        self.changed(state);
    }

    /// The direction that is kept between this pod and that one.
    fn kept(&self, pod: &PodAddr) -> Dialer {
        if self.own < *pod {
            Dialer::Us
        } else {
            Dialer::Them
        }
    }

    /// For a message that came over `link`: resolves when all that the pod may have sent on another stream before has come. None: there
    /// is no such stream. What they still bring goes first, and waits for nothing any more.
    pub(super) fn earlier(
        self: &Arc<Self>,
        link: &Arc<Link>,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let kept = self.kept(link.pod());
        if link.dialer() != kept || !link.is_ours() {
            return None;
        }
        let greeted = self.greeted(link, kept);
        let others = self.others(link);
        if greeted.is_none() && others.is_empty() {
            return None;
        }
        let (links, link) = (Arc::clone(self), Arc::clone(link));
        Some(async move {
            // The pod may have answered, and sent, while our side has not read that yet.
            if let Some(mut greeted) = greeted {
                while greeted.changed().await.is_ok() {}
            }
            for other in links.others(&link).into_iter().chain(others) {
                other.ended().await;
            }
        })
    }

    fn greeted(&self, link: &Link, kept: Dialer) -> Option<watch::Receiver<()>> {
        if kept == Dialer::Us {
            return None;
        }
        let address: SocketAddr = link.pod().0.parse().ok()?;
        Some(self.state.read().greeted.get(&address)?.over.subscribe())
    }

    /// The streams of the same pod in the direction that is not kept.
    fn others(&self, link: &Link) -> Vec<Arc<Link>> {
        let state = self.state.read();
        let streams = state.by_pod.get(link.pod());
        streams
            .into_iter()
            .flatten()
            .filter(|other| other.dialer() != link.dialer())
            .inspect(|other| other.unpark())
            .cloned()
            .collect()
    }

    /// If there are several streams to this pod: the one that is to be kept, if it may be asked already.
    fn to_be_kept(&self, pod: &PodAddr) -> Option<Arc<Link>> {
        let state = self.state.read();
        let streams = state.by_pod.get(pod)?;
        let kept = self.kept(pod);
        let up = streams.iter().filter(|link| link.is_up());
        if up.clone().count() < 2 {
            return None;
        }
        let winner = up
            .clone()
            .filter(|link| link.dialer() == kept)
            .min_by_key(|link| link.number())
            .or_else(|| up.min_by_key(|link| link.number()))?;
        // Before it has shown that it is ours, it may be a stock pod's, which has no rule and answers no PING.
        winner.is_ours().then(|| Arc::clone(winner))
    }

    /// Makes this link the one that is used; those that the rule does not keep.
    fn keep(&self, winner: &Arc<Link>) -> Vec<Arc<Link>> {
        let mut state = self.state.write();
        let Some(streams) = state.by_pod.get_mut(winner.pod()) else {
            return Vec::new();
        };
        let Some(at) = streams.iter().position(|link| Arc::ptr_eq(link, winner)) else {
            return Vec::new();
        };
        if at > 0 {
            let there = streams.remove(at);
            streams.insert(0, there);
            self.fabric.use_link(winner);
        }
        for link in &*streams {
            link.unpark();
        }
        // Of several that the other pod dialed, it knows itself which one it wants.
        let losers = streams
            .iter()
            .filter(|link| link.dialer() != winner.dialer())
            .cloned()
            .collect();
        self.changed(state);
        losers
    }

    /// Whenever there is one more stream to a pod, one less, or one has shown whose it is: sees to it that one remains.
    pub(super) fn settle(self: &Arc<Self>, pod: &PodAddr) {
        let Some(winner) = self.to_be_kept(pod) else {
            return;
        };
        let links = Arc::clone(self);
        // Two of these about one pod do no harm: they come to the same end.
        tokio::spawn(async move {
            if winner.answers_ping(PROBE_LIMIT).await {
                for loser in links.keep(&winner) {
                    loser.retire();
                }
            } else {
                winner.abort();
            }
        });
    }

    fn changed(&self, state: parking_lot::RwLockWriteGuard<'_, State>) {
        drop(state);
        self.changes.send_replace(());
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links")
            .field("own", &self.own.0)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
