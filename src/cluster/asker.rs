//! How many lookups may be in progress, in all and for each of those who cause them: whoever guesses IDs must not take the lookups
//! of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::held::Hop;

/// Lookups at a time.
const IN_ALL: usize = 4_096;

/// The part of the lookups that nobody else has which one peer of this pod may have: 64 if it is alone, more peers that are new to the
/// whole cluster it does not begin to talk to in the 200 ms that a lookup takes; fewer, the more have taken what they can, so that the next one
/// finds some.
const PART_FOR_A_PEER: usize = 64;

/// The same for what one pod sent here: all of its peers share it.
const PART_FOR_A_POD: usize = 4;

/// What a peer may have if it is alone.
#[cfg(test)]
pub(super) const FOR_A_PEER: usize = IN_ALL / PART_FOR_A_PEER;

/// On whose behalf messages are forwarded: a peer of this pod, or another pod.
#[derive(Debug)]
pub(super) struct Asker {
    hop: Hop,
    /// Lookups in progress; made with the first one, which most never cause.
    lookups: Option<Arc<AtomicUsize>>,
}

impl Asker {
    pub(super) const fn new(hop: Hop) -> Self {
        Self { hop, lookups: None }
    }

    pub(super) const fn hop(&self) -> Hop {
        self.hop
    }

    const fn part(&self) -> usize {
        match self.hop {
            Hop::First => PART_FOR_A_PEER,
            Hop::Second => PART_FOR_A_POD,
        }
    }
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
        let part = asker.part();
        let own = asker.lookups.get_or_insert_default();
        let others = self
            .0
            .load(Ordering::Relaxed)
            .saturating_sub(own.load(Ordering::Relaxed));
        let of_asker = Counted::take(own, (IN_ALL - others) / part)?;
        let of_all = Counted::take(&self.0, IN_ALL)?;
        Some(LookupPlace {
            _of_asker: of_asker,
            _of_all: of_all,
        })
    }
}

/// A place for a lookup; given back when it is dropped.
#[derive(Debug)]
pub(super) struct LookupPlace {
    _of_asker: Counted,
    _of_all: Counted,
}

/// One of those that are counted.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn take(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let one_more = |count: usize| (count < most).then_some(count + 1);
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
