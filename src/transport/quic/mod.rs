//! QUIC as the message path needs it: one datagram is one message (RFC 9221), in both directions, and no stream is ever opened.
//!
//! quinn does the protocol, its keys and the socket; this room decides what enters its send buffer, which is small: what does
//! not fit waits in the outbox, where it ages and is counted. quinn would drop the oldest datagram of a full buffer without
//! a word, so nothing is given to it that has no room.
//!
//! Source: peer-protocol.md, *QUIC*.

mod config;
mod reader;
mod writer;

use std::future::poll_fn;
use std::sync::Arc;

use quinn::{Connection, VarInt};

pub use config::{ALPN, INITIAL_MTU, INITIAL_MTU_RANGE, client_config, server_config};
pub use reader::QuicReader;

use self::writer::QuicSocket;
use super::{IntoTransport, MessageReader, MessageTransport, ReadError, TransportKind};
use crate::outbox::{CONTROL_DATAGRAM_MAX, Framing, Outbox, QueuePolicy};

/// The code of every close from here, a normal one: clients that see another one count it as a failure.
const CLOSE_CODE: VarInt = VarInt::from_u32(0);

/// A QUIC connection, its handshake done, whose client takes datagrams that are large enough.
#[derive(Debug)]
pub struct QuicConnection(Connection);

impl QuicConnection {
    /// None for a client that did not say in its handshake that it takes datagrams, or not of the size of a presence notice:
    /// what must never be lost could not be sent to it.
    #[must_use]
    pub fn new(connection: Connection) -> Option<Self> {
        (connection.max_datagram_size()? >= CONTROL_DATAGRAM_MAX).then_some(Self(connection))
    }
}

impl IntoTransport for QuicConnection {
    type Transport = QuicTransport;

    fn into_transport(self, policy: &Arc<QueuePolicy>) -> QuicTransport {
        let outbox = Outbox::new(Framing::Datagram, policy);
        outbox.set_direct(Arc::new(QuicSocket(self.0.clone())));
        QuicTransport {
            reader: QuicReader::new(self.0.clone()),
            connection: self.0,
            outbox,
        }
    }
}

/// The server's side of a QUIC connection.
#[derive(Debug)]
pub struct QuicTransport {
    reader: QuicReader,
    connection: Connection,
    outbox: Arc<Outbox>,
}

impl MessageTransport for QuicTransport {
    type Reader = QuicReader;

    fn kind(&self) -> TransportKind {
        TransportKind::Quic
    }

    fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    async fn first_message<R: Send>(
        &mut self,
        limit: usize,
        then: impl FnOnce(&[u8]) -> R + Send,
    ) -> Result<R, ReadError> {
        poll_fn(|cx| self.reader.poll_fill(cx)).await?;
        match self.reader.next_message(limit)? {
            Some(message) => Ok(then(message)),
            None => Err(ReadError::Ended),
        }
    }

    async fn refuse(self, _farewell: &[u8]) {
        self.connection.close(CLOSE_CODE, &[]);
    }

    fn split(self) -> (QuicReader, impl Future<Output = ()> + Send + 'static) {
        (
            self.reader,
            writer::run(QuicSocket(self.connection), self.outbox),
        )
    }
}
