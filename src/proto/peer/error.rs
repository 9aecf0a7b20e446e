//! What can be wrong with a message.

use crate::proto::limits::{AUTH_HEADER_LEN, PEER_ID_LEN, PROTOCOL_VERSION, TRANSPORT_HEADER_LEN};

/// Why the bytes are not a message. All lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// There are no bytes.
    #[error("message is empty")]
    Empty,
    /// There is one byte: a version without a type.
    #[error("message ends inside its header")]
    Truncated,
    /// The first byte is not the version this relay speaks.
    #[error("protocol version {0} is not supported (only {PROTOCOL_VERSION})")]
    Version(u8),
    /// The second byte is not a message type.
    #[error("message type {0} is unknown")]
    UnknownType(u8),
    /// The message is longer than its type allows. No part of it may be delivered.
    #[error("message of {len} bytes is longer than the {limit} its type allows")]
    TooLong {
        /// Its length.
        len: usize,
        /// The longest one of its type.
        limit: usize,
    },
    /// A transport message that ends inside the peer ID. The connection lives.
    #[error("transport message of {len} bytes is shorter than {TRANSPORT_HEADER_LEN}")]
    TransportTooShort {
        /// Its length.
        len: usize,
    },
    /// A peer-state message whose body is not a whole number of IDs. The connection lives.
    #[error("peer list of {len} bytes is not a multiple of {PEER_ID_LEN}")]
    PeerIdList {
        /// The length of the body.
        len: usize,
    },
    /// An auth message that ends inside magic or peer ID.
    #[error("auth message of {len} bytes is shorter than {AUTH_HEADER_LEN}")]
    AuthTooShort {
        /// Its length.
        len: usize,
    },
    /// An auth message whose magic is another.
    #[error("auth message has a wrong magic")]
    AuthMagic,
    /// An auth response without a URL. Stock clients refuse it.
    #[error("auth response holds no url")]
    AuthResponseEmpty,
    /// An auth response whose URL is not UTF-8.
    #[error("auth response is not utf-8")]
    AuthResponseNotUtf8,
}

impl MessageError {
    /// The word under which it is counted and logged.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Truncated => "truncated",
            Self::Version(_) => "version",
            Self::UnknownType(_) => "unknown_type",
            Self::TooLong { .. } => "too_long",
            Self::TransportTooShort { .. } => "transport_too_short",
            Self::PeerIdList { .. } => "peer_id_list",
            Self::AuthTooShort { .. } => "auth_too_short",
            Self::AuthMagic => "auth_magic",
            Self::AuthResponseEmpty => "auth_response_empty",
            Self::AuthResponseNotUtf8 => "auth_response_not_utf8",
        }
    }

    /// Whether the connection ends with it. If not, the message is dropped and counted, and that is all
    /// (peer-protocol.md, *Sizes*).
    pub const fn ends_connection(&self) -> bool {
        !matches!(
            self,
            Self::TransportTooShort { .. } | Self::PeerIdList { .. }
        )
    }
}
