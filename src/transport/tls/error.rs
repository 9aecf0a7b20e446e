//! Why a TLS handshake failed, in few enough words to be counted by.

use std::io;

use rustls::{AlertDescription, Error};

/// Why a connection got no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The first bytes are an HTTP request.
    #[error(
        "the client speaks HTTP without TLS to the port that wants TLS (an https:// or rels:// address is meant)"
    )]
    PlainHttp,
    /// The first byte is none that TLS begins with.
    #[error("the client's first byte is not of TLS")]
    NotTls,
    /// The connection ended or failed during the handshake.
    #[error("connection lost during the TLS handshake: {0}")]
    Lost(#[source] io::Error),
    /// The two sides have nothing in common, the client refused, or it broke the protocol.
    #[error("TLS handshake: {0}")]
    Handshake(#[source] Error),
}

impl TlsError {
    /// All words of [`TlsError::reason`].
    pub const REASONS: [&'static str; 8] = [
        "plain_http",
        "not_tls",
        "connection_lost",
        "client_refused_certificate",
        "client_alert",
        "no_certificate",
        "incompatible",
        "protocol_violation",
    ];

    /// The label of `relay_tls_handshake_failures_total`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PlainHttp => "plain_http",
            Self::NotTls => "not_tls",
            Self::Lost(_) => "connection_lost",
            Self::Handshake(Error::AlertReceived(alert)) => match alert {
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                // A signature that does not verify: two authorities of one name.
                | AlertDescription::DecryptError
                | AlertDescription::UnknownCA => "client_refused_certificate",
                _ => "client_alert",
            },
            // What rustls says when the resolver has nothing to show.
            Self::Handshake(Error::General(text)) if text.contains("certificate") => {
                "no_certificate"
            }
            Self::Handshake(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => {
                "incompatible"
            }
            Self::Handshake(_) => "protocol_violation",
        }
    }
}
