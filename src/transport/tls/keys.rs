//! Who has the keys of a connection: rustls, or after the handshake of TLS 1.3 this room.

use std::fmt;
use std::mem;
use std::sync::Arc;

use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error, ServerConfig, SupportedCipherSuite};

use super::Shared;
use super::record::{Fault, Opener, Sealer};
use super::session::Session;
use crate::tls::RecordKey;

/// The keys that are in use lie with the two halves; here is where they come from. `Debug` shows none.
pub(super) enum Keys {
    /// The handshake, and TLS 1.2 to its end.
    Rustls(Box<Session>),
    /// What the next keys are made of.
    Ours(Box<KernelConnection<ServerConnectionData>>),
    /// They could not be handed over: nothing goes any more.
    Lost,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// Both directions, and what has come and is no whole record yet.
pub(super) struct TakenOver {
    pub(super) opener: Opener,
    pub(super) sealer: Sealer,
    pub(super) carry: Vec<u8>,
}

impl Keys {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::Rustls(Box::new(Session::new(config)?)))
    }

    /// The session, while it is rustls'.
    pub(super) fn rustls(&mut self) -> Option<&mut Session> {
        match self {
            Self::Rustls(session) => Some(session),
            Self::Ours(_) | Self::Lost => None,
        }
    }

    /// Takes the keys from rustls after the handshake; none if it is to go on by itself.
    pub(super) fn take_over(&mut self) -> Result<Option<TakenOver>, Error> {
        let session = match mem::replace(self, Self::Lost) {
            Self::Rustls(session) => session,
            other => {
                *self = other;
                return Ok(None);
            }
        };
        let taken = match session.into_keys() {
            Ok(taken) => taken,
            Err(session) => {
                *self = Self::Rustls(session);
                return Ok(None);
            }
        };
        let (secrets, next) = taken.keys?;
        let unknown = || Error::General("cipher that has no record layer".into());
        let key = |(sequence, secrets): (u64, ConnectionTrafficSecrets)| {
            RecordKey::new(sequence, &secrets).ok_or_else(unknown)
        };
        let limit = match next.negotiated_cipher_suite() {
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls12(_) => return Err(unknown()),
        };
        let over = TakenOver {
            opener: Opener::new(key(secrets.rx)?),
            sealer: Sealer::new(key(secrets.tx)?, limit),
            carry: taken.carry,
        };
        *self = Self::Ours(Box::new(next));
        Ok(Some(over))
    }

    /// The key that comes after a key update of the other side.
    pub(super) fn next_to_read(&mut self) -> Result<RecordKey, Fault> {
        self.next(KernelConnection::update_rx_secret)
    }

    /// The key that comes after a key update of ours.
    pub(super) fn next_to_write(&mut self) -> Result<RecordKey, Fault> {
        self.next(KernelConnection::update_tx_secret)
    }

    fn next(
        &mut self,
        update: impl FnOnce(
            &mut KernelConnection<ServerConnectionData>,
        ) -> Result<(u64, ConnectionTrafficSecrets), Error>,
    ) -> Result<RecordKey, Fault> {
        let Self::Ours(keys) = self else {
            return Err(Fault::NoKey);
        };
        let (sequence, secrets) = update(keys).map_err(|_| Fault::NoKey)?;
        RecordKey::new(sequence, &secrets).ok_or(Fault::NoKey)
    }
}

impl Shared {
    pub(super) fn is_handshaking(&self) -> bool {
        let mut keys = self.keys.lock();
        keys.rustls().is_some_and(|it| it.is_handshaking())
    }
}
