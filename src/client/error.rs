//! What can go wrong for a client.

use std::io;

use tower::BoxError;

use crate::proto::peer::{EncodeError, MessageError};

/// Why a client could not connect, or could not send.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The relay's address is no `host:port`, or its path no path.
    #[error("{0:?} is not a relay's address: give host:port, rel://host:port or ws://host:port")]
    Address(String),
    /// The address asks for TLS.
    #[error("{0:?} asks for TLS, which this client does not speak")]
    Tls(String),
    /// Nothing listens there, or it cannot be reached.
    #[error("cannot reach the relay: {0}")]
    Connect(#[source] io::Error),
    /// What listens there answered with something other than an upgrade; 404 most likely means another path.
    #[error("no WebSocket upgrade: the server answered with status {status}")]
    Upgrade {
        /// The HTTP status of its answer.
        status: u16,
    },
    /// The upgrade failed below HTTP, or the connection did right after it.
    #[error("WebSocket: {0}")]
    WebSocket(#[source] BoxError),
    /// The relay ended the connection in place of an answer. It does so with a token that it does not take, when it is
    /// overloaded, and when it shuts down; it never says which (its log does).
    #[error(
        "relay closed the connection without an answer: token refused, or the relay is stopping"
    )]
    Refused,
    /// What came in place of the answer is no auth response.
    #[error("relay answered auth with something else")]
    Answer(#[source] Option<MessageError>),
    /// Connecting took longer than [`CONNECT_TIMEOUT`](super::CONNECT_TIMEOUT).
    #[error("relay did not answer within 10 s")]
    TimedOut,
    /// A payload or a token that does not fit into one message.
    #[error(transparent)]
    TooLong(#[from] EncodeError),
    /// The connection has ended, so nothing can be sent any more.
    #[error("connection has ended")]
    Closed,
}

impl ClientError {
    /// Whether the same call may succeed later without anything being changed.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Connect(_) | Self::TimedOut | Self::Refused | Self::WebSocket(_) => true,
            Self::Upgrade { status } => *status >= 500,
            Self::Address(_) | Self::Tls(_) | Self::Answer(_) | Self::TooLong(_) | Self::Closed => {
                false
            }
        }
    }
}
