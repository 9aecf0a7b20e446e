//! The wire between a client and a relay, and between two relays: bytes in, views out.
//!
//! Owns the numbers, the codecs of messages and frames, peer IDs and the instance URL. It never does I/O, keeps no state, logs
//! nothing and knows no other room, so it can be tested with nothing but bytes. What it implements is
//! peer-protocol.md and the frames of cluster-protocol.md.

pub mod cluster;
pub mod limits;
pub mod peer;
pub mod wireguard;

mod id;
mod instance_url;

pub use id::{ParsePeerIdError, PeerId};
pub use instance_url::{InstanceUrl, InstanceUrlError};
