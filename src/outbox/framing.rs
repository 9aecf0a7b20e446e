//! How messages are told apart in the bytes that a writer sends.

use crate::proto::cluster::{self, FORWARD_HEAD_LEN};
use crate::proto::limits::MESSAGE_MAX;

/// The longest control message that fits into one QUIC datagram on every path and for every client: of the 1200 bytes that QUIC
/// asks of a path, 48 are heads at worst (short header with the longest connection ID 25, its tag 16, the frame's type and length 3).
pub const CONTROL_DATAGRAM_MAX: usize = 1140;

/// How messages are delimited in the byte stream that the writer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Each message is one unmasked, final, binary WebSocket frame (RFC 6455, section 5.2).
    WebSocket,
    /// Each message follows its length, two bytes, big-endian: for transports that keep message boundaries themselves.
    Length,
    /// Each message is a FWD or REFWD frame to another pod (cluster-protocol.md). Its head names more than its length, so whoever
    /// pushes it brings that ([`Outbox::push_behind`](super::Outbox::push_behind)), and control messages are whole frames.
    Frame,
    /// As `Length`, where a message must also fit into a datagram of the path.
    Datagram,
}

/// Bytes of the longest message head any framing writes.
const HEAD_MAX: usize = 10;

impl Framing {
    /// The bytes before a message of `len` bytes, and how many of them count.
    #[inline]
    pub(super) fn head(self, len: usize) -> ([u8; HEAD_MAX], usize) {
        let mut head = [0; HEAD_MAX];
        let length = u16::try_from(len).expect("a message is at most 8820 bytes");
        match self {
            Self::WebSocket => {
                head[0] = 0x82;
                if length < 126 {
                    head[1] = length as u8;
                    (head, 2)
                } else {
                    head[1] = 126;
                    head[2..4].copy_from_slice(&length.to_be_bytes());
                    (head, 4)
                }
            }
            Self::Length | Self::Datagram => {
                head[..2].copy_from_slice(&length.to_be_bytes());
                (head, 2)
            }
            Self::Frame => (head, 0),
        }
    }

    pub(super) fn control_max(self) -> usize {
        match self {
            Self::WebSocket | Self::Length | Self::Frame => MESSAGE_MAX,
            Self::Datagram => CONTROL_DATAGRAM_MAX,
        }
    }

    /// Where the message that starts at `at` has its body and its end, in bytes that [`Framing::head`] framed.
    pub(super) fn next(self, bytes: &[u8], at: usize) -> Option<(usize, usize)> {
        let long = |from: usize| {
            let length = bytes.get(from..from + 2)?;
            Some((
                from + 2,
                usize::from(u16::from_be_bytes([length[0], length[1]])),
            ))
        };
        let (body, len) = match self {
            Self::WebSocket => match *bytes.get(at + 1)? {
                126 => long(at + 2)?,
                length => (at + 2, usize::from(length)),
            },
            Self::Length | Self::Datagram => long(at)?,
            Self::Frame => {
                let frame = cluster::next_frame(bytes.get(at..)?)?;
                return Some((at + FORWARD_HEAD_LEN, at + frame.len()));
            }
        };
        Some((body, body + len))
    }
}
