//! The timed HMAC token: what stock clients get from their management server and send to the relay.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | algorithm: 1 = HMAC-SHA256 |
//! | 32 | HMAC-SHA256(SHA-256(secret), payload) |
//! | 10 or more | payload: the expiry in Unix seconds, decimal ASCII |

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use super::error::AuthError;
use super::validator::{AuthRequest, Validator};
use crate::proto::PeerId;
use crate::time::Clock;

/// The only algorithm there is.
pub(super) const ALGORITHM_HMAC_SHA256: u8 = 1;

/// Algorithm and MAC: what stands before the payload.
const PAYLOAD_AT: usize = 1 + 32;

/// The shortest token: one with ten characters of expiry.
pub(super) const TOKEN_MIN: usize = PAYLOAD_AT + 10;

/// The name and the payload of the prober in NetBird's own health check.
const PROBE_NAME: &[u8] = b"healthcheck-agent";
const PROBE_PAYLOAD: &[u8] = b"healthcheck";

/// The auth secret that relay and management server share, as a key. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Secret {
    /// HMAC with the key already taken in: a token then costs two hash blocks instead of four.
    keyed: Hmac<Sha256>,
}

impl Secret {
    /// The secret as configured. The key is the SHA-256 of the text's bytes as they are: whoever reads it from a file
    /// cuts the line end off first. An empty text makes a key that everybody knows; the configuration refuses it.
    pub fn new(text: &str) -> Self {
        let key = Sha256::digest(text.as_bytes());
        Self {
            keyed: Hmac::new_from_slice(&key).expect("HMAC takes a key of any length"),
        }
    }

    fn mac(&self, payload: &[u8]) -> Hmac<Sha256> {
        self.keyed.clone().chain_update(payload)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A token as clients send it, valid until this Unix second and in it. A number below ten digits gets leading zeros,
/// one above 2^63-1 becomes that: every token made here is one that the relays can read.
pub fn mint(secret: &Secret, expiry_unix: u64) -> Vec<u8> {
    let payload = format!("{:010}", expiry_unix.min(i64::MAX.unsigned_abs()));
    let mut token = Vec::with_capacity(PAYLOAD_AT + payload.len());
    token.push(ALGORITHM_HMAC_SHA256);
    token.extend_from_slice(&secret.mac(payload.as_bytes()).finalize().into_bytes());
    token.extend_from_slice(payload.as_bytes());
    token
}

/// The secrets of a [`TokenValidator`], to be replaced while it runs. Clones are the same set.
#[derive(Clone)]
pub struct Secrets(Arc<RwLock<Vec<Secret>>>);

impl Secrets {
    /// Puts these in place of the old ones: from the next token on they alone count. Peers already let in stay. With
    /// none, no token is good.
    pub fn set_secrets(&self, secrets: Vec<Secret>) {
        *self.0.write() = secrets;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.read().len()
    }

    /// Whether there is none, and so no token good.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn any_signed(&self, payload: &[u8], mac: &[u8]) -> bool {
        // `verify_slice` compares in constant time. Which of the secrets fits may show in the time it takes; it tells
        // only how many there are, and only to who holds a good token.
        self.0
            .read()
            .iter()
            .any(|secret| secret.mac(payload).verify_slice(mac).is_ok())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// Lets in who holds a token that is signed with one of the secrets and not expired (peer-protocol.md, *Token*).
/// Several secrets are all good: that is how one is rotated.
#[derive(Clone, Debug)]
pub struct TokenValidator {
    secrets: Secrets,
    clock: Clock,
}

impl TokenValidator {
    /// A validator with these secrets that goes by this clock.
    pub fn new(secrets: Vec<Secret>, clock: Clock) -> Self {
        Self {
            secrets: Secrets(Arc::new(RwLock::new(secrets))),
            clock,
        }
    }

    /// The handle with which the secrets are replaced while the validator runs.
    pub fn secrets(&self) -> Secrets {
        self.secrets.clone()
    }

    /// The verdict on a token, whoever sent it. Never waits.
    ///
    /// # Errors
    /// Looked for in this order: [`TooShort`](AuthError::TooShort), [`Algorithm`](AuthError::Algorithm),
    /// [`BadSignature`](AuthError::BadSignature), [`BadNumber`](AuthError::BadNumber),
    /// [`Expired`](AuthError::Expired). So nothing of the payload is read before its signature is known to be good.
    pub fn check(&self, token: &[u8]) -> Result<(), AuthError> {
        if token.len() < TOKEN_MIN {
            return Err(AuthError::TooShort { len: token.len() });
        }
        let (head, payload) = token.split_at(PAYLOAD_AT);
        let (algorithm, mac) = (head[0], &head[1..]);
        if algorithm != ALGORITHM_HMAC_SHA256 {
            return Err(AuthError::Algorithm(algorithm));
        }
        if !self.secrets.any_signed(payload, mac) {
            return Err(AuthError::BadSignature);
        }
        let expiry = parse_expiry(payload).ok_or(AuthError::BadNumber)?;
        match self.clock.now_unix().checked_sub(expiry) {
            None | Some(0) => Ok(()),
            Some(by) => Err(AuthError::Expired {
                by: Duration::from_secs(by),
            }),
        }
    }
}

impl Validator for TokenValidator {
    async fn validate(&self, request: &AuthRequest<'_>) -> Result<(), AuthError> {
        self.check(request.token)
    }
}

/// Decimal digits after at most one `+`, from 0 to 2^63-1. A minus is no number here: what it would date is before
/// 1970, and the reference refuses it too, as expired.
fn parse_expiry(payload: &[u8]) -> Option<u64> {
    let digits = payload.strip_prefix(b"+").unwrap_or(payload);
    // `parse` would take a second sign.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds: i64 = str::from_utf8(digits).ok()?.parse().ok()?;
    u64::try_from(seconds).ok()
}

/// Whether a **refused** request is NetBird's health prober, which sends an unsigned token on purpose: it is then
/// logged at debug and not counted as a failure (peer-protocol.md, *Health-check probe*). It lets nobody in.
pub fn is_health_probe(request: &AuthRequest<'_>) -> bool {
    request.token.get(PAYLOAD_AT..) == Some(PROBE_PAYLOAD)
        && *request.peer == PeerId::from_name(PROBE_NAME)
}

/// What [`is_health_probe`] knows by: the prober's ID and its token, which no secret has signed.
#[must_use]
pub fn health_probe() -> (PeerId, Vec<u8>) {
    let mut token = vec![0; PAYLOAD_AT];
    token[0] = ALGORITHM_HMAC_SHA256;
    token.extend_from_slice(PROBE_PAYLOAD);
    (PeerId::from_name(PROBE_NAME), token)
}

#[cfg(test)]
mod tests;
