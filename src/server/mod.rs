//! A whole relay with its listeners: binding, serving, stopping in order.
//!
//! Knows addresses, sockets and signals; never the format of a message.

mod admin;
mod bind;
mod builder;
mod cluster;
mod http2;
mod listener;
mod quic;
mod quic_probe;
mod signals;
mod tls;

pub use bind::{BindError, Listener};
pub use builder::{Server, ServerBuilder};
pub use signals::{reload_signal, shutdown_signal};
