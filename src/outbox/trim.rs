//! What happens when all queues together come near the relay's memory budget: the largest are cut down to the next largest.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Outbox;
use super::policy::QueuePolicy;
use crate::buffers::BUFFER_LEN;
use crate::telemetry::counters::DropReason;

/// The outboxes that may be large: whoever opens a slab while more than half of the budget is used.
///
/// Lock order: `trimming`, then an outbox, then `list`.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    trimming: Mutex<()>,
    list: Mutex<Vec<Weak<Outbox>>>,
}

impl Suspects {
    pub(super) fn add(&self, outbox: Weak<Outbox>) {
        self.list.lock().push(outbox);
    }
}

/// Drops the oldest slabs of the largest queues until a quarter of the budget is free, or no queue holds more than one slab.
///
/// One thread at a time, with no outbox locked by the caller. Each queue is locked for itself, so the picture may be a little
/// old: then the next round cuts again.
#[cold]
pub(super) fn trim(policy: &QueuePolicy) {
    let Some(_alone) = policy.memory.suspects.trimming.try_lock() else {
        return;
    };
    let now = policy.ticks.now();
    policy.memory.trim_wanted.store(false, Ordering::Relaxed);
    let mut suspects = std::mem::take(&mut *policy.memory.suspects.list.lock());
    let mut sizes: Vec<(usize, Arc<Outbox>)> = Vec::with_capacity(suspects.len());
    suspects.retain(|outbox| {
        let Some(outbox) = outbox.upgrade() else {
            return false;
        };
        let slabs = outbox.slabs_or_unlist();
        if slabs > 1 {
            sizes.push((slabs, outbox));
        }
        slabs > 0
    });
    policy.memory.suspects.list.lock().append(&mut suspects);
    sizes.sort_unstable_by_key(|&(slabs, _)| std::cmp::Reverse(slabs));
    let excess = policy
        .used()
        .saturating_sub(policy.memory.budget / 4 * 3)
        .div_ceil(BUFFER_LEN);
    let level = level(sizes.iter().map(|&(slabs, _)| slabs), excess);
    for (_, outbox) in sizes.iter().take_while(|&&(slabs, _)| slabs > level) {
        outbox.thin(level, DropReason::OverBudget);
    }
    if sizes.is_empty() {
        // Not worth repeating before something has changed.
        policy
            .memory
            .nothing_to_trim_at
            .store(now, Ordering::Relaxed);
    }
}

/// To how many slabs the largest queues must be cut so that `excess` slabs are free; at least one. `sizes` descend.
fn level(sizes: impl Iterator<Item = usize> + Clone, excess: usize) -> usize {
    let mut sum = 0;
    let mut next = sizes.clone().skip(1).chain([1]);
    for (count, size) in sizes.enumerate() {
        sum += size;
        let cut = count + 1;
        let floor = next.next().unwrap_or(1);
        // With the first `cut` queues brought down to the size of the next, this many slabs are free.
        if sum - cut * floor >= excess {
            return (sum.saturating_sub(excess) / cut).max(floor);
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_are_cut_to_the_next_largest() {
        let level = |sizes: &[usize], excess| super::level(sizes.iter().copied(), excess);
        assert_eq!(level(&[10, 3, 2], 4), 6);
        assert_eq!(level(&[10, 3, 2], 7), 3);
        assert_eq!(level(&[10, 3, 2], 8), 2);
        assert_eq!(level(&[10, 3, 2], 100), 1);
        assert_eq!(level(&[], 5), 1);
    }

    proptest! {
        #[test]
        fn enough_is_freed_and_not_a_level_more(mut sizes in proptest::collection::vec(1_usize..50, 0..20), excess in 0_usize..200) {
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            let level = level(sizes.iter().copied(), excess);
            let freed = |level: usize| sizes.iter().map(|&size| size.saturating_sub(level)).sum::<usize>();
            prop_assert!(level >= 1);
            prop_assert!(level == 1 || freed(level) >= excess, "level {level} frees {} of {excess}", freed(level));
            let largest = sizes.first().copied().unwrap_or(1);
            prop_assert!(level >= largest || freed(level + 1) < excess.max(1) || excess == 0);
        }
    }
}
