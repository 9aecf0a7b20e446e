//! What other pods say of who has a peer, and whom of two to believe (cluster-protocol.md, faults 6 and 7).

use super::leaving::STOCK_BELIEVED;
use super::owners::Owners;
use super::pods::PodNumber;
use super::shard::{Locked, Owner, Rival, State};
use super::timeline::Due;
use crate::proto::PeerId;
use crate::proto::cluster::{Seqno, encode_lost, encode_who_has};

/// A number below this is a stock pod's counter of its answers; ours are Unix seconds (cluster-protocol.md, fault 6).
const STOCK_BELOW: u32 = 1_000_000_000;

/// How long pods may take to say whether they have a peer of which they have said so before, in milliseconds.
pub(super) const ANSWERS_WITHIN: u64 = 1_000;

/// Whether a number is a stock pod's.
pub(super) fn is_stock(seqno: Seqno) -> bool {
    seqno.0 < STOCK_BELOW
}

/// What to make of a pod's word that it has a peer.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is news.
    Newer,
    /// It is what we know.
    Confirmed,
    /// We know better.
    Older,
}

impl Owners {
    /// What to make of it that `pod` has a peer of which `known` is known.
    fn judge(&self, known: &Owner, pod: PodNumber, seqno: Seqno) -> Verdict {
        let is_newer = || match seqno.cmp(&known.seqno) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => self.pods.is_larger(pod, known.pod),
            std::cmp::Ordering::Greater => true,
        };
        let newer_if = |newer| {
            if newer {
                Verdict::Newer
            } else {
                Verdict::Older
            }
        };
        match known.state {
            // Nothing is known that could be better, whatever the number: our own question may have been answered.
            State::Gone => Verdict::Newer,
            State::Lingering | State::There if known.pod == pod => {
                if seqno == known.seqno || is_stock(seqno) && is_stock(known.seqno) {
                    Verdict::Confirmed
                } else {
                    Verdict::Newer
                }
            }
            State::Lingering => Verdict::Newer,
            // A stock pod never says so of itself. It answers what we asked before the peer came here, and cannot say since when
            // it has the peer.
            State::Here => newer_if(!is_stock(seqno) && is_newer()),
            // Its pod is lost.
            State::There if known.epoch != self.pods.epoch(known.pod) => Verdict::Newer,
            // It answers what was asked before one of ours told that the peer came to it.
            State::There if is_stock(seqno) && !is_stock(known.seqno) => {
                let age = u64::from((self.now() as u32).wrapping_sub(known.stamp));
                newer_if(age >= ANSWERS_WITHIN)
            }
            State::There if is_stock(known.seqno) => Verdict::Newer,
            State::There => newer_if(is_newer()),
        }
    }

    /// A pod says that it has a peer.
    pub(super) fn claimed(&self, pod: PodNumber, peer: &PeerId, seqno: Seqno) {
        let now = self.now();
        let mut shard = self.lock(peer);
        let known = shard.owners.get(peer).copied();
        let verdict = known.map_or(Verdict::Newer, |known| self.judge(&known, pod, seqno));
        let epoch = self.pods.epoch(pod);
        if verdict == Verdict::Older {
            return shard.contest(peer, Rival { pod, epoch });
        }
        shard.take_back(peer, pod);
        if let Some(known) = known
            && known.pod != pod
            && known.state == State::There
        {
            let Owner { pod, epoch, .. } = known;
            shard.contest(peer, Rival { pod, epoch });
        }
        let routable = known.is_some_and(|known| known.state == State::There);
        let was_here = known.is_some_and(|known| known.state == State::Here);
        let stamp = now as u32;
        let owner = Owner {
            seqno,
            stamp,
            pod,
            epoch,
            state: State::There,
        };
        shard.owners.insert(*peer, owner);
        shard.absent.remove(peer);
        if was_here {
            // Those that the new pod cannot reach would believe for ever that the peer is here. "Not here" and not "gone": for all
            // others it is a move, which they hear of in a moment.
            self.broadcast(&encode_lost(peer, Seqno(0)));
        }
        if verdict == Verdict::Newer || !routable {
            shard.changed();
            if is_stock(seqno) {
                self.timeline
                    .add(now + STOCK_BELIEVED, Due::StockOwner(*peer, stamp));
            }
        }
        self.settle(&mut shard, peer);
        drop(shard);
        if verdict == Verdict::Newer {
            self.place_changed(peer);
        }
    }

    /// A pod says that it has a peer no more, or (number 0) that it does not have it.
    pub(super) fn lost(&self, pod: PodNumber, peer: &PeerId, seqno: Seqno) {
        let now = self.now();
        let mut shard = self.lock(peer);
        let Some(known) = shard.owners.get(peer).copied() else {
            return;
        };
        let is_meant = known.pod == pod && matches!(known.state, State::There | State::Lingering);
        if !is_meant || (seqno != Seqno(0) && seqno < known.seqno) {
            if known.pod != pod {
                shard.take_back(peer, pod);
            }
            return;
        }
        if seqno == Seqno(0) {
            // It says nothing of where the peer is, which may be on its way from pod to pod.
            self.ask_rivals(&mut shard, peer);
            self.linger(&mut shard, peer, now);
        } else if !self.rivals_answer(&mut shard, peer, now) {
            self.gone(&mut shard, peer, now);
            drop(shard);
            self.after_gone(peer);
        }
    }

    /// The pod that counts has lost a peer: if others have said that they have it, too, they get a moment to say so again. False: there
    /// are none.
    pub(super) fn rivals_answer(&self, shard: &mut Locked<'_>, peer: &PeerId, now: u64) -> bool {
        let are_asked = self.ask_rivals(shard, peer);
        if are_asked {
            self.linger_for(ANSWERS_WITHIN, shard, peer, now);
        }
        are_asked
    }

    /// Asks the pods that have said that they have a peer, too, whether they still have it; those that are lost since have said nothing.
    /// Not even a link that is far behind is passed over: nobody asks again.
    fn ask_rivals(&self, shard: &mut Locked<'_>, peer: &PeerId) -> bool {
        let mut are_asked = false;
        for rival in shard.contested.remove(peer).unwrap_or_default() {
            if self.pods.epoch(rival.pod) == rival.epoch
                && let Some(link) = self.pods.link(rival.pod)
            {
                are_asked |= link.control(&encode_who_has(peer));
            }
        }
        are_asked
    }
}
