//! The cluster fabric: several relay pods become one relay (cluster-protocol.md).
//!
//! Owns the streams between pods, who of them is ours, and who owns which peer. It never sees the relay's types: what it needs of
//! the relay, and the relay of it, stands in `crosspod`.

#![allow(dead_code, reason = "its parts are being put together")]

pub mod discovery;
mod fabric;
mod link;
mod links;
