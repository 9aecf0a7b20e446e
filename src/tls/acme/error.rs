//! Why there is no certificate, in words an operator can act on, and in few enough words to be counted by.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use super::super::CertificateError;

/// The directory of account and certificate is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// A directory or file cannot be made, read or written.
    #[error("{} cannot be {what}: {source}", path.display())]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// `made`, `read` or `written`.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file of the account is not what this program wrote.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf),
    /// The file of the certificate is not what this program wrote.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Why an order brought no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcmeError {
    /// No answer came, or none that is of ACME.
    #[error("the certificate authority cannot be reached")]
    Unreachable(#[source] Box<dyn StdError + Send + Sync>),
    /// What the authority must be trusted by cannot be read.
    #[error("nothing says which certificate authorities can be trusted")]
    Roots(#[source] Box<dyn StdError + Send + Sync>),
    /// The authority said no to an account or an order.
    #[error("the certificate authority refuses: {}", words(.0))]
    Refused(Box<instant_acme::Problem>),
    /// The authority looked, and did not find what it should have found.
    #[error("the certificate authority is not convinced that {domain} is ours: {detail}")]
    NotProven {
        /// The domain.
        domain: String,
        /// The authority's words.
        detail: String,
    },
    /// The authority does not take this kind of proof for this domain.
    #[error("the certificate authority offers no {kind} challenge for {domain}")]
    NoChallenge {
        /// The domain.
        domain: String,
        /// Such as `TLS-ALPN-01`.
        kind: &'static str,
    },
    /// The record in the DNS could not be made.
    #[error("the DNS record for {domain} cannot be made")]
    Dns {
        /// The domain.
        domain: String,
        /// What the DNS service said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The authority did not come to an end.
    #[error("the certificate authority took too long")]
    TimedOut,
    /// What came is no certificate, or not ours.
    #[error("the certificate authority's certificate is of no use")]
    NotUsable(#[source] Box<dyn StdError + Send + Sync>),
    /// It is for other names, or its time is over by this machine's clock.
    #[error(
        "the certificate is not for the domains that were ordered, or this machine's clock is wrong"
    )]
    NotAsOrdered,
    /// The account cannot be read or kept.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The system has no randomness for keys, or the like.
    #[error("no key or challenge can be made")]
    Crypto(#[source] Box<dyn StdError + Send + Sync>),
}

impl AcmeError {
    /// All words of [`AcmeError::reason`].
    pub const REASONS: [&'static str; 9] = [
        "unreachable",
        "refused",
        "rate_limited",
        "challenge_failed",
        "dns",
        "timeout",
        "bad_certificate",
        "storage",
        "internal",
    ];

    /// The label of `relay_acme_orders_total`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Refused(problem) if is(problem, "rateLimited") => "rate_limited",
            Self::Refused(_) => "refused",
            Self::NotProven { .. } | Self::NoChallenge { .. } => "challenge_failed",
            Self::Dns { .. } => "dns",
            Self::TimedOut => "timeout",
            Self::NotUsable(_) | Self::NotAsOrdered => "bad_certificate",
            Self::Storage(_) | Self::Roots(_) => "storage",
            Self::Crypto(_) => "internal",
        }
    }

    /// Whether the authority has counted this attempt: many have a limit of a few an hour.
    pub(super) fn uses_up_attempts(&self) -> bool {
        !matches!(
            self,
            Self::Unreachable(_) | Self::Roots(_) | Self::Storage(_) | Self::Dns { .. }
        )
    }

    /// Whether an account that was good once is not known there.
    pub(super) fn is_unknown_account(&self) -> bool {
        matches!(self, Self::Refused(problem) if is(problem, "accountDoesNotExist"))
    }

    /// The error with what is behind it, in one line.
    pub(super) fn text(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            let more = error.to_string();
            // Wrappers often repeat what they wrap.
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            source = error.source();
        }
        text
    }
}

/// What the authority says is wrong, with that of each domain if it speaks of several.
pub(super) fn words(problem: &instant_acme::Problem) -> String {
    let parts = problem.subproblems.iter().map(|part| &part.detail);
    let details = std::iter::once(&problem.detail).chain(parts).flatten();
    let details: Vec<&str> = details.map(String::as_str).collect();
    let kind = problem.r#type.as_deref().unwrap_or_default();
    format!("{} ({})", details.join("; "), kind)
}

/// Whether it is a problem of this type (RFC 8555, section 6.7).
fn is(problem: &instant_acme::Problem, name: &str) -> bool {
    let known = problem.r#type.as_deref();
    known.and_then(|known| known.strip_prefix("urn:ietf:params:acme:error:")) == Some(name)
}

impl From<instant_acme::Error> for AcmeError {
    fn from(error: instant_acme::Error) -> Self {
        use instant_acme::Error;
        match error {
            Error::Api(problem) => Self::Refused(Box::new(problem)),
            Error::Timeout(_) => Self::TimedOut,
            Error::Crypto | Error::KeyRejected => Self::Crypto(Box::new(error)),
            Error::Other(source) => Self::Unreachable(source),
            _ => Self::Unreachable(Box::new(error)),
        }
    }
}
