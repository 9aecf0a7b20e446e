//! Who is connected here, where a message goes, and who is told when that changes.
//!
//! Owns the registry of this pod's peers and the subscriptions to their presence. Knows nothing of sockets, tokens, or the
//! fabric between pods. Lock order: presence, then a registry shard, then an outbox.

mod memo;
mod presence;
mod registration;
mod registry;

pub use memo::RouteMemo;
pub use presence::{Presence, Subscriptions};
pub use registration::{EndReason, Registration};
pub use registry::Registry;

#[cfg(test)]
mod tests;
