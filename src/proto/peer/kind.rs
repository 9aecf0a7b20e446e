//! The message types and what holds for each of them.

use super::error::MessageError;
use crate::proto::limits::{AUTH_MAX, AUTH_RESPONSE_MAX, MESSAGE_MAX};

/// The second byte of a message (peer-protocol.md, *Message types*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum MessageType {
    /// The removed handshake of old clients. Its number stays reserved; it is refused by name.
    Hello = 1,
    /// The answer to it; never sent.
    HelloResponse = 2,
    /// A payload for another peer, or from one.
    Transport = 3,
    /// The receiver is to close the connection.
    Close = 4,
    /// The relay asks, the client echoes.
    HealthCheck = 5,
    /// The client's first message.
    Auth = 6,
    /// The relay's answer to it.
    AuthResponse = 7,
    /// The client wants to be told of these peers.
    Subscribe = 8,
    /// The client no longer wants to be told of these peers.
    Unsubscribe = 9,
    /// The relay says that these peers are online.
    PeersOnline = 10,
    /// The relay says that these peers went offline.
    PeersOffline = 11,
}

impl MessageType {
    /// Every type, in the order of the numbers.
    pub const ALL: [Self; 11] = [
        Self::Hello,
        Self::HelloResponse,
        Self::Transport,
        Self::Close,
        Self::HealthCheck,
        Self::Auth,
        Self::AuthResponse,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::PeersOnline,
        Self::PeersOffline,
    ];

    /// The word for it in metric labels and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::HelloResponse => "hello_response",
            Self::Transport => "transport",
            Self::Close => "close",
            Self::HealthCheck => "health_check",
            Self::Auth => "auth",
            Self::AuthResponse => "auth_response",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::PeersOnline => "peers_online",
            Self::PeersOffline => "peers_offline",
        }
    }

    /// Its place in [`ALL`](Self::ALL), from 0: for arrays of counters.
    pub const fn index(self) -> usize {
        self as usize - 1
    }

    /// The longest message of this type, in bytes with its header (peer-protocol.md, *Sizes*).
    pub const fn max_len(self) -> usize {
        match self {
            Self::Auth => AUTH_MAX,
            Self::AuthResponse => AUTH_RESPONSE_MAX,
            Self::Hello
            | Self::HelloResponse
            | Self::Transport
            | Self::Close
            | Self::HealthCheck
            | Self::Subscribe
            | Self::Unsubscribe
            | Self::PeersOnline
            | Self::PeersOffline => MESSAGE_MAX,
        }
    }

    /// Whether a client ever sends it. To the Go relays the others are unknown types that end the connection, even
    /// when they are well formed.
    pub const fn is_sent_by_clients(self) -> bool {
        match self {
            Self::Hello
            | Self::Transport
            | Self::Close
            | Self::HealthCheck
            | Self::Auth
            | Self::Subscribe
            | Self::Unsubscribe => true,
            Self::HelloResponse | Self::AuthResponse | Self::PeersOnline | Self::PeersOffline => {
                false
            }
        }
    }

    /// Whether the body is a list of peer IDs.
    pub const fn is_peer_state(self) -> bool {
        matches!(
            self,
            Self::Subscribe | Self::Unsubscribe | Self::PeersOnline | Self::PeersOffline
        )
    }
}

impl TryFrom<u8> for MessageType {
    type Error = MessageError;

    fn try_from(byte: u8) -> Result<Self, MessageError> {
        // A table instead of a match: the numbers are then written once, in the enum.
        let index = usize::from(byte).checked_sub(1);
        index
            .and_then(|index| Self::ALL.get(index))
            .copied()
            .ok_or(MessageError::UnknownType(byte))
    }
}
