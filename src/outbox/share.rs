//! Who holds how much of a queue under pressure, so that one sender's flood does not take the others' share.
//!
//! A queue that is less than half full is nobody's business, and costs nothing here. Beyond that each message is charged to its
//! sender, who may hold an equal share of the queue and no more. Queues are first in, first out, so equal shares of the queue are
//! equal shares of what the receiver takes; who asks for less than a share loses nothing. (There is no zone in between, where
//! all is charged and nothing refused: a kernel that takes two slabs at once would empty it, and a flood fill it first.)

use std::collections::HashMap;

use super::policy::QueuePolicy;
use crate::proto::limits::TRANSPORT_HEADER_LEN;
use crate::proto::wireguard;

/// Bytes in one slab that belong to one sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Charge {
    sender: u64,
    held: Held,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    /// Bytes in the queue.
    bytes: u32,
    /// Those of them that came in by the headroom of handshakes.
    headroom: u32,
}

/// How a message comes into a queue under pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// There is room for its sender.
    Share,
    /// There is none, but it is a handshake, and those have room of their own.
    Headroom,
    Refused,
}

/// What each sender holds of one queue.
///
/// Senders choose their IDs, so the map's hash is keyed at random.
#[derive(Debug, Default)]
pub(super) struct Ledger(HashMap<u64, Held>);

impl Ledger {
    /// Whether `need` more bytes of this sender may come in when the queue holds `queued`.
    pub(super) fn admit(
        &self,
        policy: &QueuePolicy,
        queued: usize,
        need: usize,
        sender: u64,
        is_handshake: impl FnOnce() -> bool,
    ) -> Admission {
        let held = self.0.get(&sender).copied().unwrap_or_default();
        // One more than there are: a newcomer finds room.
        let senders = self.0.len() + 1;
        if queued + need <= policy.data_bytes {
            let share = policy.data_bytes / senders;
            // A share may be smaller than a message: then one at a time.
            if held.bytes == 0 || held.bytes as usize + need <= share {
                return Admission::Share;
            }
        }
        let share = (policy.peer_bytes - policy.data_bytes) / senders;
        if queued + need <= policy.peer_bytes
            && (held.headroom == 0 || held.headroom as usize + need <= share)
            && is_handshake()
        {
            return Admission::Headroom;
        }
        Admission::Refused
    }

    /// Charges what was admitted, here and in the list of the slab that it went to.
    pub(super) fn charge(
        &mut self,
        charges: &mut Vec<Charge>,
        sender: u64,
        need: usize,
        admission: Admission,
    ) {
        let bytes = u32::try_from(need).expect("a message is at most 8820 bytes");
        let more = Held {
            bytes,
            headroom: if admission == Admission::Headroom {
                bytes
            } else {
                0
            },
        };
        self.0.entry(sender).or_default().add(more);
        match charges.last_mut() {
            Some(last) if last.sender == sender => last.held.add(more),
            _ => charges.push(Charge { sender, held: more }),
        }
    }

    /// Gives back what a slab that leaves the queue was charged with.
    pub(super) fn release(&mut self, charges: &[Charge]) {
        for charge in charges {
            let Some(held) = self.0.get_mut(&charge.sender) else {
                continue;
            };
            held.bytes -= charge.held.bytes;
            held.headroom -= charge.held.headroom;
            if held.bytes == 0 {
                self.0.remove(&charge.sender);
            }
        }
    }
}

impl Held {
    fn add(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.headroom += more.headroom;
    }
}

/// The sender of a message, as far as queues tell senders apart: the last bytes of the hash that is its ID.
pub(super) fn sender(message: &[u8]) -> u64 {
    message
        .get(TRANSPORT_HEADER_LEN - 8..TRANSPORT_HEADER_LEN)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_ne_bytes)
}

/// Whether a message carries a WireGuard handshake.
pub(super) fn is_handshake(message: &[u8]) -> bool {
    message
        .get(TRANSPORT_HEADER_LEN..)
        .is_some_and(wireguard::is_handshake)
}
