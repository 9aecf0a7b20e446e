//! Why a connection never became a peer.

use tower::BoxError;
use tower::timeout::error::Elapsed;

use crate::auth::AuthError;
use crate::proto::PeerId;
use crate::proto::peer::{MessageError, MessageType};
use crate::stack::drain::Draining;
use crate::transport::ReadError;

/// Why a connection never became a peer. Except for a broken transport rule, the connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// It did not authenticate in time.
    #[error("not authenticated within 10 s")]
    TimedOut,
    /// Too many handshakes are going on, in all or of its address.
    #[error("too many handshakes at once")]
    Overloaded,
    /// There is too little memory for one more peer.
    #[error("too little memory left for one more peer")]
    NoMemory,
    /// The relay shuts down.
    #[error("relay is shutting down")]
    Draining,
    /// Nothing could be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The first message was none.
    #[error("first message: {0}")]
    Message(#[from] MessageError),
    /// The first message was not *auth*.
    #[error("first message is {}, expected auth", .0.name())]
    NotAuth(MessageType),
    /// The first message was the handshake of long ago.
    #[error("legacy hello handshake, which is no longer supported: the client must be updated")]
    LegacyHello,
    /// NetBird's own prober, which never has a valid token.
    #[error("health-check probe")]
    Probe,
    /// The validator refused it.
    #[error("{error}")]
    Refused {
        /// Who it says it is.
        peer: PeerId,
        /// Why.
        error: AuthError,
    },
    /// A layer failed that should not.
    #[error("internal error: {0}")]
    Internal(BoxError),
}

impl HandshakeError {
    /// Folds what comes out of the tower stack.
    pub(super) fn fold(error: BoxError) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(own) => return *own,
            Err(other) => other,
        };
        if error.is::<Elapsed>() {
            Self::TimedOut
        } else if error.is::<Draining>() {
            Self::Draining
        } else {
            Self::Internal(error)
        }
    }

    /// The reason in logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TimedOut => "timeout",
            Self::Overloaded => "overloaded",
            Self::NoMemory => "no_memory",
            Self::Draining => "draining",
            Self::Read(error) => error.reason(),
            Self::Message(error) => error.reason(),
            Self::NotAuth(_) => "not_auth",
            Self::LegacyHello => "legacy_hello",
            Self::Probe => "probe",
            Self::Refused { error, .. } => error.reason(),
            Self::Internal(_) => "internal",
        }
    }
}
