//! Trunkline is a relay for WireGuard mesh peers: the machine that two peers meet on when NAT keeps them apart.
//!
//! It speaks the relay protocol of openZro and NetBird. As a program it is a drop-in for their relay; as a library it is a
//! [`Relay`] that is fed with connections or mounted as axum routes ([`Relay::router`]), and a [`Server`] with listeners.
//!
//! Rooms: `proto` is the wire, `transport` carries messages, `peer` is one connection, `routing` knows who is where, `http` and
//! `server` are the way in. The map is `docs/architecture.md`.

pub mod admission;
pub mod auth;
mod buffers;
pub mod client;
pub mod cluster;
pub mod config;
pub mod crosspod;
pub mod demo;
mod files;
pub mod http;
pub mod load;
mod memory;
pub mod outbox;
pub mod peer;
pub mod proto;
pub mod proxies;
pub mod relay;
pub mod reload;
pub mod routing;
pub mod server;
mod sockets;
mod source;
pub mod stack;
mod stun;
pub mod systemd;
pub mod telemetry;
pub mod ticks;
pub mod time;
pub mod tls;
pub mod transport;

pub use relay::{AlreadyJoined, BuildError, Peer, Peers, Relay, RelayBuilder};
pub use server::{Server, ServerBuilder};

/// The README's program is compiled, so that it stays true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// And so is the code of the page for those who embed the relay.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
