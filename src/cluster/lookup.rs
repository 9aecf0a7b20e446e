//! Finding the owner of a peer that is in no table: WHO_HAS to all pods, the first I_HAVE ends it, 200 ms of silence mean nobody
//! (cluster-protocol.md, faults 1 and 2).
//!
//! Nobody waits for a lookup: what is for the peer meanwhile is held, in order, and sent or dropped when it ends. Those who
//! ask at the same time share one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tower::{BoxError, Service};
use tracing::Span;

use super::asker::{Asker, LookupPlace};
use super::exchange::TOLD_WITHIN;
use super::held::{HOLD_MAX, Held, HeldMessage, Hop};
use super::link::Link;
use super::owner_metrics::{ForwardResult, LookupResult};
use super::owners::Owners;
use super::shard::{Locked, State};
use super::timeline::Due;
use crate::crosspod::{Locate, PodAddr};
use crate::proto::PeerId;
use crate::proto::cluster::{FrameType, encode_who_has};
use crate::telemetry::counters::DropReason;
use crate::telemetry::spans;

/// How long an owner may take to answer, in milliseconds (cluster-protocol.md, *Fixed facts*).
const ANSWER_WITHIN: u64 = 200;

/// How long that nobody has a peer is remembered, in milliseconds.
const ABSENT_REMEMBERED: u64 = 1_000;

/// How often it is asked again for a peer that is expected to come back, in milliseconds.
const ASK_AGAIN: u64 = 1_000;

/// Peers of one shard that are remembered as absent: what is beyond is asked for again.
const ABSENT_MAX: usize = 256;

/// Bytes of control frames that may wait on a link before it is not asked any more: the rest of its headroom is for what must not
/// get lost.
pub(super) const ASK_BACKLOG: usize = 256 * 1024;

/// A peer whose owner is being looked for, or whose owner's link is awaited.
#[derive(Debug)]
pub(super) struct Pending {
    held: Held,
    waiters: Vec<oneshot::Sender<Option<PodAddr>>>,
    /// When it began, in milliseconds.
    since: u64,
    /// None: it waits for a peer whose pod is lost or draining, and is no lookup.
    place: Option<LookupPlace>,
    /// Tells its timeouts from those of an earlier one.
    number: u32,
    /// From the question to its answer; none for one that waits.
    span: Span,
}

/// Where a message goes.
#[derive(Debug)]
pub(super) enum Route {
    /// Over this link; whoever remembers it does so for this generation of the shard.
    Link(Arc<Link>, u32),
    /// To a peer of this pod, which has come just now.
    Here,
    /// It is held.
    Held,
    /// Nowhere.
    Dropped(DropReason),
}

impl Owners {
    /// Where a message for `peer` goes; if that is not known, it is held and its owner looked for.
    pub(super) fn route(&self, peer: &PeerId, message: &[u8], asker: &mut Asker) -> Route {
        let mut shard = self.lock(peer);
        // What is held goes first.
        if shard.pending.contains_key(peer) {
            return self.hold(&mut shard, peer, message, asker);
        }
        let place = match shard.owners.get(peer).map(|known| (known.state, known.pod)) {
            Some((State::Here, _)) => return Route::Here,
            Some((State::There, pod)) => {
                if let Some(link) = self.pods.link(pod) {
                    return Route::Link(link, shard.generation());
                }
                None
            }
            Some((State::Lingering, _)) => None,
            Some((State::Gone, _)) | None => match self.may_look_up(&shard, peer, asker) {
                Ok(place) => Some(place),
                Err(reason) => return Route::Dropped(reason),
            },
        };
        self.look_up(&mut shard, peer, place);
        self.hold(&mut shard, peer, message, asker)
    }

    /// Whether it makes sense to ask, and there is a place for it.
    fn may_look_up(
        &self,
        shard: &Locked<'_>,
        peer: &PeerId,
        asker: &mut Asker,
    ) -> Result<LookupPlace, DropReason> {
        let absent = shard.absent.get(peer);
        if absent.is_some_and(|until| *until > self.now()) || self.pods.links().is_empty() {
            return Err(DropReason::NoSuchPeer);
        }
        self.lookups
            .begin(asker)
            .ok_or(DropReason::FabricOverloaded)
    }

    fn look_up(&self, shard: &mut Locked<'_>, peer: &PeerId, place: Option<LookupPlace>) {
        let now = self.now();
        let number = self.lookup_number.fetch_add(1, Ordering::Relaxed);
        let span = if place.is_some() {
            spans::lookup(peer)
        } else {
            Span::none()
        };
        shard.pending.insert(
            *peer,
            Pending {
                held: Held::default(),
                waiters: Vec::new(),
                since: now,
                place,
                number,
                span,
            },
        );
        self.ask(peer, may_have_untold);
        self.timeline
            .add(now + ANSWER_WITHIN, Due::Lookup(*peer, number));
    }

    /// Asks all pods whose links are `wanted`, but for those that are far behind with listening.
    pub(super) fn ask(&self, peer: &PeerId, wanted: impl Fn(&Link) -> bool) {
        let frame = encode_who_has(peer);
        for link in self.pods.links().iter() {
            if link.carries_peers() && wanted(link) && link.control_backlog() <= ASK_BACKLOG {
                link.control(&frame);
            }
        }
    }

    fn hold(
        &self,
        shard: &mut Locked<'_>,
        peer: &PeerId,
        message: &[u8],
        asker: &mut Asker,
    ) -> Route {
        let now = self.now();
        let Some(pending) = shard.pending.get_mut(peer) else {
            return Route::Dropped(DropReason::HoldFull);
        };
        let was_empty = pending.held.is_empty();
        if let Err(reason) = pending.held.push(message, asker, now, &self.holds) {
            return Route::Dropped(reason);
        }
        if was_empty {
            self.timeline.add(now + HOLD_MAX, Due::Held(*peer));
        }
        Route::Held
    }

    fn take_pending(&self, shard: &mut Locked<'_>, peer: &PeerId) -> Option<Pending> {
        let pending = shard.pending.remove(peer)?;
        if shard.pending.is_empty() {
            shard.pending.shrink_to(64);
        }
        Some(pending)
    }

    /// Ends the lookup of a peer whose owner is known and can be reached: what is held leaves, in order, before anybody else sees
    /// the owner.
    pub(super) fn settle(&self, shard: &mut Locked<'_>, peer: &PeerId) {
        if !shard.pending.contains_key(peer) {
            return;
        }
        let Some(known) = shard.owners.get(peer).copied() else {
            return;
        };
        let link = match known.state {
            State::Here => None,
            State::There => match self.pods.link(known.pod) {
                Some(link) => Some(link),
                None => {
                    // It is found, and what is held waits for a link.
                    if let Some(pending) = shard.pending.get_mut(peer) {
                        self.answered(pending, LookupResult::Found);
                    }
                    return;
                }
            },
            State::Lingering | State::Gone => return,
        };
        let Some(mut pending) = self.take_pending(shard, peer) else {
            return;
        };
        while let Some(held) = pending.held.pop() {
            match &link {
                Some(link) => self.send_held(link, peer, &held),
                None => self.deliver_here(peer, held.message()),
            }
        }
        if let Some(link) = &link {
            link.flush();
        }
        self.ended(
            pending,
            LookupResult::Found,
            Some(&self.pods.address(known.pod)),
        );
    }

    fn send_held(&self, link: &Link, peer: &PeerId, held: &HeldMessage) {
        let result = match link.forward(frame_type(held.hop, link), peer, held.message()) {
            Ok(()) => ForwardResult::Ok,
            Err(reason) => {
                self.counters.dropped(reason, 1);
                ForwardResult::of(reason)
            }
        };
        self.metrics.forwarded(result, 1);
    }

    /// Delivers a message to a peer that has come to this pod. Whatever becomes of it is counted.
    pub(super) fn deliver_here(&self, peer: &PeerId, message: &[u8]) {
        use crate::crosspod::DeliverError;
        let delivered = self
            .local()
            .map_or(Err(DeliverError::LocalPeerGone), |local| {
                local.deliver(peer, message)
            });
        let result = match delivered {
            Ok(()) => ForwardResult::Ok,
            Err(DeliverError::LocalPeerGone) => {
                self.counters.dropped(DropReason::NoSuchPeer, 1);
                ForwardResult::PeerNotFound
            }
            Err(_) => ForwardResult::SendError,
        };
        self.metrics.forwarded(result, 1);
    }

    /// Ends the lookup of a peer that is gone: what is held for it is dropped.
    pub(super) fn give_up(&self, shard: &mut Locked<'_>, peer: &PeerId) {
        if let Some(mut pending) = self.take_pending(shard, peer) {
            self.drop_held(&mut pending, DropReason::HoldExpired);
            self.ended(pending, LookupResult::NotFound, None);
        }
    }

    fn drop_held(&self, pending: &mut Pending, reason: DropReason) {
        let mut dropped = 0;
        while pending.held.pop().is_some() {
            dropped += 1;
        }
        self.counters.dropped(reason, dropped);
        self.metrics.forwarded(ForwardResult::of(reason), dropped);
    }

    /// The lookup, if it is one, is over; what is held may still wait.
    fn answered(&self, pending: &mut Pending, result: LookupResult) {
        let span = std::mem::replace(&mut pending.span, Span::none());
        if let LookupResult::NotFound = result {
            spans::refuse(&span, "not_found");
        }
        if pending.place.take().is_some() {
            let took = Duration::from_millis(self.now() - pending.since);
            self.metrics.looked_up(result, took);
        }
    }

    fn ended(&self, mut pending: Pending, result: LookupResult, pod: Option<&PodAddr>) {
        self.answered(&mut pending, result);
        for waiter in pending.waiters {
            // Whoever does not wait any more need not know.
            let _ = waiter.send(pod.cloned());
        }
    }

    /// Nobody has answered in time.
    pub(super) fn lookup_timed_out(&self, peer: &PeerId, number: u32) {
        let now = self.now();
        let mut shard = self.lock(peer);
        let state = shard.owners.get(peer).map(|known| known.state);
        let Some(pending) = shard
            .pending
            .get_mut(peer)
            .filter(|pending| pending.number == number)
        else {
            return;
        };
        match state {
            None | Some(State::Gone) => {
                let Some(mut pending) = self.take_pending(&mut shard, peer) else {
                    return;
                };
                self.drop_held(&mut pending, DropReason::NoSuchPeer);
                self.ended(pending, LookupResult::NotFound, None);
                if shard.absent.len() < ABSENT_MAX {
                    let until = now + ABSENT_REMEMBERED;
                    shard.absent.insert(*peer, until);
                    self.timeline.add(until, Due::Absent(*peer));
                }
            }
            // It is expected to come back, and what is held waits for it.
            Some(State::Here | State::There | State::Lingering) => {
                self.answered(pending, LookupResult::NotFound);
                for waiter in std::mem::take(&mut pending.waiters) {
                    let _ = waiter.send(None);
                }
                if pending.held.is_empty() {
                    self.take_pending(&mut shard, peer);
                    return;
                }
                self.ask(peer, may_have_untold);
                self.timeline
                    .add(now + ASK_AGAIN, Due::Lookup(*peer, number));
            }
        }
    }

    /// The oldest message for a peer has waited long enough.
    pub(super) fn hold_timed_out(&self, peer: &PeerId) {
        let now = self.now();
        let mut shard = self.lock(peer);
        let Some(pending) = shard.pending.get_mut(peer) else {
            return;
        };
        let mut dropped = 0;
        while pending.held.pop_expired(now).is_some() {
            dropped += 1;
        }
        match pending.held.oldest() {
            Some(oldest) => self.timeline.add(oldest + HOLD_MAX, Due::Held(*peer)),
            None if dropped > 0 && pending.waiters.is_empty() => {
                self.take_pending(&mut shard, peer);
            }
            None => {}
        }
        drop(shard);
        self.counters.dropped(DropReason::HoldExpired, dropped);
        self.metrics
            .forwarded(ForwardResult::of(DropReason::HoldExpired), dropped);
    }

    /// That nobody has a peer is not believed any longer.
    pub(super) fn forget_absent(&self, peer: &PeerId) {
        let now = self.now();
        let mut shard = self.lock(peer);
        if shard.absent.get(peer).is_some_and(|until| *until <= now) {
            shard.absent.remove(peer);
            if shard.absent.is_empty() {
                shard.absent.shrink_to(16);
            }
        }
    }

    /// All that is held for peers that can be reached now leaves: a link has come up.
    pub(super) fn settle_all(&self) {
        for shard in 0..self.shards() {
            let mut shard = self.lock_shard(shard);
            let waiting: Vec<PeerId> = shard.pending.keys().copied().collect();
            for peer in &waiting {
                self.settle(&mut shard, peer);
            }
        }
    }

    /// Which pod has a peer: known, or asked for. The receiver resolves when the lookup ends.
    fn locate(&self, peer: &PeerId) -> Result<Option<PodAddr>, oneshot::Receiver<Option<PodAddr>>> {
        let mut shard = self.lock(peer);
        match shard.owners.get(peer).map(|known| (known.state, known.pod)) {
            Some((State::Here | State::There, pod)) => return Ok(Some(self.pods.address(pod))),
            Some((State::Lingering | State::Gone, _)) | None => {}
        }
        if !shard.pending.contains_key(peer) {
            let Ok(place) = self.may_look_up(&shard, peer, &mut Asker::new(Hop::First)) else {
                return Ok(None);
            };
            self.look_up(&mut shard, peer, Some(place));
        }
        let (waiter, answer) = oneshot::channel();
        if let Some(pending) = shard.pending.get_mut(peer) {
            pending.waiters.push(waiter);
        }
        Err(answer)
    }

    /// The service that answers which pod has a peer. Always ready; its future is cancel-safe.
    pub(crate) fn locate_service(self: &Arc<Self>) -> Locate {
        Locate::new(LocateService(Arc::clone(self)))
    }
}

/// Whether a pod may have peers that it has not told of: stock pods tell nothing, and ours may need a moment for all of them. Other pods
/// are not asked; whoever comes to them now is announced.
fn may_have_untold(link: &Link) -> bool {
    link.ours_for().is_none_or(|age| age < TOLD_WITHIN)
}

/// The frame that carries a message over `link`: nobody forwards it a third time. Stock pods never forward, and know no REFWD.
pub(super) fn frame_type(hop: Hop, link: &Link) -> FrameType {
    match hop {
        Hop::Second if link.is_ours() => FrameType::Reforward,
        Hop::First | Hop::Second => FrameType::Forward,
    }
}

#[derive(Clone)]
struct LocateService(Arc<Owners>);

impl Service<PeerId> for LocateService {
    type Response = Option<PodAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Option<PodAddr>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, peer: PeerId) -> Self::Future {
        let located = self.0.locate(&peer);
        Box::pin(async move {
            match located {
                Ok(pod) => Ok(pod),
                // The table is gone, and this pod with it.
                Err(answer) => Ok(answer.await.unwrap_or(None)),
            }
        })
    }
}
