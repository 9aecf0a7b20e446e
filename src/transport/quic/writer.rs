//! The sending half: cuts slabs into datagrams, and gives quinn no more of them than its buffer has room for.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, SendDatagramError};

use super::CLOSE_CODE;
use super::config::SEND_BUFFER;
use crate::outbox::{Outbox, Slab, Taken, TryWrite};
use crate::telemetry::counters::DropReason;

/// The sending half of a connection, shared between the writer and the producers that find it idle.
#[derive(Debug)]
pub(super) struct QuicSocket(pub(super) Connection);

/// What quinn counts for a datagram besides its bytes.
const OVERHEAD: usize = size_of::<Bytes>();

/// How often it is looked whether quinn has sent everything.
const LOOK_MIN: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(50);

/// The connection can take nothing any more.
struct Ended;

/// What became of one message.
enum Sent {
    /// quinn has it.
    Queued,
    /// It is larger than a datagram on this path can be at present.
    TooLarge,
    /// There is no room for it before others have left.
    Full,
}

/// How much quinn takes. Only one thread pushes at any time, and meanwhile the room can but grow.
struct Room {
    bytes: usize,
    largest: usize,
}

impl QuicSocket {
    fn room(&self) -> Room {
        Room {
            bytes: self.0.datagram_send_buffer_space(),
            largest: self.0.max_datagram_size().unwrap_or(0),
        }
    }

    /// Gives one message to quinn if it has room. It gets a copy of its own: a slice of the slab's would keep all of that alive.
    fn send(&self, room: &mut Room, message: &[u8]) -> Result<Sent, Ended> {
        if message.len() > room.largest {
            return Ok(Sent::TooLarge);
        }
        if message.len() > room.bytes {
            return Ok(Sent::Full);
        }
        match self.0.send_datagram(Bytes::copy_from_slice(message)) {
            Ok(()) => {
                room.bytes = room.bytes.saturating_sub(message.len() + OVERHEAD);
                Ok(Sent::Queued)
            }
            // The path has become narrower since.
            Err(SendDatagramError::TooLarge) => Ok(Sent::TooLarge),
            Err(_) => Err(Ended),
        }
    }

    /// Gives quinn the messages of a slab that it has room for. What is too large for the path leaves the slab, too, counted.
    fn send_some(&self, slab: &mut Slab) -> Result<(), Ended> {
        let mut room = self.room();
        while let Some((message, taken)) = first(slab.bytes()) {
            let len = message.len();
            match self.send(&mut room, message)? {
                Sent::Queued => slab.pass(taken),
                Sent::TooLarge => {
                    slab.pass(taken);
                    slab.dropped_one(len, DropReason::TooLargeForPath);
                }
                Sent::Full => break,
            }
        }
        Ok(())
    }

    /// Waits until quinn has taken this message; false if it is too large.
    async fn send_one(&self, message: Bytes, outbox: &Outbox) -> Result<bool, Ended> {
        tokio::select! {
            sent = self.0.send_datagram_wait(message) => match sent {
                Ok(()) => Ok(true),
                Err(SendDatagramError::TooLarge) => Ok(false),
                Err(_) => Err(Ended),
            },
            () = poll_fn(|cx| outbox.poll_aborted(cx)) => Err(Ended),
        }
    }

    async fn send_slab(&self, mut slab: Slab, outbox: &Outbox) -> Result<(), Ended> {
        loop {
            self.send_some(&mut slab)?;
            let Some((message, taken)) = first(slab.bytes()) else {
                break;
            };
            // There was no room for it, and there is no other way to wait for that.
            let len = message.len();
            let message = Bytes::copy_from_slice(message);
            let sent = self.send_one(message, outbox).await?;
            slab.pass(taken);
            if !sent {
                slab.dropped_one(len, DropReason::TooLargeForPath);
            }
        }
        slab.delivered();
        Ok(())
    }

    /// Sends control messages, none of which may be lost: one that does not fit ends the connection.
    async fn send_control(&self, bytes: Vec<u8>, outbox: &Outbox) -> Result<(), Ended> {
        let mut rest = &bytes[..];
        while let Some((message, taken)) = first(rest) {
            if !self
                .send_one(Bytes::copy_from_slice(message), outbox)
                .await?
            {
                return Err(Ended);
            }
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// Waits until quinn has sent all that it was given: a close overtakes what still waits for the congestion window. There is
    /// no event for that, so it looks once a round trip; who aborts the outbox ends the wait.
    async fn emptied(&self, outbox: &Outbox) {
        let empty = SEND_BUFFER - OVERHEAD;
        while self.0.close_reason().is_none() && self.0.datagram_send_buffer_space() < empty {
            let pause = tokio::time::sleep(self.0.rtt().clamp(LOOK_MIN, LOOK_MAX));
            tokio::select! {
                () = pause => {}
                () = poll_fn(|cx| outbox.poll_aborted(cx)) => return,
            }
        }
    }
}

/// The first message in framed bytes, and the length of its frame.
fn first(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (head, rest) = bytes.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes(*head));
    Some((&rest[..len], 2 + len))
}

impl TryWrite for QuicSocket {
    fn try_write(&self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn try_write_slab(&self, slab: &mut Slab) -> io::Result<()> {
        self.send_some(slab)
            .map_err(|Ended| io::ErrorKind::ConnectionAborted.into())
    }
}

/// Sends the outbox until it is finished, aborted, or the connection fails; then closes the connection and aborts the outbox.
pub(super) async fn run(socket: QuicSocket, outbox: Arc<Outbox>) {
    // Why it ended, the reader knows better.
    let _ = send_out(&socket, &outbox).await;
    socket.0.close(CLOSE_CODE, &[]);
    outbox.abort();
}

async fn send_out(socket: &QuicSocket, outbox: &Outbox) -> Result<(), Ended> {
    loop {
        match poll_fn(|cx| outbox.poll_take(cx)).await {
            Taken::Control(bytes) => socket.send_control(bytes, outbox).await?,
            Taken::Data(slab) => socket.send_slab(slab, outbox).await?,
            Taken::Finished => {
                socket.emptied(outbox).await;
                return Ok(());
            }
            Taken::Aborted => return Ok(()),
        }
    }
}
