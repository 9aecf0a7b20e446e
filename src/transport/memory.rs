//! A transport within one process: for tests, and for a peer that lives beside the relay.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;

use super::{IntoTransport, MessageReader, MessageTransport, ReadError, TransportKind};
use crate::outbox::{Framing, Outbox, QueuePolicy, Taken};

/// The peer's end of an in-memory connection. Dropping it ends the connection.
#[derive(Debug)]
pub struct MemoryPeer {
    to_relay: mpsc::Sender<Vec<u8>>,
    from_relay: mpsc::Receiver<Vec<u8>>,
}

impl MemoryPeer {
    /// Sends one whole message; waits while the relay has `capacity` of them unread. False if the connection has ended.
    /// Cancel-safe: a cancelled send sends nothing.
    pub async fn send(&self, message: Vec<u8>) -> bool {
        self.to_relay.send(message).await.is_ok()
    }

    /// The next whole message, or none when the connection has ended. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Vec<u8>> {
        self.from_relay.recv().await
    }

    /// A message that has come already.
    pub fn try_recv(&mut self) -> Option<Vec<u8>> {
        self.from_relay.try_recv().ok()
    }
}

/// The relay's end of an in-memory connection.
#[derive(Debug)]
pub struct MemoryEnd {
    from_peer: mpsc::Receiver<Vec<u8>>,
    to_peer: mpsc::Sender<Vec<u8>>,
}

/// Two connected ends; `capacity` messages fit between them in each direction.
#[must_use]
pub fn pair(capacity: usize) -> (MemoryPeer, MemoryEnd) {
    let (to_relay, from_peer) = mpsc::channel(capacity);
    let (to_peer, from_relay) = mpsc::channel(capacity);
    (
        MemoryPeer {
            to_relay,
            from_relay,
        },
        MemoryEnd { from_peer, to_peer },
    )
}

impl IntoTransport for MemoryEnd {
    type Transport = MemoryTransport;

    fn into_transport(self, policy: &Arc<QueuePolicy>) -> MemoryTransport {
        MemoryTransport {
            reader: MemoryReader {
                from_peer: self.from_peer,
                message: None,
            },
            to_peer: self.to_peer,
            outbox: Outbox::new(Framing::Length, policy),
        }
    }
}

/// The message transport over the relay's end.
#[derive(Debug)]
pub struct MemoryTransport {
    reader: MemoryReader,
    to_peer: mpsc::Sender<Vec<u8>>,
    outbox: Arc<Outbox>,
}

/// Its receiving half.
#[derive(Debug)]
pub struct MemoryReader {
    from_peer: mpsc::Receiver<Vec<u8>>,
    message: Option<(Vec<u8>, bool)>,
}

impl MessageReader for MemoryReader {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        if matches!(self.message, Some((_, false))) {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.from_peer.poll_recv(cx)) {
            Some(message) => {
                self.message = Some((message, false));
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Err(ReadError::Ended)),
        }
    }

    fn next_message(&mut self, limit: usize) -> Result<Option<&mut [u8]>, ReadError> {
        match &mut self.message {
            Some((message, taken @ false)) => {
                *taken = true;
                if message.len() > limit {
                    return Err(ReadError::Violation {
                        what: "message longer than its limit",
                        answer: Vec::new(),
                    });
                }
                Ok(Some(message))
            }
            _ => Ok(None),
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while ready!(self.from_peer.poll_recv(cx)).is_some() {}
        Poll::Ready(())
    }
}

impl MessageTransport for MemoryTransport {
    type Reader = MemoryReader;

    fn kind(&self) -> TransportKind {
        TransportKind::Memory
    }

    fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    async fn first_message<R: Send>(
        &mut self,
        limit: usize,
        then: impl FnOnce(&[u8]) -> R + Send,
    ) -> Result<R, ReadError> {
        loop {
            if let Some(message) = self.reader.next_message(limit)? {
                return Ok(then(message));
            }
            poll_fn(|cx| self.reader.poll_fill(cx)).await?;
        }
    }

    async fn refuse(self, _farewell: &[u8]) {}

    fn split(self) -> (MemoryReader, impl Future<Output = ()> + Send + 'static) {
        (self.reader, write(self.outbox, self.to_peer))
    }
}

/// Hands the outbox's messages to the peer, one by one, as its channel has room.
async fn write(outbox: Arc<Outbox>, to_peer: mpsc::Sender<Vec<u8>>) {
    loop {
        let taken = poll_fn(|cx| outbox.poll_take(cx)).await;
        let bytes = match &taken {
            Taken::Control(bytes) => bytes,
            Taken::Data(slab) => slab.bytes(),
            Taken::Finished | Taken::Aborted => return,
        };
        let mut rest = bytes;
        while let [high, low, tail @ ..] = rest {
            let (message, tail) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            rest = tail;
            let sent = tokio::select! {
                sent = to_peer.send(message.to_vec()) => sent.is_ok(),
                () = poll_fn(|cx| outbox.poll_aborted(cx)) => false,
            };
            if !sent {
                return;
            }
        }
        if let Taken::Data(slab) = taken {
            slab.delivered();
        }
    }
}
