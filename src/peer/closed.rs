//! How a connected peer's connection ended.

use std::time::Duration;

use crate::proto::PeerId;
use crate::proto::peer::{MessageError, MessageType};
use crate::routing::EndReason;
use crate::transport::ReadError;

/// Why a connected peer's loop ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer sent *close*.
    ClosedByPeer,
    /// The connection ended, or broke its transport's rules.
    Read(ReadError),
    /// The peer sent what is no message.
    Message(MessageError),
    /// The peer sent a message that only relays send.
    NotForRelays(MessageType),
    /// The peer did not answer health checks.
    HealthCheck,
    /// It was ended from outside: a takeover, a shutdown.
    Ended(EndReason),
}

impl CloseReason {
    /// The reason in logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ClosedByPeer => "closed_by_peer",
            Self::Read(error) => error.reason(),
            Self::Message(error) => error.reason(),
            Self::NotForRelays(_) => "unknown_type",
            Self::HealthCheck => "health_check",
            Self::Ended(reason) => reason.reason(),
        }
    }
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClosedByPeer => f.write_str("closed by the peer"),
            Self::Read(error) => error.fmt(f),
            Self::Message(error) => error.fmt(f),
            Self::NotForRelays(kind) => write!(f, "{} message sent by a peer", kind.name()),
            Self::HealthCheck => f.write_str("health checks not answered"),
            Self::Ended(EndReason::TakenOver) => {
                f.write_str("taken over by a newer connection of the same peer")
            }
            Self::Ended(EndReason::Shutdown) => f.write_str("relay shuts down"),
            Self::Ended(EndReason::WriterEnded) => {
                f.write_str("nothing can be sent to the peer any more")
            }
            Self::Ended(EndReason::Requested | EndReason::Aborted) => {
                f.write_str("closed on request")
            }
        }
    }
}

/// How a connected peer's connection went.
#[derive(Debug)]
pub struct Closed {
    /// Whose connection it was.
    pub peer: PeerId,
    /// Why it ended.
    pub reason: CloseReason,
    /// How long the peer was connected.
    pub lasted: Duration,
}
