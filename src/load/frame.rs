//! Frames of the load generator: precomputed ones to send, and a scanner for those that come in.
//!
//! Everything that can be done before the load starts is done here: head, mask, masked body. While the load runs only the
//! sixteen stamped bytes of each frame change. The scanner looks at heads and stamps, and steps over the rest where it
//! lies. It knows no socket. (peer-protocol.md, Sizes; RFC 6455, section 5.)

use crate::proto::PeerId;
use crate::proto::limits::{MESSAGE_MAX, PROTOCOL_VERSION, TRANSPORT_HEADER_LEN};
use crate::proto::peer::{self, MessageType};

/// Bytes of a stamp: a sequence number and a send time, both `u64`, big-endian.
pub(super) const STAMP_BYTES: usize = 16;
/// The largest payload that fits a transport message (8782).
pub(super) const MAX_PAYLOAD: usize = MESSAGE_MAX - TRANSPORT_HEADER_LEN;

const TRANSPORT: u8 = MessageType::Transport as u8;
const CLOSE: u8 = MessageType::Close as u8;
const HEALTH_CHECK: u8 = MessageType::HealthCheck as u8;

const OPCODE_BINARY: u8 = 2;
const OPCODE_CLOSE: u8 = 8;
const OPCODE_PING: u8 = 9;
const OPCODE_PONG: u8 = 10;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// The longest frame head (14) and the longest body that is looked at: a control frame's 125 bytes.
const PREFIX: usize = 14 + 125;

/// A masked client frame around one message.
fn client_frame(opcode: u8, message: &[u8], mask: [u8; 4], into: &mut Vec<u8>) {
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
fn wide_mask(mask: [u8; 4], offset: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|index| mask[(offset + index) % 4]))
}

/// What the scanner found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    /// A transport message that carries a stamp.
    Transport {
        /// Payload bytes, the stamp among them.
        payload: usize,
        /// The sender's sequence number.
        sequence: u64,
        /// When it was sent, nanoseconds since the load began.
        sent_ns: u64,
    },
    /// The relay asks whether the peer is there.
    HealthCheck,
    /// The other side is about to close: a *close* message or a WebSocket close frame.
    Close,
    /// A WebSocket ping with its body.
    Ping(&'a [u8]),
    /// Anything else: its message type, or 0 for what is no message of this protocol.
    Other(u8),
}

/// Finds frames in a byte stream that arrives in pieces, masked or not.
#[derive(Debug)]
pub(super) struct Scanner {
    /// The start of a frame of which too little has come to be looked at.
    held: [u8; PREFIX],
    held_len: usize,
    /// Bytes of the present frame that are still to come and of no interest.
    skip: usize,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            held: [0; PREFIX],
            held_len: 0,
            skip: 0,
        }
    }
}

impl Scanner {
    /// Takes the next piece of the stream and reports each frame whose beginning is now complete.
    pub(super) fn feed(&mut self, mut piece: &[u8], mut report: impl FnMut(Seen<'_>)) {
        loop {
            let skipped = self.skip.min(piece.len());
            self.skip -= skipped;
            piece = &piece[skipped..];
            if piece.is_empty() {
                return;
            }
            if self.held_len == 0 {
                match look(piece, &mut report) {
                    Look::Frame(total) => self.skip = total,
                    Look::More(_) => {
                        self.held[..piece.len()].copy_from_slice(piece);
                        self.held_len = piece.len();
                        return;
                    }
                }
                continue;
            }
            let Look::More(wanted) = look(&self.held[..self.held_len], &mut report) else {
                unreachable!("a held beginning was too short when it was put there");
            };
            let taken = (wanted - self.held_len).min(piece.len());
            self.held[self.held_len..self.held_len + taken].copy_from_slice(&piece[..taken]);
            self.held_len += taken;
            piece = &piece[taken..];
            if let Look::Frame(total) = look(&self.held[..self.held_len], &mut report) {
                self.skip = total - self.held_len;
                self.held_len = 0;
            }
        }
    }
}

/// What the beginning of a frame says.
enum Look {
    /// Reported; the frame has this many bytes in all.
    Frame(usize),
    /// This many bytes are needed before more can be said; always more than were there.
    More(usize),
}

fn look(bytes: &[u8], report: &mut impl FnMut(Seen<'_>)) -> Look {
    if bytes.len() < 2 {
        return Look::More(2);
    }
    let masked = bytes[1] & MASKED != 0;
    let short = usize::from(bytes[1] & 0x7f);
    let length_end = match short {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let head = length_end + if masked { 4 } else { 0 };
    if bytes.len() < head {
        return Look::More(head);
    }
    let length = match short {
        126 => usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        127 => u64::from_be_bytes(bytes[2..10].try_into().expect("eight bytes")) as usize,
        _ => short,
    };
    let mask: [u8; 4] = if masked {
        bytes[length_end..head].try_into().expect("four bytes")
    } else {
        [0; 4]
    };
    let opcode = bytes[0] & 0x0f;
    let interesting = match opcode {
        OPCODE_PING => length.min(125),
        _ => length.min(TRANSPORT_HEADER_LEN + STAMP_BYTES),
    };
    let Some(body) = bytes.get(head..head + interesting) else {
        return Look::More(head + interesting);
    };
    let total = head.saturating_add(length);
    let plain = |index: usize| body[index] ^ mask[index % 4];
    match opcode {
        OPCODE_BINARY if length >= 2 => {
            let kind = if plain(0) == PROTOCOL_VERSION {
                plain(1)
            } else {
                0
            };
            match kind {
                TRANSPORT if length >= TRANSPORT_HEADER_LEN + STAMP_BYTES => {
                    let wide = wide_mask(mask, TRANSPORT_HEADER_LEN);
                    let word = |at: usize| {
                        u64::from_be_bytes(body[at..at + 8].try_into().expect("eight bytes")) ^ wide
                    };
                    report(Seen::Transport {
                        payload: length - TRANSPORT_HEADER_LEN,
                        sequence: word(TRANSPORT_HEADER_LEN),
                        sent_ns: word(TRANSPORT_HEADER_LEN + 8),
                    });
                }
                CLOSE => report(Seen::Close),
                HEALTH_CHECK => report(Seen::HealthCheck),
                other => report(Seen::Other(other)),
            }
        }
        OPCODE_CLOSE => report(Seen::Close),
        OPCODE_PING => {
            if masked {
                let clear: Vec<u8> = (0..body.len()).map(plain).collect();
                report(Seen::Ping(&clear));
            } else {
                report(Seen::Ping(body));
            }
        }
        _ => report(Seen::Other(0)),
    }
    Look::Frame(total)
}

/// Sequence numbers of one receiver: what is missing, and what came out of order.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sequence {
    expected: u64,
    missing: u64,
    late: u64,
}

impl Sequence {
    /// Takes note of the number that came.
    pub(super) fn see(&mut self, sequence: u64) {
        if sequence >= self.expected {
            self.missing += sequence - self.expected;
            self.expected = sequence + 1;
        } else {
            // Counted as missing when it was overtaken; a number that comes twice looks the same, and is no loss either.
            self.late += 1;
            self.missing = self.missing.saturating_sub(1);
        }
    }

    /// The number that comes next if nothing is lost: one past the highest seen.
    pub(super) fn expected(&self) -> u64 {
        self.expected
    }

    /// Numbers that came after a higher one.
    pub(super) fn reordered(&self) -> u64 {
        self.late
    }

    /// Numbers that never came, given that `sent` of them were sent.
    pub(super) fn lost(&self, sent: u64) -> u64 {
        self.missing + sent.saturating_sub(self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> PeerId {
        PeerId::from_name(name.as_bytes())
    }

    /// A server's frame around the message: what a relay makes of a client's.
    fn server_frame(message: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        client_frame(OPCODE_BINARY, message, [0; 4], &mut frame);
        let head = frame.len() - message.len() - 4;
        frame[1] &= !MASKED;
        frame.drain(head..head + 4);
        frame
    }

    /// What the scanner sees in `bytes`, fed `step` bytes at a time.
    fn seen(bytes: &[u8], step: usize) -> Vec<String> {
        let mut scanner = Scanner::default();
        let mut all = Vec::new();
        for piece in bytes.chunks(step) {
            scanner.feed(piece, |seen| all.push(format!("{seen:?}")));
        }
        all
    }

    fn transport(payload: usize, sequence: u64, sent_ns: u64) -> String {
        format!(
            "{:?}",
            Seen::Transport {
                payload,
                sequence,
                sent_ns
            }
        )
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

    #[test]
    fn scanner_finds_the_same_at_every_cut() {
        let mut batch = Batch::new(&[id("a"), id("a"), id("a")], 100);
        for slot in 0..3 {
            batch.stamp(slot, slot as u64, 70 + slot as u64);
        }
        let mut large = vec![0; 38 + 70_000];
        large[..2].copy_from_slice(&[1, 3]);
        large[38..46].copy_from_slice(&5_u64.to_be_bytes());
        let mut wide = vec![0x82, 127];
        wide.extend_from_slice(&(large.len() as u64).to_be_bytes());
        wide.extend_from_slice(&large);
        let stream = [
            batch.bytes(),
            &server_frame(&[1, 5])[..],
            &server_frame(&[1, 11, 0, 0, 0]),
            &server_frame(&[2, 3]),
            &[0x89, 3, b'x', b'y', b'z'],
            &pong_frame(b"body"),
            &wide,
            &server_frame(&[1, 4]),
            &[0x88, 0],
        ]
        .concat();
        let right = [
            transport(100, 0, 70),
            transport(100, 1, 71),
            transport(100, 2, 72),
            "HealthCheck".to_owned(),
            "Other(11)".to_owned(),
            "Other(0)".to_owned(),
            "Ping([120, 121, 122])".to_owned(),
            "Other(0)".to_owned(),
            transport(70_000, 5, 0),
            "Close".to_owned(),
            "Close".to_owned(),
        ];
        for step in [1, 2, 3, 5, 7, 61, 62, 63, 145, 146, 147, 1000, stream.len()] {
            assert_eq!(seen(&stream, step), right, "step {step}");
        }
        for cut in 0..700 {
            let mut scanner = Scanner::default();
            let mut all = Vec::new();
            scanner.feed(&stream[..cut], |seen| all.push(format!("{seen:?}")));
            scanner.feed(&stream[cut..], |seen| all.push(format!("{seen:?}")));
            assert_eq!(all, right, "cut {cut}");
        }
    }

    #[test]
    fn answers_are_masked_messages() {
        assert_eq!(seen(&health_answer(), 64), ["HealthCheck"]);
        assert_eq!(seen(&close_frame(), 64), ["Close"]);
        assert_eq!(health_answer()[..2], [0x82, 0x82]);
    }

    #[test]
    fn losses_and_overtakings_are_told_apart() {
        let run = |numbers: &[u64]| {
            let mut sequence = Sequence::default();
            numbers.iter().for_each(|number| sequence.see(*number));
            sequence
        };
        let whole = run(&[0, 1, 2, 3]);
        assert_eq!(
            (whole.lost(4), whole.reordered(), whole.expected()),
            (0, 0, 4)
        );
        assert_eq!(whole.lost(6), 2, "the last two never came");
        let gap = run(&[0, 3, 4]);
        assert_eq!((gap.lost(5), gap.reordered(), gap.expected()), (2, 0, 5));
        let late = run(&[0, 2, 3, 1]);
        assert_eq!((late.lost(4), late.reordered(), late.expected()), (0, 1, 4));
        assert_eq!(run(&[]).lost(3), 3);
    }
}
