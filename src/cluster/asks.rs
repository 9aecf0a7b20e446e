//! Peers that are watched here and may be on a stock pod, which never tells who comes and goes: they are asked for.
//!
//! Among pods of ours nothing is asked: they announce. While stock pods are linked, each watched peer that is nowhere is asked for
//! at once, after a second, and then ever less often; one that a stock pod has is verified.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::claims::is_stock;
use super::link::Link;
use super::owners::Owners;
use super::shard::State;
use super::timeline::Due;
use crate::proto::PeerId;

/// The pause after the first question, in milliseconds; it doubles each time.
const FIRST_PAUSE: u64 = 1_000;

/// The longest pause, in milliseconds: what a stock client waits for a peer to come online.
const LONGEST_PAUSE: u64 = 30_000;

/// How long a stock pod may take to confirm that it still has a peer, in milliseconds.
const CONFIRM_WITHIN: u64 = 1_000;

/// Peers that are asked for at the same time; more would be too many questions.
const ASKED_MAX: usize = 65_536;

/// The peers that are being asked for: each has its next question in the timeline.
#[derive(Debug, Default)]
pub(super) struct Asks(Mutex<HashSet<PeerId>>);

impl Asks {
    fn add(&self, peer: &PeerId) -> bool {
        let mut asked = self.0.lock();
        asked.len() < ASKED_MAX && asked.insert(*peer)
    }

    fn remove(&self, peer: &PeerId) {
        let mut asked = self.0.lock();
        asked.remove(peer);
        if asked.is_empty() {
            asked.shrink_to(64);
        }
    }

    /// How many peers are being asked for.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// Whether a link leads to a stock pod, as far as can be told.
fn is_to_stock(link: &Link) -> bool {
    link.carries_peers() && !link.is_ours()
}

/// What to do with a peer whose next question is due.
enum Next {
    /// Ask all stock pods.
    Ask,
    /// Ask the one that has it: it has not said so for long.
    Verify,
    /// Wait so many milliseconds more.
    Wait(u64),
    /// No more questions.
    End,
}

impl Owners {
    fn has_stock(&self) -> bool {
        self.pods.links().iter().any(|link| is_to_stock(link))
    }

    /// Asks the stock pods, if there are any, for peers that are watched and nowhere.
    pub(super) fn ask_for(&self, peers: &[PeerId]) {
        if peers.is_empty() || !self.has_stock() {
            return;
        }
        let now = self.now();
        for peer in peers {
            if self.asks.add(peer) {
                self.ask(peer, is_to_stock);
                self.timeline.add(now + FIRST_PAUSE, Due::Ask(*peer, 1));
            }
        }
    }

    /// Asks for a peer that is nowhere, if somebody cares.
    pub(super) fn ask_if_watched(&self, peer: &PeerId) {
        if self.has_stock() && self.local().is_some_and(|local| local.is_watched(peer)) {
            self.ask_for(std::slice::from_ref(peer));
        }
    }

    /// Asks for all peers that are watched and nowhere: a stock pod has been linked.
    pub(super) fn ask_for_all_watched(&self) {
        if !self.has_stock() {
            return;
        }
        let Some(local) = self.local() else {
            return;
        };
        let mut watched = local.watched();
        watched.retain(|peer| match self.lock(peer).owners.get(peer) {
            Some(known) => known.state != State::Here,
            None => true,
        });
        self.ask_for(&watched);
    }

    /// The next question for a peer is due, its `attempt`th since it was last heard of.
    pub(super) fn ask_again(&self, peer: &PeerId, attempt: u32) {
        let now = self.now();
        let watched = self.local().is_some_and(|local| local.is_watched(peer));
        let next = if watched && self.has_stock() {
            self.next_question(peer, attempt, now)
        } else {
            Next::End
        };
        let pause = (FIRST_PAUSE << attempt.min(5)).min(LONGEST_PAUSE);
        let (pause, attempt) = match next {
            Next::End => return self.asks.remove(peer),
            Next::Wait(pause) => (pause, 0),
            Next::Ask => {
                self.ask(peer, is_to_stock);
                (pause, attempt + 1)
            }
            Next::Verify => {
                self.ask(peer, is_to_stock);
                (CONFIRM_WITHIN, 1)
            }
        };
        self.timeline.add(now + pause, Due::Ask(*peer, attempt));
    }

    fn next_question(&self, peer: &PeerId, attempt: u32, now: u64) -> Next {
        let mut shard = self.lock(peer);
        let Some(known) = shard.owners.get(peer).copied() else {
            return Next::Ask;
        };
        let age = u64::from((now as u32).wrapping_sub(known.stamp));
        match known.state {
            State::Here => Next::End,
            // It will tell.
            State::There if !is_stock(known.seqno) => Next::End,
            State::There if age < LONGEST_PAUSE => Next::Wait(LONGEST_PAUSE - age),
            State::There if attempt == 0 => Next::Verify,
            State::There => {
                // It was asked, and says nothing.
                self.linger(&mut shard, peer, now);
                Next::Ask
            }
            State::Lingering | State::Gone => Next::Ask,
        }
    }
}
