//! What waits to be written to one receiver: a bounded queue of bytes between many producers and one writer.
//!
//! Messages are copied once, framed, into slabs of contiguous bytes; the writer takes a whole slab and writes it with one
//! system call. Nothing is allocated, reference-counted or woken for each message: a slab comes from the buffer pool, and
//! a producer calls [`Outbox::flush`] once a batch. If the socket takes the slab at once, it is written there and then, and
//! the writer's task sleeps on; only what the socket does not take is the writer's. Control messages (health checks, presence,
//! the answer to *auth*) have a queue of their own that goes first; they are never dropped: when even that is full the connection ends.
//!
//! Under pressure (see `share` and `trim`) the outbox asks two things of a message: who sent it, and whether it is a WireGuard
//! handshake, which is dropped last and never overtakes. Otherwise it does not know what the bytes mean. Everything accepted is
//! either delivered (the slab was written whole) or counted by reason: a [`Slab`] that is dropped unwritten reports its messages
//! as it goes.
//!
//! Source: performance.md, *Rules of the message path*.

mod framing;
mod policy;
mod queue;
mod share;
mod slab;
mod state;
mod tcp;
mod trim;
mod writer;

pub use framing::{CONTROL_DATAGRAM_MAX, Framing};
pub use policy::QueuePolicy;
pub use queue::{Outbox, Taken};
pub use slab::Slab;
pub use tcp::SharedWriteHalf;
pub(crate) use tcp::{set_option, tune};
pub use writer::{TryWrite, write_out};

/// Bytes that control messages may occupy before the connection is given up as stalled. Room for the *peers online*
/// answers to some 29,000 subscribed IDs.
pub const CONTROL_HEADROOM: usize = 1024 * 1024;

/// The same for a pod: room for the *I have* of some 390,000 peers, which a link that comes up is given all at once.
pub const POD_CONTROL_HEADROOM: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod direct_tests;
#[cfg(test)]
mod pressure_tests;
#[cfg(test)]
mod tests;
