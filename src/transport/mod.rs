//! Message transports: how whole messages get in and out of a connection, whatever carries it.
//!
//! Owns WebSocket framing, QUIC datagrams, the in-memory transport and the client's address; knows nothing of what a message says.

pub mod memory;
mod peek;
pub mod quic;
mod remote;
pub mod tls;
pub mod ws;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

pub(crate) use peek::peek_beyond;
pub use remote::RemoteAddr;

use crate::outbox::{Outbox, QueuePolicy};

/// What carries a connection; the label `transport` of `relay_peers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum TransportKind {
    /// A WebSocket on TCP.
    WebSocket,
    /// A pair of queues in this process.
    Memory,
    /// Datagrams of a QUIC connection on UDP.
    Quic,
}

impl TransportKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::WebSocket, Self::Memory, Self::Quic];

    /// The metric label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::Memory => "memory",
            Self::Quic => "quic",
        }
    }
}

/// Why nothing more can be read from a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The other side ended the connection without a word.
    #[error("connection ended by the peer")]
    Ended,
    /// The other side ended the connection as its transport prescribes.
    #[error("connection closed by the peer{}", code.map(|code| format!(" with code {code}")).unwrap_or_default())]
    Closed {
        /// The close code, if it gave one.
        code: Option<u16>,
        /// What answers it, as raw bytes.
        answer: Vec<u8>,
    },
    /// The other side broke the transport's rules.
    #[error("{what}")]
    Violation {
        /// Which rule was broken, in a few words.
        what: &'static str,
        /// What tells it so, as raw bytes.
        answer: Vec<u8>,
    },
    /// The socket failed.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
}

impl ReadError {
    /// The raw bytes that end the connection politely; empty if there is nothing to say.
    #[must_use]
    pub fn farewell(&self) -> &[u8] {
        match self {
            Self::Closed { answer, .. } | Self::Violation { answer, .. } => answer,
            Self::Ended | Self::Io(_) => &[],
        }
    }

    /// The reason in logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Ended | Self::Closed { .. } => "peer_closed",
            Self::Violation { .. } => "protocol_violation",
            Self::Io(_) => "connection_lost",
        }
    }
}

/// The receiving half of a connection: batches of bytes in, whole messages out.
///
/// Call [`poll_fill`](Self::poll_fill) until it is ready, then [`next_message`](Self::next_message) until it yields none.
pub trait MessageReader: Send + Unpin + 'static {
    /// Reads what the connection has. The only wait per batch; cancel-safe.
    ///
    /// # Errors
    /// When nothing more can ever be read.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReadError>>;

    /// The next whole message of the batch, which may be changed in place; never waits. None: fill again.
    ///
    /// # Errors
    /// When the other side ended the connection or broke the transport's rules, e.g. with a message of more than `limit` bytes.
    fn next_message(&mut self, limit: usize) -> Result<Option<&mut [u8]>, ReadError>;

    /// Whether the last fill found so much that there is likely more: a fair reader yields before it fills again.
    fn is_full(&self) -> bool {
        false
    }

    /// How many whole messages came and were dropped before they could be read, since it was last asked. To be asked when there
    /// is nothing more to read.
    fn take_lost(&mut self) -> u64 {
        0
    }

    /// Reads and throws away what still comes, until the other side ends the connection. Closing a TCP socket that holds unread
    /// bytes resets it, and the reset may overtake the last words.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Gives back whatever memory a quiet connection does not need.
    fn release(&mut self) {}
}

/// A connection that carries whole messages, before it is split between its reader and its writer.
pub trait MessageTransport: Send + Sized + 'static {
    /// The receiving half.
    type Reader: MessageReader;

    /// What carries it.
    fn kind(&self) -> TransportKind;

    /// The queue of what is to be sent.
    fn outbox(&self) -> &Arc<Outbox>;

    /// Waits for one message of at most `limit` bytes and hands it to `then`. Answers the transport's own control messages
    /// meanwhile. Not cancel-safe: a cancelled handshake ends the connection.
    ///
    /// # Errors
    /// As [`MessageReader`].
    fn first_message<R: Send>(
        &mut self,
        limit: usize,
        then: impl FnOnce(&[u8]) -> R + Send,
    ) -> impl Future<Output = Result<R, ReadError>> + Send;

    /// Ends a connection that was never split, with raw bytes as the last word. Best effort.
    fn refuse(self, farewell: &[u8]) -> impl Future<Output = ()> + Send;

    /// The reader, and the future that writes the outbox out until it is finished or aborted.
    fn split(self) -> (Self::Reader, impl Future<Output = ()> + Send + 'static);
}

/// Makes a transport over something once the queue policy of a relay is known.
pub trait IntoTransport: Send + 'static {
    /// The transport.
    type Transport: MessageTransport;
    /// Wraps it.
    fn into_transport(self, policy: &Arc<QueuePolicy>) -> Self::Transport;
}
