//! What is due when: one ordered list, so that no message and no entry needs a timer of its own.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::pods::PodNumber;
use crate::proto::PeerId;

/// Something that is due at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nobody has answered who has this peer; the number is that of the lookup.
    Lookup(PeerId, u32),
    /// That nobody has this peer is not remembered any longer.
    Absent(PeerId),
    /// The oldest message that is held for this peer has waited long enough.
    Held(PeerId),
    /// This peer has not come back; when it was lost, as in its entry.
    Lingering(PeerId, u32),
    /// That this peer is gone is not remembered any longer; when it went.
    Gone(PeerId, u32),
    /// What a stock pod said of this peer is old; when it said so.
    StockOwner(PeerId, u32),
    /// This peer is watched and may be on a stock pod; how often it was asked for in vain.
    Ask(PeerId, u32),
    /// This pod's peers have not been confirmed since its link was lost; the epoch that began then.
    Pod(PodNumber, u8),
    /// A link is old enough to know whether it leads to a stock pod.
    StockPods,
}

#[derive(Debug, Default)]
struct State {
    /// By time in milliseconds, then by the order of coming.
    due: BTreeMap<(u64, u64), Due>,
    count: u64,
}

/// The list, and the word that its first item has changed.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    state: Mutex<State>,
    earlier: Notify,
}

impl Timeline {
    /// Adds something that is due `at`, in milliseconds.
    pub(super) fn add(&self, at: u64, due: Due) {
        let mut state = self.state.lock();
        let first = state.due.first_key_value().map(|((at, _), _)| *at);
        let count = state.count;
        state.count += 1;
        state.due.insert((at, count), due);
        drop(state);
        if first.is_none_or(|first| at < first) {
            self.earlier.notify_one();
        }
    }

    /// Takes one thing that is due by now.
    pub(super) fn take(&self, now: u64) -> Option<Due> {
        let mut state = self.state.lock();
        let first = state.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// When the first thing is due, in milliseconds.
    pub(super) fn first(&self) -> Option<u64> {
        self.state
            .lock()
            .due
            .first_key_value()
            .map(|((at, _), _)| *at)
    }

    /// Waits until something has been added that is due before all else, or somebody calls [`Timeline::wake`]. Cancel-safe.
    pub(super) async fn earlier(&self) {
        self.earlier.notified().await;
    }

    /// Lets [`Timeline::earlier`] return.
    pub(super) fn wake(&self) {
        self.earlier.notify_one();
    }

    /// How much is in it.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.state.lock().due.len()
    }
}
