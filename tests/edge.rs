//! The hostile edge: who wants too much, speaks too slowly, or hides a second request behind the first (operations.md; RFC 9112,
//! sections 5, 6 and 11). What is refused is counted by its reason, and nothing of it reaches a peer.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

#[path = "support/mod.rs"]
mod support;

#[path = "edge/http.rs"]
mod http;
#[path = "edge/limits.rs"]
mod limits;
#[path = "edge/slow.rs"]
mod slow;
#[path = "edge/storm.rs"]
mod storm;
