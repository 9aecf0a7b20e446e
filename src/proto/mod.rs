//! The wire between a client and a relay: bytes in, views out.
//!
//! Owns the numbers, the message codec, peer IDs and the instance URL. It never does I/O, keeps no state, logs
//! nothing and knows no other room, so it can be tested with nothing but bytes. What it implements is
//! peer-protocol.md.

pub mod limits;
pub mod peer;
pub mod wireguard;

mod id;
mod instance_url;

pub use id::{ParsePeerIdError, PeerId};
pub use instance_url::{InstanceUrl, InstanceUrlError};
