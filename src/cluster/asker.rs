//! What those may have on whose behalf messages are forwarded: of the lookups in progress, and of the bytes that are held meanwhile. Whoever guesses
//! IDs, or sends all it can to a pod that is lost, must not take what others need.
//!
//! Everybody may have a part of what the others have not taken: much while it is alone, and less, the more of them take what they can, so
//! that the next one finds some.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::held::Hop;

/// Lookups at a time.
const IN_ALL: usize = 4_096;

/// The part of the lookups that one peer of this pod may have: 64 if it is alone, more peers that are new to the whole cluster it does not begin
/// to talk to in the 200 ms that a lookup takes.
const LOOKUPS_FOR_A_PEER: usize = 64;

/// The same for what comes over one link: all peers of that pod share it.
const LOOKUPS_FOR_A_LINK: usize = 4;

/// The part of the held bytes that one peer of this pod may have.
const HELD_FOR_A_PEER: usize = 8;

/// The same for what comes over one link.
const HELD_FOR_A_LINK: usize = 2;

/// What a peer may have if it is alone.
#[cfg(test)]
pub(super) const FOR_A_PEER: usize = IN_ALL / LOOKUPS_FOR_A_PEER;

/// On whose behalf messages are forwarded: a peer of this pod, or a link to another pod.
#[derive(Debug)]
pub(super) struct Asker {
    hop: Hop,
    /// Made with the first lookup or the first held message, which most never cause.
    taken: Option<Arc<Taken>>,
}

/// What one of them has taken.
#[derive(Debug, Default)]
pub(super) struct Taken {
    lookups: AtomicUsize,
    pub(super) held: AtomicUsize,
}

impl Asker {
    pub(super) const fn new(hop: Hop) -> Self {
        Self { hop, taken: None }
    }

    pub(super) const fn hop(&self) -> Hop {
        self.hop
    }

    /// What it has taken so far; made if that is nothing yet.
    pub(super) fn taken(&mut self) -> &Arc<Taken> {
        self.taken.get_or_insert_default()
    }

    const fn part_of_lookups(&self) -> usize {
        match self.hop {
            Hop::First => LOOKUPS_FOR_A_PEER,
            Hop::Second => LOOKUPS_FOR_A_LINK,
        }
    }

    pub(super) const fn part_of_held(&self) -> usize {
        match self.hop {
            Hop::First => HELD_FOR_A_PEER,
            Hop::Second => HELD_FOR_A_LINK,
        }
    }
}

/// Adds `more` to what one has taken and to what all have, if both stay within their bounds: `in_all`, and this part of what of that the others have
/// not taken.
pub(super) fn take(
    own: &AtomicUsize,
    all: &AtomicUsize,
    more: usize,
    in_all: usize,
    part: usize,
) -> bool {
    // Others may take some at the same instant: then this is a little more than their part, and never more than all.
    let others = all
        .load(Ordering::Relaxed)
        .saturating_sub(own.load(Ordering::Relaxed));
    let most = in_all.saturating_sub(others) / part;
    if !add(own, more, most) {
        return false;
    }
    if !add(all, more, in_all) {
        own.fetch_sub(more, Ordering::Relaxed);
        return false;
    }
    true
}

fn add(count: &AtomicUsize, more: usize, most: usize) -> bool {
    let sum = |count: usize| Some(count + more).filter(|&sum| sum <= most);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum)
        .is_ok()
}

/// The lookups in progress.
#[derive(Debug, Default)]
pub(super) struct Lookups(Arc<AtomicUsize>);

impl Lookups {
    /// How many.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// A place for one more; none: there are too many, in all or for this asker.
    pub(super) fn begin(&self, asker: &mut Asker) -> Option<LookupPlace> {
        let part = asker.part_of_lookups();
        let own = asker.taken();
        take(&own.lookups, &self.0, 1, IN_ALL, part).then(|| LookupPlace {
            own: Arc::clone(own),
            all: Arc::clone(&self.0),
        })
    }
}

/// A place for a lookup; given back when it is dropped.
#[derive(Debug)]
pub(super) struct LookupPlace {
    own: Arc<Taken>,
    all: Arc<AtomicUsize>,
}

impl Drop for LookupPlace {
    fn drop(&mut self) {
        self.own.lookups.fetch_sub(1, Ordering::Relaxed);
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_take_what_they_can_leave_some_to_the_next() {
        let lookups = Lookups::default();
        let take_all = |hop| {
            let mut asker = Asker::new(hop);
            let taken = std::iter::from_fn(|| lookups.begin(&mut asker));
            taken.collect::<Vec<_>>()
        };
        assert_eq!(take_all(Hop::First).len(), 64);
        assert_eq!(take_all(Hop::Second).len(), 1_024);
        let mut taken: Vec<_> = (0..250).map(|_| take_all(Hop::First)).collect();
        assert!(taken.iter().all(|lookups| !lookups.is_empty()));
        taken.extend((0..10).map(|_| take_all(Hop::Second)));
        assert!(lookups.len() < IN_ALL);
        taken.clear();
        assert_eq!((lookups.len(), take_all(Hop::First).len()), (0, 64));
    }
}
