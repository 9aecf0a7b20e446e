//! Finds frames in what comes in, without copying it.
//!
//! The scanner looks at heads and stamps, and steps over the rest where it lies. It knows no socket. (RFC 6455, section 5.)

use super::frame::{
    CLOSE, HEALTH_CHECK, MASKED, OPCODE_BINARY, OPCODE_CLOSE, OPCODE_PING, STAMP_BYTES, TRANSPORT,
    wide_mask,
};
use crate::proto::limits::{PROTOCOL_VERSION, TRANSPORT_HEADER_LEN};

/// The longest frame head (14) and the longest body that is looked at: a control frame's 125 bytes.
const PREFIX: usize = 14 + 125;

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
    use super::super::frame::{Batch, client_frame, close_frame, health_answer, pong_frame};
    use super::*;
    use crate::proto::PeerId;

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
