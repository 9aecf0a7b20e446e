//! Reading: the view of a message, and how the bytes become one.

use std::fmt;
use std::iter::FusedIterator;
use std::slice;

use super::error::MessageError;
use super::kind::MessageType;
use crate::proto::PeerId;
use crate::proto::limits::{
    AUTH_HEADER_LEN, AUTH_MAGIC, HEADER_LEN, PEER_ID_LEN, PROTOCOL_VERSION, TRANSPORT_HEADER_LEN,
};

/// One message, as a view into its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// The removed handshake; its body is not looked at.
    Hello,
    /// The answer to it; its body is not looked at.
    HelloResponse,
    /// A payload for a peer (from a client) or from one (from a relay).
    Transport {
        /// Client to relay: the destination. Relay to client: the source.
        peer: PeerId,
        /// Opaque; may be empty.
        payload: &'a [u8],
    },
    /// Close the connection. A body, if any, means nothing.
    Close,
    /// Health check, or the answer to it. A body, if any, means nothing.
    HealthCheck,
    /// Who the client is, and the proof.
    Auth(AuthMessage<'a>),
    /// The relay's instance URL; never empty.
    AuthResponse(&'a str),
    /// Tell me of these peers.
    Subscribe(PeerIds<'a>),
    /// Tell me no more of these peers.
    Unsubscribe(PeerIds<'a>),
    /// These peers are online.
    PeersOnline(PeerIds<'a>),
    /// These peers went offline.
    PeersOffline(PeerIds<'a>),
}

impl Message<'_> {
    /// Its type.
    pub const fn message_type(&self) -> MessageType {
        match self {
            Self::Hello => MessageType::Hello,
            Self::HelloResponse => MessageType::HelloResponse,
            Self::Transport { .. } => MessageType::Transport,
            Self::Close => MessageType::Close,
            Self::HealthCheck => MessageType::HealthCheck,
            Self::Auth(_) => MessageType::Auth,
            Self::AuthResponse(_) => MessageType::AuthResponse,
            Self::Subscribe(_) => MessageType::Subscribe,
            Self::Unsubscribe(_) => MessageType::Unsubscribe,
            Self::PeersOnline(_) => MessageType::PeersOnline,
            Self::PeersOffline(_) => MessageType::PeersOffline,
        }
    }
}

/// Shows lengths in place of payloads, and nothing of a token.
impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.message_type().name();
        match self {
            Self::Hello | Self::HelloResponse | Self::Close | Self::HealthCheck => {
                f.write_str(name)
            }
            Self::Transport { peer, payload } => f
                .debug_struct(name)
                .field("peer", peer)
                .field("payload_len", &payload.len())
                .finish(),
            Self::Auth(auth) => f.debug_tuple(name).field(auth).finish(),
            Self::AuthResponse(url) => f.debug_tuple(name).field(url).finish(),
            Self::Subscribe(ids)
            | Self::Unsubscribe(ids)
            | Self::PeersOnline(ids)
            | Self::PeersOffline(ids) => f.debug_tuple(name).field(ids).finish(),
        }
    }
}

/// The body of an auth message. `Debug` shows the peer only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuthMessage<'a> {
    /// Who the client says it is. Nothing in the token proves it.
    pub peer: PeerId,
    /// The token, unread: 0 to 170 bytes.
    pub token: &'a [u8],
}

impl fmt::Debug for AuthMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthMessage")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// The IDs of a peer-state message, in their order; there may be none, and one may come twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PeerIds<'a>(&'a [[u8; PEER_ID_LEN]]);

impl<'a> PeerIds<'a> {
    fn new(body: &'a [u8]) -> Result<Self, MessageError> {
        match body.as_chunks() {
            (ids, []) => Ok(Self(ids)),
            _ => Err(MessageError::PeerIdList { len: body.len() }),
        }
    }

    /// How many there are: 244 at most in a message of the right size.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One after the other.
    pub fn iter(&self) -> PeerIdsIter<'a> {
        PeerIdsIter(self.0.iter())
    }
}

impl fmt::Debug for PeerIds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for PeerIds<'a> {
    type Item = PeerId;
    type IntoIter = PeerIdsIter<'a>;

    fn into_iter(self) -> PeerIdsIter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &PeerIds<'a> {
    type Item = PeerId;
    type IntoIter = PeerIdsIter<'a>;

    fn into_iter(self) -> PeerIdsIter<'a> {
        self.iter()
    }
}

/// Iterator over [`PeerIds`].
#[derive(Clone, Debug)]
pub struct PeerIdsIter<'a>(slice::Iter<'a, [u8; PEER_ID_LEN]>);

impl Iterator for PeerIdsIter<'_> {
    type Item = PeerId;

    fn next(&mut self) -> Option<PeerId> {
        self.0.next().copied().map(PeerId::from_bytes)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for PeerIdsIter<'_> {}
impl FusedIterator for PeerIdsIter<'_> {}

/// Reads the two bytes of the header and no more: not the length, not the body.
///
/// # Errors
/// [`Empty`](MessageError::Empty), [`Truncated`](MessageError::Truncated), [`Version`](MessageError::Version),
/// [`UnknownType`](MessageError::UnknownType), looked for in this order. Each of them ends the connection.
pub fn message_type(message: &[u8]) -> Result<MessageType, MessageError> {
    match *message {
        [] => Err(MessageError::Empty),
        [_] => Err(MessageError::Truncated),
        [PROTOCOL_VERSION, kind, ..] => MessageType::try_from(kind),
        [version, ..] => Err(MessageError::Version(version)),
    }
}

/// The ID in a transport message, bytes 2 to 38; `None` when the message is shorter. The type is not looked at.
pub fn transport_peer(message: &[u8]) -> Option<PeerId> {
    PeerId::from_slice(message.get(HEADER_LEN..TRANSPORT_HEADER_LEN)?)
}

/// Reads one whole message: header, length, then the body by its type. Never allocates, never panics.
///
/// # Errors
/// Those of [`message_type`], then [`TooLong`](MessageError::TooLong), then what is wrong with the body.
/// [`MessageError::ends_connection`] says what the error means for the connection.
pub fn parse(message: &[u8]) -> Result<Message<'_>, MessageError> {
    let kind = message_type(message)?;
    let (len, limit) = (message.len(), kind.max_len());
    if len > limit {
        return Err(MessageError::TooLong { len, limit });
    }
    let body = &message[HEADER_LEN..];
    Ok(match kind {
        MessageType::Hello => Message::Hello,
        MessageType::HelloResponse => Message::HelloResponse,
        MessageType::Close => Message::Close,
        MessageType::HealthCheck => Message::HealthCheck,
        MessageType::Transport => {
            let peer = transport_peer(message).ok_or(MessageError::TransportTooShort { len })?;
            Message::Transport {
                peer,
                payload: &message[TRANSPORT_HEADER_LEN..],
            }
        }
        MessageType::Auth => Message::Auth(parse_auth(message)?),
        MessageType::AuthResponse => match str::from_utf8(body) {
            Ok("") => return Err(MessageError::AuthResponseEmpty),
            Ok(url) => Message::AuthResponse(url),
            Err(_) => return Err(MessageError::AuthResponseNotUtf8),
        },
        MessageType::Subscribe => Message::Subscribe(PeerIds::new(body)?),
        MessageType::Unsubscribe => Message::Unsubscribe(PeerIds::new(body)?),
        MessageType::PeersOnline => Message::PeersOnline(PeerIds::new(body)?),
        MessageType::PeersOffline => Message::PeersOffline(PeerIds::new(body)?),
    })
}

/// Reads an auth message whose header and length are known to be right. Length comes before magic, as in the
/// reference.
fn parse_auth(message: &[u8]) -> Result<AuthMessage<'_>, MessageError> {
    let (head, token) = message
        .split_at_checked(AUTH_HEADER_LEN)
        .ok_or(MessageError::AuthTooShort { len: message.len() })?;
    let (magic, id) = head[HEADER_LEN..].split_at(AUTH_MAGIC.len());
    if magic != AUTH_MAGIC {
        return Err(MessageError::AuthMagic);
    }
    let peer = PeerId::from_slice(id).expect("an auth header ends with exactly one peer ID");
    Ok(AuthMessage { peer, token })
}
