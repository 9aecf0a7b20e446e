//! A peer's place in the registry, which is given up whatever happens.

use std::sync::Arc;

use super::Shared;
use crate::routing::{Presence, Registration, Subscriptions};

/// A place in the registry, with its subscriptions. It is given up in any case, also when the connection's future is dropped or
/// panics: nobody stays online who is not there, and no socket stays open.
pub(super) struct Member {
    presence: Arc<Presence>,
    pub(super) registration: Arc<Registration>,
    pub(super) subscriptions: Subscriptions,
}

impl Member {
    /// Takes the place, and returns the older connection that had it.
    pub(super) fn join(
        shared: &Shared,
        registration: Arc<Registration>,
    ) -> (Self, Option<Arc<Registration>>) {
        let old = shared.presence.register(&registration);
        let member = Self {
            presence: Arc::clone(&shared.presence),
            registration,
            subscriptions: Subscriptions::default(),
        };
        (member, old)
    }

    /// Gives the place up; what is queued may still be written. A second time changes nothing.
    pub(super) fn leave(&mut self) {
        let subscriptions = std::mem::take(&mut self.subscriptions);
        self.presence.unregister(&self.registration, subscriptions);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
        self.registration.outbox().abort();
    }
}
