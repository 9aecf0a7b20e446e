//! The TLS state machine over slices of bytes. Owns no socket and no buffer of its own but what it has to say by itself.

use std::fmt;
use std::mem;
use std::sync::Arc;

use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{Error, ExtractedSecrets, ProtocolVersion, ServerConfig};

/// Where a connection stands after all that came has been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The other side's next handshake message is waited for.
    Handshake,
    /// Both directions carry data.
    Open,
    /// The other side has said that nothing more comes.
    PeerClosed,
}

/// One connection's keys and state. Its `Debug` shows no key.
pub(super) struct Session {
    connection: UnbufferedServerConnection,
    /// Handshake messages, tickets, key updates and alerts, encrypted where they must be. They go out before anything that
    /// is encrypted later.
    due: Vec<u8>,
    peer_closed: bool,
    /// What has come and is not done with: the beginning of a record, or of a handshake message. rustls keeps positions in it,
    /// so it must see it at every call, also when all that is wanted is to send.
    carry: Vec<u8>,
    /// An error is final, and rustls is not asked again.
    failed: bool,
}

/// What rustls has left behind.
pub(super) struct Taken {
    pub(super) keys: Result<(ExtractedSecrets, KernelConnection<ServerConnectionData>), Error>,
    /// The beginning of a record.
    pub(super) carry: Vec<u8>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            due: Vec::new(),
            peer_closed: false,
            carry: Vec::new(),
            failed: false,
        })
    }

    /// How many bytes of what came before are still needed, in front of what comes next.
    pub(super) fn carried(&self) -> usize {
        self.carry.len()
    }

    /// Gives back memory that nothing is carried in.
    pub(super) fn release(&mut self) {
        if self.carry.is_empty() {
            self.carry = Vec::new();
        }
    }

    /// Takes what has come: `incoming` has room for the carried bytes in front of it. Each piece of data goes to `deliver`.
    /// After an error the alert that tells the other side is due.
    pub(super) fn advance(
        &mut self,
        incoming: &mut [u8],
        deliver: impl FnMut(&[u8]),
    ) -> Result<Stage, Error> {
        if self.failed {
            return Err(Error::General("connection has failed before".into()));
        }
        incoming[..self.carry.len()].copy_from_slice(&self.carry);
        let result = self.process(incoming, deliver);
        match result {
            Ok((done, stage)) => {
                self.carry.clear();
                self.carry.extend_from_slice(&incoming[done..]);
                Ok(stage)
            }
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        }
    }

    /// Looks at the records in `incoming` and hands each piece of data to `deliver`. Returns how many bytes at the front are
    /// done with; the others are the beginning of a record and must be shown again with more behind them.
    fn process(
        &mut self,
        incoming: &mut [u8],
        mut deliver: impl FnMut(&[u8]),
    ) -> Result<(usize, Stage), Error> {
        let mut done = 0;
        loop {
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(&mut incoming[done..]);
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    // The bytes stay where they are: rustls still points into them.
                    if let Ok(ConnectionState::EncodeTlsData(mut alert)) = self
                        .connection
                        .process_tls_records(&mut incoming[done..])
                        .state
                    {
                        append(&mut self.due, |space| alert.encode(space));
                    }
                    return Err(error);
                }
            };
            done += discard;
            match state {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        deliver(record.payload);
                        done += record.discard;
                    }
                }
                ConnectionState::EncodeTlsData(mut message) => {
                    append(&mut self.due, |space| message.encode(space));
                }
                // It is in `due`, and goes out in its order.
                ConnectionState::TransmitTlsData(message) => message.done(),
                ConnectionState::PeerClosed => self.peer_closed = true,
                ConnectionState::Closed => return Ok((done, Stage::PeerClosed)),
                ConnectionState::WriteTraffic(_) if self.peer_closed => {
                    return Ok((done, Stage::PeerClosed));
                }
                ConnectionState::WriteTraffic(_) => return Ok((done, Stage::Open)),
                ConnectionState::BlockedHandshake => return Ok((done, Stage::Handshake)),
                // Early data is switched off, and whatever else rustls may learn is not asked for.
                _ => return Err(Error::General("unexpected state of a connection".into())),
            }
        }
    }

    /// Whether nothing is under way that only rustls knows of: TLS 1.3, nothing to send, and at most the beginning of a record has come.
    fn is_at_rest(&self) -> bool {
        self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            && !self.failed
            && !self.peer_closed
            && self.due.is_empty()
            // What begins with another byte is a piece of a handshake message that rustls has decrypted already.
            && self.carry.first().is_none_or(|&kind| kind == super::record::DATA)
    }

    /// Gives the keys away, after the handshake; the session itself if rustls is to go on.
    pub(super) fn into_keys(self: Box<Self>) -> Result<Taken, Box<Self>> {
        if !self.is_at_rest() {
            return Err(self);
        }
        let Self {
            connection, carry, ..
        } = *self;
        Ok(Taken {
            keys: connection.dangerous_into_kernel_connection(),
            carry,
        })
    }

    /// Whether the two sides have not come to terms yet.
    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// The protocol that was agreed upon.
    pub(super) fn alpn(&self) -> Option<Vec<u8>> {
        self.connection.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// Takes what is due.
    pub(super) fn take_due(&mut self) -> Vec<u8> {
        mem::take(&mut self.due)
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Encrypts `data` behind `records`, in records as long as they may be.
    pub(super) fn seal(&mut self, data: &[u8], records: &mut Sealed) -> Result<(), Error> {
        self.write(records, |traffic, space| match traffic {
            ConnectionState::WriteTraffic(mut traffic) => Some(traffic.encrypt(data, space)),
            _ => None,
        })
    }

    /// Says that nothing more comes from this side.
    pub(super) fn close(&mut self, records: &mut Sealed) -> Result<(), Error> {
        self.write(records, |traffic, space| match traffic {
            ConnectionState::WriteTraffic(mut traffic) => Some(traffic.queue_close_notify(space)),
            _ => None,
        })
    }

    fn write(
        &mut self,
        records: &mut Sealed,
        mut encrypt: impl FnMut(
            ConnectionState<'_, '_, ServerConnectionData>,
            &mut [u8],
        ) -> Option<Result<usize, EncryptError>>,
    ) -> Result<(), Error> {
        if self.failed {
            return Err(Error::General("connection has failed before".into()));
        }
        // What has come with no data in it, such as the end of a handshake message, may be done with on the way.
        let mut carry = mem::take(&mut self.carry);
        let result = loop {
            records.push(&self.take_due());
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(&mut carry);
            let finished = match state {
                Err(error) => Some(Err(error)),
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    append(&mut self.due, |space| message.encode(space));
                    None
                }
                Ok(ConnectionState::TransmitTlsData(message)) => {
                    message.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_closed = true;
                    None
                }
                Ok(state) => match encrypt(state, records.space()) {
                    Some(Ok(count)) => {
                        records.len += count;
                        Some(Ok(()))
                    }
                    Some(Err(EncryptError::InsufficientSize(needed))) => {
                        records.reserve(needed.required_size);
                        None
                    }
                    Some(Err(EncryptError::EncryptExhausted)) => Some(Err(Error::EncryptError)),
                    None => Some(Err(Error::HandshakeNotComplete)),
                },
            };
            carry.drain(..discard);
            if let Some(result) = finished {
                break result;
            }
        };
        self.carry = carry;
        result
    }
}

/// Lets `encode` write behind what `bytes` holds.
fn append(bytes: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = bytes.len();
    let mut room = 0;
    loop {
        bytes.resize(start + room, 0);
        match encode(&mut bytes[start..]) {
            Ok(count) => {
                bytes.truncate(start + count);
                return;
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                room = required_size;
            }
            Err(EncodeError::AlreadyEncoded) => {
                bytes.truncate(start);
                return;
            }
        }
    }
}

/// Records that are ready to be written: a buffer that is used again and again.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    buffer: Vec<u8>,
    len: usize,
}

impl Sealed {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.len..]
    }

    fn reserve(&mut self, more: usize) {
        if self.buffer.len() < self.len + more {
            self.buffer.resize(self.len + more, 0);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.extend(bytes.len()).copy_from_slice(bytes);
    }

    /// Room for so many bytes more, whatever lies there, which count as written from now on.
    pub(super) fn extend(&mut self, more: usize) -> &mut [u8] {
        self.reserve(more);
        let start = self.len;
        self.len += more;
        &mut self.buffer[start..self.len]
    }
}
