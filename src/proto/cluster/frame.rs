//! Reading: cutting frames out of a stream, and the view of one.

use std::fmt;

use super::kind::FrameType;
use super::{FRAME_HEADER_LEN, Seqno};
use crate::proto::PeerId;
use crate::proto::limits::PEER_ID_LEN;

/// A frame as it came, its payload unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// The number of its type, known or not.
    pub kind: u8,
    /// How long its payload is, in bytes.
    pub payload_len: usize,
}

impl RawFrame {
    /// How long the frame is with its header, in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        FRAME_HEADER_LEN + self.payload_len
    }

    /// Never: a frame has a header at least.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// The header of the frame that `bytes` start with; none until its three bytes are there. The payload need not be.
#[must_use]
pub fn next_frame(bytes: &[u8]) -> Option<RawFrame> {
    let &[kind, high, low] = bytes.first_chunk()?;
    Some(RawFrame {
        kind,
        payload_len: usize::from(u16::from_be_bytes([high, low])),
    })
}

/// One frame, as a view into its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Its payload, to be judged by [`hello`](super::hello).
    Hello(&'a [u8]),
    /// Who has this peer?
    WhoHas(PeerId),
    /// The sender has this peer.
    IHave {
        /// The peer.
        peer: PeerId,
        /// Of its registration there.
        seqno: Seqno,
    },
    /// The sender does not have this peer, or not any more.
    Lost {
        /// The peer.
        peer: PeerId,
        /// Of the registration that ended; 0: "not here".
        seqno: Seqno,
    },
    /// Reserved.
    Open {
        /// Who opens.
        source: PeerId,
        /// To whom.
        destination: PeerId,
        /// The channel's number.
        channel: u32,
    },
    /// Reserved.
    OpenAck {
        /// The channel's number.
        channel: u32,
        /// 1 accept, 0 reject.
        status: u8,
    },
    /// Reserved.
    Data {
        /// The channel's number.
        channel: u32,
        /// Opaque.
        bytes: &'a [u8],
    },
    /// Reserved.
    Close {
        /// The channel's number.
        channel: u32,
    },
    /// A message for a peer of the receiver.
    Forward {
        /// Whom it is for.
        destination: PeerId,
        /// A transport message stamped with its source, if the sender did its work: not checked here.
        message: &'a [u8],
    },
    /// The same on its second hop.
    Reforward {
        /// Whom it is for.
        destination: PeerId,
        /// As in [`Forward`](Self::Forward).
        message: &'a [u8],
    },
    /// Are you there? A body, if any, means nothing.
    Ping,
    /// The answer to it.
    Pong,
    /// A type that this version does not know: to be skipped.
    Unknown(u8),
}

impl Frame<'_> {
    /// Its type; none if it is unknown.
    #[must_use]
    pub const fn frame_type(&self) -> Option<FrameType> {
        Some(match self {
            Self::Hello(_) => FrameType::Hello,
            Self::WhoHas(_) => FrameType::WhoHas,
            Self::IHave { .. } => FrameType::IHave,
            Self::Lost { .. } => FrameType::Lost,
            Self::Open { .. } => FrameType::Open,
            Self::OpenAck { .. } => FrameType::OpenAck,
            Self::Data { .. } => FrameType::Data,
            Self::Close { .. } => FrameType::Close,
            Self::Forward { .. } => FrameType::Forward,
            Self::Reforward { .. } => FrameType::Reforward,
            Self::Ping => FrameType::Ping,
            Self::Pong => FrameType::Pong,
            Self::Unknown(_) => return None,
        })
    }
}

/// Shows lengths in place of payloads, and nothing of a MAC.
impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.frame_type().map_or("unknown", FrameType::name);
        let mut shown = f.debug_struct(name);
        match self {
            Self::Hello(payload) => shown.field("payload_len", &payload.len()),
            Self::WhoHas(peer) => shown.field("peer", peer),
            Self::IHave { peer, seqno } | Self::Lost { peer, seqno } => {
                shown.field("peer", peer).field("seqno", &seqno.0)
            }
            Self::Open {
                source,
                destination,
                channel,
            } => shown
                .field("source", source)
                .field("destination", destination)
                .field("channel", channel),
            Self::OpenAck { channel, status } => {
                shown.field("channel", channel).field("status", status)
            }
            Self::Data { channel, bytes } => shown
                .field("channel", channel)
                .field("bytes_len", &bytes.len()),
            Self::Close { channel } => shown.field("channel", channel),
            Self::Forward {
                destination,
                message,
            }
            | Self::Reforward {
                destination,
                message,
            } => shown
                .field("destination", destination)
                .field("message_len", &message.len()),
            Self::Ping | Self::Pong => &mut shown,
            Self::Unknown(kind) => shown.field("type", kind),
        };
        shown.finish()
    }
}

/// Why a payload is not one of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It has another length than its type has.
    #[error("{} frame has a payload of {len} bytes", .kind.name())]
    WrongSize {
        /// Its type.
        kind: FrameType,
        /// The length of its payload, in bytes.
        len: usize,
    },
}

impl FrameError {
    /// Whether the stream ends with it: whoever gets a known type wrong has lost its place in the stream, or speaks another protocol.
    /// A reserved type is skipped, right or wrong.
    #[must_use]
    pub const fn ends_stream(&self) -> bool {
        match self {
            Self::WrongSize { kind, .. } => !kind.is_reserved(),
        }
    }
}

/// Reads one frame's payload. Never allocates, never panics.
///
/// # Errors
/// [`FrameError::WrongSize`]; [`FrameError::ends_stream`] says what that means.
#[inline]
pub fn parse(kind: u8, payload: &[u8]) -> Result<Frame<'_>, FrameError> {
    let Some(kind) = FrameType::from_byte(kind) else {
        return Ok(Frame::Unknown(kind));
    };
    let frame = match kind {
        FrameType::Hello => Some(Frame::Hello(payload)),
        FrameType::Ping => Some(Frame::Ping),
        FrameType::Pong => Some(Frame::Pong),
        FrameType::WhoHas => PeerId::from_slice(payload).map(Frame::WhoHas),
        FrameType::IHave => {
            peer_and_seqno(payload).map(|(peer, seqno)| Frame::IHave { peer, seqno })
        }
        FrameType::Lost => peer_and_seqno(payload).map(|(peer, seqno)| Frame::Lost { peer, seqno }),
        FrameType::Forward => split_peer(payload).map(|(destination, message)| Frame::Forward {
            destination,
            message,
        }),
        FrameType::Reforward => {
            split_peer(payload).map(|(destination, message)| Frame::Reforward {
                destination,
                message,
            })
        }
        FrameType::Open => open(payload),
        FrameType::OpenAck => match split_u32(payload) {
            Some((channel, &[status])) => Some(Frame::OpenAck { channel, status }),
            _ => None,
        },
        FrameType::Data => {
            split_u32(payload).map(|(channel, bytes)| Frame::Data { channel, bytes })
        }
        FrameType::Close => match split_u32(payload) {
            Some((channel, [])) => Some(Frame::Close { channel }),
            _ => None,
        },
    };
    frame.ok_or(FrameError::WrongSize {
        kind,
        len: payload.len(),
    })
}

fn split_peer(payload: &[u8]) -> Option<(PeerId, &[u8])> {
    let (peer, rest) = payload.split_first_chunk::<PEER_ID_LEN>()?;
    Some((PeerId::from_bytes(*peer), rest))
}

fn split_u32(payload: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = payload.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

fn peer_and_seqno(payload: &[u8]) -> Option<(PeerId, Seqno)> {
    let (peer, rest) = split_peer(payload)?;
    match split_u32(rest)? {
        (seqno, []) => Some((peer, Seqno(seqno))),
        _ => None,
    }
}

fn open(payload: &[u8]) -> Option<Frame<'_>> {
    let (source, rest) = split_peer(payload)?;
    let (destination, rest) = split_peer(rest)?;
    match split_u32(rest)? {
        (channel, []) => Some(Frame::Open {
            source,
            destination,
            channel,
        }),
        _ => None,
    }
}
