//! Black box: raw bytes on a bound socket, one room of the peer protocol a module (peer-protocol.md, operations.md).
//!
//! Time is a frozen clock where it matters, and a condition to wait for where it does not: no test depends on how fast the
//! machine is. Wherever messages flow, the relay's books are checked afterwards: received = delivered + dropped.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

#[path = "../support/mod.rs"]
mod support;

mod connections;
mod handshake;
mod http;
mod http2;
mod malformed;
mod memory;
mod presence;
mod process;
mod proxied;
mod queues;
mod shutdown;
mod sizes;
mod stress;
mod takeover;
mod tls;
