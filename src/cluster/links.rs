//! Which link leads to which pod: one each.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::link::Link;
use crate::crosspod::PodAddr;

/// The links that are up, by the pods' announced addresses.
#[derive(Debug, Default)]
pub(crate) struct Links(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    // Ordered, so that a simulation takes the same course each time.
    by_pod: BTreeMap<PodAddr, Arc<Link>>,
    /// The same as a list that can be gone through without the lock; made when it is asked for.
    list: Option<Arc<[Arc<Link>]>>,
}

impl Links {
    /// All of them, as they are now.
    pub(crate) fn up(&self) -> Arc<[Arc<Link>]> {
        if let Some(list) = &self.0.read().list {
            return Arc::clone(list);
        }
        let mut state = self.0.write();
        let State { by_pod, list } = &mut *state;
        Arc::clone(list.get_or_insert_with(|| by_pod.values().cloned().collect()))
    }

    /// The one to this pod.
    pub(crate) fn get(&self, pod: &PodAddr) -> Option<Arc<Link>> {
        self.0.read().by_pod.get(pod).cloned()
    }

    /// Gives a link its pod's place; the link that had it until now.
    pub(super) fn put(&self, link: &Arc<Link>) -> Option<Arc<Link>> {
        let mut state = self.0.write();
        state.list = None;
        state.by_pod.insert(link.pod().clone(), Arc::clone(link))
    }

    /// Takes a link's place away, if it is still its own.
    pub(super) fn remove(&self, link: &Arc<Link>) -> bool {
        let mut state = self.0.write();
        let is_there = state
            .by_pod
            .get(link.pod())
            .is_some_and(|there| Arc::ptr_eq(there, link));
        if is_there {
            state.by_pod.remove(link.pod());
            state.list = None;
        }
        is_there
    }
}
