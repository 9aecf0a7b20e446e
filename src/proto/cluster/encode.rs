//! Writing: whole frames, header included.

use super::kind::FrameType;
use super::{FRAME_HEADER_LEN, FRAME_PAYLOAD_MAX, Seqno};
use crate::proto::PeerId;
use crate::proto::limits::PEER_ID_LEN;

/// The whole PING frame.
pub const PING: [u8; FRAME_HEADER_LEN] = [FrameType::Ping as u8, 0, 0];

/// The whole PONG frame.
pub const PONG: [u8; FRAME_HEADER_LEN] = [FrameType::Pong as u8, 0, 0];

/// Frame header and destination: what stands before the message in a FWD or REFWD.
pub const FORWARD_HEAD_LEN: usize = FRAME_HEADER_LEN + PEER_ID_LEN;

const WHO_HAS_LEN: usize = FRAME_HEADER_LEN + PEER_ID_LEN;
const I_HAVE_LEN: usize = WHO_HAS_LEN + size_of::<u32>();

/// Puts the parts one behind the other. They are what a frame of `LEN` bytes consists of.
const fn join<const LEN: usize>(kind: FrameType, parts: &[&[u8]]) -> [u8; LEN] {
    let mut frame = [0; LEN];
    let [high, low] = ((LEN - FRAME_HEADER_LEN) as u16).to_be_bytes();
    (frame[0], frame[1], frame[2]) = (kind as u8, high, low);
    let (mut at, mut part) = (FRAME_HEADER_LEN, 0);
    while part < parts.len() {
        let mut byte = 0;
        while byte < parts[part].len() {
            frame[at] = parts[part][byte];
            at += 1;
            byte += 1;
        }
        part += 1;
    }
    frame
}

/// A WHO_HAS frame.
#[must_use]
pub const fn encode_who_has(peer: &PeerId) -> [u8; WHO_HAS_LEN] {
    join(FrameType::WhoHas, &[peer.as_bytes()])
}

/// An I_HAVE frame.
#[must_use]
pub const fn encode_i_have(peer: &PeerId, seqno: Seqno) -> [u8; I_HAVE_LEN] {
    join(FrameType::IHave, &[peer.as_bytes(), &seqno.0.to_be_bytes()])
}

/// A LOST frame.
#[must_use]
pub const fn encode_lost(peer: &PeerId, seqno: Seqno) -> [u8; I_HAVE_LEN] {
    join(FrameType::Lost, &[peer.as_bytes(), &seqno.0.to_be_bytes()])
}

/// What stands before a message of `message_len` bytes in a frame of type `kind`, FWD or REFWD. None if it would be too long
/// for a frame; no transport message is.
#[inline]
#[must_use]
pub fn forward_head(
    kind: FrameType,
    destination: &PeerId,
    message_len: usize,
) -> Option<[u8; FORWARD_HEAD_LEN]> {
    debug_assert!(
        matches!(kind, FrameType::Forward | FrameType::Reforward),
        "a {} frame carries no message",
        kind.name()
    );
    let [high, low] = u16::try_from(PEER_ID_LEN + message_len).ok()?.to_be_bytes();
    let mut head = [0; FORWARD_HEAD_LEN];
    head[..FRAME_HEADER_LEN].copy_from_slice(&[kind as u8, high, low]);
    head[FRAME_HEADER_LEN..].copy_from_slice(destination.as_bytes());
    Some(head)
}

/// A whole FWD or REFWD frame. None if the message is too long for a frame.
#[must_use]
pub fn encode_forward(kind: FrameType, destination: &PeerId, message: &[u8]) -> Option<Vec<u8>> {
    let head = forward_head(kind, destination, message.len())?;
    Some([head.as_slice(), message].concat())
}

/// An OPEN frame. Reserved: nothing sends it.
#[must_use]
pub const fn encode_open(
    source: &PeerId,
    destination: &PeerId,
    channel: u32,
) -> [u8; FRAME_HEADER_LEN + 2 * PEER_ID_LEN + 4] {
    let channel = channel.to_be_bytes();
    join(
        FrameType::Open,
        &[source.as_bytes(), destination.as_bytes(), &channel],
    )
}

/// An OPEN_ACK frame. Reserved: nothing sends it.
#[must_use]
pub const fn encode_open_ack(channel: u32, status: u8) -> [u8; FRAME_HEADER_LEN + 5] {
    join(FrameType::OpenAck, &[&channel.to_be_bytes(), &[status]])
}

/// A DATA frame; none if the bytes are too many for one. Reserved: nothing sends it.
#[must_use]
pub fn encode_data(channel: u32, bytes: &[u8]) -> Option<Vec<u8>> {
    encode(FrameType::Data, &[&channel.to_be_bytes(), bytes])
}

/// A CLOSE frame. Reserved: nothing sends it.
#[must_use]
pub const fn encode_close(channel: u32) -> [u8; FRAME_HEADER_LEN + 4] {
    join(FrameType::Close, &[&channel.to_be_bytes()])
}

/// A frame whose payload consists of these parts; none if it would be longer than a frame can be.
#[must_use]
pub(super) fn encode(kind: FrameType, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    if len > FRAME_PAYLOAD_MAX {
        return None;
    }
    let [high, low] = (len as u16).to_be_bytes();
    let mut frame = Vec::with_capacity(FRAME_HEADER_LEN + len);
    frame.extend_from_slice(&[kind as u8, high, low]);
    for part in parts {
        frame.extend_from_slice(part);
    }
    Some(frame)
}
