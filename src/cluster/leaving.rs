//! Peers that are gone, or that are expected to come back (cluster-protocol.md, *Leaving without a trace*).

use super::claims::{ANSWERS_WITHIN, is_stock};
use super::lookup::ASK_BACKLOG;
use super::owners::Owners;
use super::pods::PodNumber;
use super::shard::{Locked, Owner, State};
use super::timeline::Due;
use crate::proto::PeerId;
use crate::proto::cluster::{encode_lost, encode_who_has};

/// How long it is believed that a peer of a lost or draining pod comes back, in milliseconds (cluster-protocol.md, *Leaving
/// without a trace*).
pub(super) const LINGER: u64 = 5_000;

/// How long it is known of a peer that it is gone, in milliseconds: as long as what was said of it before may be on its way.
/// Its next registration gets a higher number.
const GONE_REMEMBERED: u64 = 30_000;

/// How long what a stock pod said is believed, in milliseconds (cluster-protocol.md, *Fixed facts*: owner cache).
pub(super) const STOCK_BELIEVED: u64 = 300_000;

impl Owners {
    /// A peer is expected to show up again in a moment.
    pub(super) fn linger(&self, shard: &mut Locked<'_>, peer: &PeerId, now: u64) {
        if shard
            .owners
            .get(peer)
            .is_some_and(|known| known.state != State::Lingering)
        {
            self.linger_for(LINGER, shard, peer, now);
        }
    }

    /// The same, for so many milliseconds from now, whatever was expected of it before.
    pub(super) fn linger_for(
        &self,
        milliseconds: u64,
        shard: &mut Locked<'_>,
        peer: &PeerId,
        now: u64,
    ) {
        if let Some(known) = shard.owners.get_mut(peer) {
            known.state = State::Lingering;
            known.stamp = now as u32;
            let due = Due::Lingering(*peer, known.stamp);
            shard.changed();
            self.timeline.add(now + milliseconds, due);
        }
    }

    /// A peer is gone; what waits for it waits no longer.
    pub(super) fn gone(&self, shard: &mut Locked<'_>, peer: &PeerId, now: u64) {
        if let Some(known) = shard.owners.get_mut(peer) {
            known.state = State::Gone;
            known.stamp = now as u32;
            let due = Due::Gone(*peer, known.stamp);
            shard.changed();
            self.timeline.add(now + GONE_REMEMBERED, due);
        }
        self.give_up(shard, peer);
    }

    /// What follows when a peer went, with no lock held.
    pub(super) fn after_gone(&self, peer: &PeerId) {
        self.place_changed(peer);
        // Stock pods do not tell when it comes to them.
        self.ask_if_watched(peer);
    }

    /// A peer has not come back, or has it?
    pub(super) fn lingered(&self, peer: &PeerId, stamp: u32) {
        let now = self.now();
        let mut shard = self.lock(peer);
        let is_meant = |known: &Owner| known.state == State::Lingering && known.stamp == stamp;
        let Some(known) = shard.owner_if(peer, is_meant) else {
            return;
        };
        if self.rivals_answer(&mut shard, peer, now) {
            return;
        }
        self.gone(&mut shard, peer, now);
        if known.pod == PodNumber::US {
            // It left this pod while the pod was draining, and that was kept back.
            self.broadcast(&encode_lost(peer, known.seqno));
        }
        drop(shard);
        self.after_gone(peer);
    }

    /// Forgets that a peer is gone.
    pub(super) fn forget_gone(&self, peer: &PeerId, stamp: u32) {
        let mut shard = self.lock(peer);
        let is_meant = |known: &Owner| known.state == State::Gone && known.stamp == stamp;
        if shard.owners.get(peer).is_some_and(is_meant) {
            shard.owners.remove(peer);
            shard.contested.remove(peer);
            if shard.owners.capacity() > 4 * shard.owners.len() + 64 {
                shard.owners.shrink_to_fit();
            }
        }
    }

    /// What a stock pod said long ago is not believed any longer: the next message asks again. A peer that is watched has been
    /// asked for all the time.
    pub(super) fn stock_owner_is_old(&self, peer: &PeerId, stamp: u32) {
        let now = self.now();
        let mut shard = self.lock(peer);
        let is_meant = |known: &Owner| known.state == State::There && is_stock(known.seqno);
        let Some(known) = shard.owner_if(peer, is_meant) else {
            return;
        };
        if known.stamp != stamp {
            // Confirmed since.
            let age = u64::from((now as u32).wrapping_sub(known.stamp));
            self.timeline.add(
                now + STOCK_BELIEVED.saturating_sub(age).max(1),
                Due::StockOwner(*peer, known.stamp),
            );
            return;
        }
        if self.rivals_answer(&mut shard, peer, now) {
            return;
        }
        shard.owners.remove(peer);
        shard.changed();
        drop(shard);
        self.place_changed(peer);
    }

    /// The peers in one shard that a lost pod had and that have not been confirmed since are gone. A pod that is linked again is
    /// asked once more: what it told first may have been taken for that of the link that was lost.
    pub(super) fn sweep_pod(&self, shard: usize, pod: PodNumber, epoch: u8) {
        let now = self.now();
        let mut locked = self.lock_shard(shard);
        // Lost again meanwhile: what is due for that follows.
        if self.pods.epoch(pod) != epoch {
            return;
        }
        let link = self.pods.link(pod);
        let mut unconfirmed: Vec<PeerId> = locked
            .owners
            .iter()
            .filter(|(_, known)| {
                known.pod == pod && known.state == State::There && known.epoch != epoch
            })
            .map(|(peer, _)| *peer)
            .collect();
        unconfirmed.retain(|peer| {
            let is_asked = link.as_ref().is_some_and(|link| {
                link.control_backlog() <= ASK_BACKLOG && link.control(&encode_who_has(peer))
            });
            if is_asked {
                self.linger_for(ANSWERS_WITHIN, &mut locked, peer, now);
            }
            !(self.rivals_answer(&mut locked, peer, now) || is_asked)
        });
        for peer in &unconfirmed {
            self.gone(&mut locked, peer, now);
        }
        drop(locked);
        for peer in &unconfirmed {
            self.after_gone(peer);
        }
    }
}
