//! Frames to send, made before the load starts.
//!
//! Head, mask and masked body are ready; while the load runs only the sixteen stamped bytes of each frame change. It knows no
//! socket. (peer-protocol.md, Sizes; RFC 6455, section 5.)

use crate::proto::PeerId;
use crate::proto::limits::{MESSAGE_MAX, PROTOCOL_VERSION, TRANSPORT_HEADER_LEN};
use crate::proto::peer::{self, MessageType};

/// Bytes of a stamp: a sequence number and a send time, both `u64`, big-endian.
pub(super) const STAMP_BYTES: usize = 16;
/// The largest payload that fits a transport message (8782).
pub(super) const MAX_PAYLOAD: usize = MESSAGE_MAX - TRANSPORT_HEADER_LEN;

pub(super) const TRANSPORT: u8 = MessageType::Transport as u8;
pub(super) const CLOSE: u8 = MessageType::Close as u8;
pub(super) const HEALTH_CHECK: u8 = MessageType::HealthCheck as u8;

pub(super) const OPCODE_BINARY: u8 = 2;
pub(super) const OPCODE_CLOSE: u8 = 8;
pub(super) const OPCODE_PING: u8 = 9;
const OPCODE_PONG: u8 = 10;
const FINAL: u8 = 0x80;
pub(super) const MASKED: u8 = 0x80;

/// A masked client frame around one message.
pub(super) fn client_frame(opcode: u8, message: &[u8], mask: [u8; 4], into: &mut Vec<u8>) {
    into.push(FINAL | opcode);
    match message.len() {
        short @ 0..=125 => into.push(MASKED | short as u8),
        long => {
            let length =
                u16::try_from(long).expect("no message of this protocol exceeds 8820 bytes");
            into.push(MASKED | 126);
            into.extend_from_slice(&length.to_be_bytes());
        }
    }
    into.extend_from_slice(&mask);
    into.extend(
        message
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
}

/// One protocol message as a masked binary frame with a random mask.
pub(super) fn binary_frame(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(message.len() + 8);
    client_frame(OPCODE_BINARY, message, rand::random(), &mut frame);
    frame
}

/// The answer to a health check, as a masked frame.
pub(super) fn health_answer() -> Vec<u8> {
    binary_frame(&peer::HEALTH_CHECK)
}

/// The *close* message, as a masked frame.
pub(super) fn close_frame() -> Vec<u8> {
    binary_frame(&peer::CLOSE)
}

/// The pong to a ping, as a masked frame; `body` is what the ping carried.
pub(super) fn pong_frame(body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(body.len() + 6);
    client_frame(OPCODE_PONG, body, rand::random(), &mut frame);
    frame
}

/// Where one frame's stamp lies, and the mask as it falls on it.
#[derive(Debug, Clone, Copy)]
struct Slot {
    at: usize,
    mask: u64,
}

/// Transport messages that leave in one write call, ready but for their stamps.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

impl Batch {
    /// One frame for each destination, with `size` bytes of random payload (16 to 8782), each under a mask of its own.
    pub(super) fn new(destinations: &[PeerId], size: usize) -> Self {
        debug_assert!(
            (STAMP_BYTES..=MAX_PAYLOAD).contains(&size),
            "the options check the payload size"
        );
        let mut bytes = Vec::with_capacity(destinations.len() * (size + TRANSPORT_HEADER_LEN + 8));
        let mut slots = Vec::with_capacity(destinations.len());
        let mut message = vec![0; TRANSPORT_HEADER_LEN + size];
        message[..2].copy_from_slice(&[PROTOCOL_VERSION, TRANSPORT]);
        for destination in destinations {
            message[2..TRANSPORT_HEADER_LEN].copy_from_slice(destination.as_bytes());
            rand::fill(&mut message[TRANSPORT_HEADER_LEN..]);
            let mask: [u8; 4] = rand::random();
            client_frame(OPCODE_BINARY, &message, mask, &mut bytes);
            let body = bytes.len() - message.len();
            slots.push(Slot {
                at: body + TRANSPORT_HEADER_LEN,
                mask: wide_mask(mask, TRANSPORT_HEADER_LEN),
            });
        }
        Self { bytes, slots }
    }

    /// Frames in the batch.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The frames as they are to be written.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes the stamp of frame `slot`: a sequence number, and a time in nanoseconds since the load began.
    pub(super) fn stamp(&mut self, slot: usize, sequence: u64, sent_ns: u64) {
        let Slot { at, mask } = self.slots[slot];
        // Sixteen is a multiple of the mask's length: both words meet the same phase of it.
        self.bytes[at..at + 8].copy_from_slice(&(sequence ^ mask).to_be_bytes());
        self.bytes[at + 8..at + 16].copy_from_slice(&(sent_ns ^ mask).to_be_bytes());
    }
}

/// The mask as it falls on eight bytes that begin at `offset` of the message.
pub(super) fn wide_mask(mask: [u8; 4], offset: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|index| mask[(offset + index) % 4]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> PeerId {
        PeerId::from_name(name.as_bytes())
    }

    #[test]
    fn batch_unmasks_to_transport_messages() {
        for size in [STAMP_BYTES, 87, 88, 1280, MAX_PAYLOAD] {
            let mut batch = Batch::new(&[id("a"), id("b")], size);
            for _ in 0..2 {
                batch.stamp(0, 0x0102_0304_0506_0708, 9);
                batch.stamp(1, u64::MAX, 10);
            }
            let mut rest = batch.bytes();
            for (name, sequence, sent) in
                [("a", 0x0102_0304_0506_0708_u64, 9_u64), ("b", u64::MAX, 10)]
            {
                assert_eq!(rest[0], 0x82);
                let length = 38 + size;
                let head = if length <= 125 { 2 } else { 4 };
                assert_eq!(
                    usize::from(rest[1] & 0x7f),
                    if head == 2 { length } else { 126 }
                );
                assert!(rest[1] & 0x80 != 0);
                let mask = &rest[head..head + 4];
                let message: Vec<u8> = rest[head + 4..head + 4 + length]
                    .iter()
                    .zip(mask.iter().cycle())
                    .map(|(byte, key)| byte ^ key)
                    .collect();
                assert_eq!(message[..2], [1, 3]);
                assert_eq!(message[2..38], id(name).as_bytes()[..]);
                assert_eq!(message[38..46], sequence.to_be_bytes());
                assert_eq!(message[46..54], sent.to_be_bytes());
                rest = &rest[head + 4 + length..];
            }
            assert!(rest.is_empty());
        }
    }
}
