//! HELLO v2: who dials, and the proof that it knows the cluster secret (cluster-protocol.md, *HELLO v2*).
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | version = 2 |
//! | 1 | address length n |
//! | n | the sender's announced address, `host:port`, UTF-8 |
//! | 8 | Unix seconds |
//! | 1 | MAC length: 0 or 32 |
//! | 0 or 32 | HMAC-SHA256(secret, all the bytes before the MAC length) |

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::encode;
use super::kind::FrameType;

/// The only version there is.
const VERSION: u8 = 2;

/// Bytes of a MAC.
const MAC_LEN: usize = 32;

/// How far a HELLO's clock may be from ours, in seconds, either way. Exactly so much is fine.
pub const CLOCK_SKEW_MAX: u64 = 5 * 60;

/// The cluster secret, as a key: the text's bytes as they are. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct ClusterSecret(Hmac<Sha256>);

impl ClusterSecret {
    /// The secret as configured; whoever reads it from a file cuts the line end off first. None if it is empty: that is how
    /// a cluster without a secret is configured.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| {
            Self(Hmac::new_from_slice(text.as_bytes()).expect("HMAC takes a key of any length"))
        })
    }

    fn mac(&self, signed: &[u8]) -> Hmac<Sha256> {
        self.0.clone().chain_update(signed)
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret")
    }
}

/// A whole HELLO frame. `secret` none: unsigned. None if the address is longer than 255 bytes.
#[must_use]
pub fn encode_hello(address: &str, unix: u64, secret: Option<&ClusterSecret>) -> Option<Vec<u8>> {
    let mut payload = vec![VERSION, u8::try_from(address.len()).ok()?];
    payload.extend_from_slice(address.as_bytes());
    payload.extend_from_slice(&unix.to_be_bytes());
    match secret {
        None => payload.push(0),
        Some(secret) => {
            let mac = secret.mac(&payload).finalize().into_bytes();
            payload.push(MAC_LEN as u8);
            payload.extend_from_slice(&mac);
        }
    }
    encode::encode(FrameType::Hello, &[&payload])
}

/// Why a pod's HELLO is refused; the label `reason` of `relay_cluster_hello_rejects_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum HelloRefusal {
    /// No secret of ours makes this MAC.
    #[error("signed with another secret, or changed on its way")]
    HmacMismatch,
    /// We have a secret, and it is not signed.
    #[error("unsigned, but this pod has a cluster secret")]
    UnsignedButRequired,
    /// It is signed, and we have no secret.
    #[error("signed, but this pod has no cluster secret")]
    SignedButUnsupported,
    /// The clocks of the two pods are more than five minutes apart, or it is a replay.
    #[error("timestamp is more than five minutes off")]
    StaleTimestamp,
    /// It is no HELLO of version 2, or its address is not `host:port`.
    #[error("malformed")]
    Malformed,
    /// None came in time.
    #[error("no HELLO in time")]
    Timeout,
    /// Something else came first.
    #[error("first frame is not a HELLO")]
    FirstFrameNotHello,
    /// It came without TLS, which this pod wants.
    #[error("spoke without TLS, which this pod requires")]
    PlainButTlsRequired,
    /// The TLS handshake before it failed.
    #[error("TLS handshake failed")]
    TlsFailed,
    /// It announces the address of the pod that it came to.
    #[error("announces the address of this pod: each pod's --pod-ip must be its own")]
    OwnAddress,
}

impl HelloRefusal {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::HmacMismatch,
        Self::UnsignedButRequired,
        Self::SignedButUnsupported,
        Self::StaleTimestamp,
        Self::Malformed,
        Self::Timeout,
        Self::FirstFrameNotHello,
        Self::PlainButTlsRequired,
        Self::TlsFailed,
        Self::OwnAddress,
    ];

    /// The metric label.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::HmacMismatch => "hmac_mismatch",
            Self::UnsignedButRequired => "unsigned_but_required",
            Self::SignedButUnsupported => "signed_but_unsupported",
            Self::StaleTimestamp => "stale_timestamp",
            Self::Malformed => "malformed",
            Self::Timeout => "timeout",
            Self::FirstFrameNotHello => "first_frame_not_hello",
            Self::PlainButTlsRequired => "plain_but_tls_required",
            Self::TlsFailed => "tls_failed",
            Self::OwnAddress => "own_address",
        }
    }
}

/// The layout, nothing of it believed yet.
struct Layout<'a> {
    address: &'a [u8],
    unix: u64,
    signed: &'a [u8],
    mac: &'a [u8],
}

fn layout(payload: &[u8]) -> Option<Layout<'_>> {
    let (&[version, address_len], rest) = payload.split_first_chunk()?;
    if version != VERSION {
        return None;
    }
    let (address, rest) = rest.split_at_checked(usize::from(address_len))?;
    let (unix, rest) = rest.split_first_chunk()?;
    let (&mac_len, rest) = rest.split_first()?;
    let mac = rest.get(..usize::from(mac_len))?;
    Some(Layout {
        address,
        unix: u64::from_be_bytes(*unix),
        signed: &payload[..2 + address.len() + size_of::<u64>()],
        mac,
    })
}

/// The verdict on a HELLO's payload: the address that its sender announces. `secrets`: all of them are good, and with none at all
/// only an unsigned HELLO is. Bytes after the MAC mean nothing.
///
/// # Errors
/// Looked for in this order: no such layout, the signature, the address, the timestamp. So nothing of what a forger
/// wrote decides under which name it is counted.
pub fn check_hello<'a>(
    payload: &'a [u8],
    secrets: &[ClusterSecret],
    now_unix: u64,
) -> Result<&'a str, HelloRefusal> {
    let hello = layout(payload).ok_or(HelloRefusal::Malformed)?;
    match (secrets.is_empty(), hello.mac) {
        (true, []) => {}
        (true, _) => return Err(HelloRefusal::SignedButUnsupported),
        (false, []) => return Err(HelloRefusal::UnsignedButRequired),
        (false, mac) if mac.len() != MAC_LEN => return Err(HelloRefusal::Malformed),
        // `verify_slice` compares in constant time.
        (false, mac) => secrets
            .iter()
            .any(|secret| secret.mac(hello.signed).verify_slice(mac).is_ok())
            .then_some(())
            .ok_or(HelloRefusal::HmacMismatch)?,
    }
    let address = str::from_utf8(hello.address)
        .ok()
        .filter(|address| is_host_and_port(address))
        .ok_or(HelloRefusal::Malformed)?;
    if hello.unix.abs_diff(now_unix) > CLOCK_SKEW_MAX {
        return Err(HelloRefusal::StaleTimestamp);
    }
    Ok(address)
}

/// Whether a text is `host:port`, `address:port` or `[IPv6 address]:port`, with a port above 0.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_is_one = match host.strip_prefix('[') {
        Some(inner) => inner
            .strip_suffix(']')
            .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        }
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    host_is_one && digits && port.parse::<u16>().is_ok_and(|port| port > 0)
}
