//! The shared harness of the black-box tests: a relay on a free port, a client that speaks raw bytes, and readers for what
//! operators see.
//!
//! Nothing here uses the relay's own WebSocket code: frames are made and cut by hand, so that a fault on one side cannot hide
//! one on the other. Limits on waiting are safety nets; no test passes or fails by the time that something takes.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test crate that includes this uses a part of it"
)]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod address;
mod client;
mod clock;
pub(crate) mod dns;
mod files;
mod frames;
mod http;
mod metrics;
#[cfg(target_os = "linux")]
pub(crate) mod netns;
mod ports;
mod process;
mod relay;
pub(crate) mod stock_pod;

pub(crate) use address::loopback;
pub(crate) use client::{RawClient, close, health_check, ids, payload_of, transport};
pub(crate) use clock::{FrozenClock, PATIENCE, eventually, real_pause, until};
pub(crate) use files::{Pair, fresh_dir};
pub(crate) use frames::{BINARY, CLOSE, CONTINUATION, Frame, PING, PONG, TEXT, binary, frame};
pub(crate) use http::{Answer, UPGRADE_REQUEST, request};
pub(crate) use metrics::Metrics;
pub(crate) use ports::{free_address, ports};
pub(crate) use process::Program;
pub(crate) use relay::{MemoryClient, NOW, SECRET, TestRelay, URL, auth_message, peer, token};
