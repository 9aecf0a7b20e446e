//! How many lookups may be in progress, in all and for each of those who cause them: whoever guesses IDs must not take the lookups
//! of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::held::Hop;

/// Lookups at a time.
const IN_ALL: usize = 4_096;

/// Lookups at a time for one peer of this pod: more peers that are new to the whole cluster it does not begin to talk to in the 200 ms
/// that a lookup takes.
pub(super) const FOR_A_PEER: usize = 64;

/// Lookups at a time for what one pod sent here: all of its peers share them.
const FOR_A_POD: usize = 1_024;

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

    const fn most(&self) -> usize {
        match self.hop {
            Hop::First => FOR_A_PEER,
            Hop::Second => FOR_A_POD,
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
        let most = asker.most();
        let of_asker = Counted::take(asker.lookups.get_or_insert_default(), most)?;
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
