//! The PROXY protocol, versions 1 and 2: a header in front of everything else on a connection, TLS included.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::TrustedProxies;
use crate::transport::{RemoteAddr, peek_beyond};

/// The longest header, in bytes. Version 1 ends at 107; version 2 may go to 65,551 for the sake of what a proxy adds behind the
/// addresses, but what proxies really add is some hundred bytes.
const HEADER_MAX: usize = 4096;

/// Version 1, from its first byte on.
const V1: &[u8] = b"PROXY ";
/// Version 2, likewise; then come the command, the family and, in two bytes, how much follows.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_PREAMBLE: usize = V2.len() + 4;
/// The command byte of a connection that the proxy makes for itself, such as a health check: whatever follows is to be skipped.
const V2_LOCAL: u8 = 0x20;

/// Whether connections begin with a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyProtocol {
    /// They do not: nobody looks for one.
    #[default]
    Off,
    /// Those of trusted proxies may. Nobody looks for one from anybody else.
    Optional,
    /// All do, and only trusted proxies may connect.
    Required,
}

impl ProxyProtocol {
    /// All of them, with the words of the flag.
    pub const ALL: [(&'static str, Self); 3] = [
        ("off", Self::Off),
        ("optional", Self::Optional),
        ("required", Self::Required),
    ];
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, mode)| mode == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

impl FromStr for ProxyProtocol {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, mode)| *mode).ok_or(())
    }
}

/// Why a connection is refused for its PROXY header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyHeaderError {
    /// Its other end is not a trusted proxy, and only those may connect.
    #[error("not from a trusted proxy")]
    Untrusted,
    /// It begins with something else.
    #[error("no PROXY header, which is required")]
    Missing,
    /// It begins like a PROXY header, and is none.
    #[error("malformed PROXY header")]
    Malformed,
    /// It is longer than 4096 bytes.
    #[error("PROXY header of more than {HEADER_MAX} bytes")]
    TooLong,
    /// It ended or failed before the header was complete.
    #[error("connection lost before the end of the PROXY header: {0}")]
    Lost(#[from] io::Error),
}

impl ProxyHeaderError {
    /// Every reason, for series that start at zero.
    pub const REASONS: [&'static str; 5] = [
        "proxy_untrusted",
        "proxy_header_missing",
        "proxy_header_malformed",
        "proxy_header_too_long",
        "proxy_header_lost",
    ];

    /// The label `reason` of `relay_handshake_refusals_total`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Untrusted => Self::REASONS[0],
            Self::Missing => Self::REASONS[1],
            Self::Malformed => Self::REASONS[2],
            Self::TooLong => Self::REASONS[3],
            Self::Lost(_) => Self::REASONS[4],
        }
    }
}

impl ProxyProtocol {
    /// Where the client of an accepted connection comes from, whose other end is `connection`. A PROXY header is taken off
    /// `stream`, and not one byte behind it. There is no time limit in it: that is the caller's. Cancelled, it has taken
    /// nothing or ends the connection.
    ///
    /// The answer is `connection` where nothing is looked for, where a proxy speaks for itself (`LOCAL`), and where it cannot say
    /// (`UNKNOWN`, a family other than TCP over IPv4 or IPv6).
    ///
    /// # Errors
    /// Those of [`ProxyHeaderError`]: the connection is to be closed.
    pub async fn client_address(
        self,
        stream: &mut TcpStream,
        connection: RemoteAddr,
        trusted: &TrustedProxies,
    ) -> Result<RemoteAddr, ProxyHeaderError> {
        match self {
            Self::Off => return Ok(connection),
            Self::Optional | Self::Required if trusted.trusts(connection) => {}
            Self::Optional => return Ok(connection),
            Self::Required => return Err(ProxyHeaderError::Untrusted),
        }
        match take_header(stream).await? {
            Some(source) => Ok(source.map_or(connection, RemoteAddr::from)),
            None if self == Self::Required => Err(ProxyHeaderError::Missing),
            None => Ok(connection),
        }
    }
}

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// No PROXY header.
    None,
    /// The beginning of one, if the bytes that are still to come go on like this.
    Partial,
    /// One of so many bytes; the client it names, if it names one.
    Header(usize, Option<SocketAddr>),
}

/// Judges the first bytes of a connection. What is longer than [`HEADER_MAX`] is never waited for.
fn parse(bytes: &[u8]) -> Result<Parsed, ProxyHeaderError> {
    let length = bytes.len();
    if [V1, V2].iter().all(|signature| {
        let common = length.min(signature.len());
        bytes[..common] != signature[..common]
    }) {
        return Ok(Parsed::None);
    }
    if bytes.starts_with(V2) {
        let Some(&[.., command, _, high, low]) = bytes.first_chunk::<V2_PREAMBLE>() else {
            return Ok(Parsed::Partial);
        };
        let total = V2_PREAMBLE + usize::from(u16::from_be_bytes([high, low]));
        if total > HEADER_MAX {
            return Err(ProxyHeaderError::TooLong);
        }
        if length < total {
            return Ok(Parsed::Partial);
        }
        if command == V2_LOCAL {
            return Ok(Parsed::Header(total, None));
        }
    } else if !bytes.starts_with(V1) {
        return Ok(Parsed::Partial);
    }
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    match ProxyHeader::parse(bytes, config) {
        Ok((header, length)) => {
            let tcp = header.proxied_address();
            let tcp = tcp.filter(|address| address.protocol == Protocol::Stream);
            Ok(Parsed::Header(length, tcp.map(|address| address.source)))
        }
        Err(proxy_header::Error::BufferTooShort) if bytes.starts_with(V1) => Ok(Parsed::Partial),
        Err(_) => Err(ProxyHeaderError::Malformed),
    }
}

/// Takes a header off the stream, if there is one; the client it names, if it names one.
async fn take_header(
    stream: &mut TcpStream,
) -> Result<Option<Option<SocketAddr>>, ProxyHeaderError> {
    // Nothing is held for a connection that has said nothing.
    let mut buffer = Vec::new();
    let mut seen = 0;
    loop {
        if buffer.is_empty() {
            stream.readable().await?;
            buffer = vec![0; HEADER_MAX];
        }
        seen = peek_beyond(stream, &mut buffer, seen).await?;
        match parse(&buffer[..seen])? {
            Parsed::None => return Ok(None),
            Parsed::Partial if seen == HEADER_MAX => return Err(ProxyHeaderError::TooLong),
            Parsed::Partial => {}
            Parsed::Header(length, source) => {
                stream.read_exact(&mut buffer[..length]).await?;
                return Ok(Some(source));
            }
        }
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
