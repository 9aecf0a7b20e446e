//! Writing: messages from their parts, and the one change a relay makes to a message that passes.

use super::kind::MessageType;
use crate::proto::PeerId;
use crate::proto::limits::{
    AUTH_HEADER_LEN, AUTH_MAGIC, HEADER_LEN, PEER_ID_LEN, PEER_STATE_IDS_MAX, PROTOCOL_VERSION,
    TRANSPORT_HEADER_LEN,
};

/// The whole health check message: what the relay sends, and what the client answers.
pub const HEALTH_CHECK: [u8; HEADER_LEN] = header(MessageType::HealthCheck);

/// The whole close message.
pub const CLOSE: [u8; HEADER_LEN] = header(MessageType::Close);

const fn header(kind: MessageType) -> [u8; HEADER_LEN] {
    [PROTOCOL_VERSION, kind as u8]
}

/// Why a message cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// It would be longer than its type allows; a receiver would refuse or cut it.
    #[error("{} message of {len} bytes would be longer than {limit}", .kind.name())]
    TooLong {
        /// Its type.
        kind: MessageType,
        /// How long it would be, in bytes.
        len: usize,
        /// The longest one of its type, in bytes.
        limit: usize,
    },
}

fn check_len(kind: MessageType, len: usize) -> Result<(), EncodeError> {
    let limit = kind.max_len();
    if len > limit {
        Err(EncodeError::TooLong { kind, len, limit })
    } else {
        Ok(())
    }
}

/// An auth message: header, magic `21 12 A4 42`, the peer's ID, the token as it is.
///
/// # Errors
/// [`EncodeError::TooLong`] above 212 bytes in all: a token of more than 170.
pub fn encode_auth(peer: &PeerId, token: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let len = AUTH_HEADER_LEN + token.len();
    check_len(MessageType::Auth, len)?;
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(&header(MessageType::Auth));
    message.extend_from_slice(&AUTH_MAGIC);
    message.extend_from_slice(peer.as_bytes());
    message.extend_from_slice(token);
    Ok(message)
}

/// An auth response: header, then the instance URL. An empty one can be written, but no client takes it.
///
/// # Errors
/// [`EncodeError::TooLong`] above 8192 bytes in all.
pub fn encode_auth_response(url: &str) -> Result<Vec<u8>, EncodeError> {
    let len = HEADER_LEN + url.len();
    check_len(MessageType::AuthResponse, len)?;
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(&header(MessageType::AuthResponse));
    message.extend_from_slice(url.as_bytes());
    Ok(message)
}

/// Appends a transport message to `out`: header, the peer's ID (a client writes the destination), the payload.
///
/// # Errors
/// [`EncodeError::TooLong`] above 8820 bytes in all, a payload of more than 8782; `out` is then as it was.
pub fn encode_transport(
    peer: &PeerId,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let len = TRANSPORT_HEADER_LEN + payload.len();
    check_len(MessageType::Transport, len)?;
    out.reserve(len);
    out.extend_from_slice(&header(MessageType::Transport));
    out.extend_from_slice(peer.as_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// The messages that carry these IDs in their order, 244 at most in each. No ID: no message, as the relay has nothing
/// to say then.
///
/// `kind` must be one of the four types that carry IDs.
pub fn encode_peer_ids(kind: MessageType, ids: &[PeerId]) -> impl Iterator<Item = Vec<u8>> {
    debug_assert!(
        kind.is_peer_state(),
        "a {} message carries no list of peers",
        kind.name()
    );
    ids.chunks(PEER_STATE_IDS_MAX).map(move |ids| {
        let mut message = Vec::with_capacity(HEADER_LEN + ids.len() * PEER_ID_LEN);
        message.extend_from_slice(&header(kind));
        for id in ids {
            message.extend_from_slice(id.as_bytes());
        }
        message
    })
}

/// Overwrites the ID in a transport message with the sender's own: what turns a message to a peer into one from a
/// peer. Whoever calls it has read the destination from the same bytes, so they are there; a shorter message is left
/// as it is.
pub fn stamp_source(message: &mut [u8], source: &PeerId) {
    debug_assert!(
        message.len() >= TRANSPORT_HEADER_LEN,
        "a message without an ID has no destination either"
    );
    if let Some(id) = message.get_mut(HEADER_LEN..TRANSPORT_HEADER_LEN) {
        id.copy_from_slice(source.as_bytes());
    }
}
