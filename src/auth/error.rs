//! Why a peer is not let in.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::token::{ALGORITHM_HMAC_SHA256, TOKEN_MIN};

/// Why a peer is not let in. Its text is for the operator's log: the peer gets no answer at all. It holds no byte of
/// the token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The token is too short to hold algorithm, MAC and expiry.
    #[error("token of {len} bytes is shorter than {TOKEN_MIN}")]
    TooShort {
        /// Its length in bytes.
        len: usize,
    },
    /// The token is signed in a way that this relay does not know.
    #[error("token algorithm {0} is not supported (only {ALGORITHM_HMAC_SHA256}, hmac-sha256)")]
    Algorithm(u8),
    /// The token is signed with none of the configured secrets, or was changed since.
    #[error("token signature matches none of the configured secrets")]
    BadSignature,
    /// The token is rightly signed, but its expiry is not a number of seconds.
    #[error("token expiry is not a number of seconds")]
    BadNumber,
    /// The token was good once.
    #[error("token expired {} ago", Age(*by))]
    Expired {
        /// How long ago, in whole seconds.
        by: Duration,
    },
    /// A validator of the embedder's own says no, in its own words. They are logged: they must not hold the token.
    #[error("refused: {0}")]
    Refused(String),
    /// The validator could not find out, because what it asks is down. It says nothing about the peer.
    #[error("authentication is unavailable")]
    Unavailable(#[source] Box<dyn Error + Send + Sync + 'static>),
}

impl AuthError {
    /// The word under which it is counted (`relay_authentication_failures_total{reason}`).
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooShort { .. } => "too_short",
            Self::Algorithm(_) => "algorithm",
            Self::BadSignature => "bad_signature",
            Self::BadNumber => "bad_number",
            Self::Expired { .. } => "expired",
            Self::Refused(_) => "refused",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// Whether the fault is on this side, and the same token may be good later.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// A duration in its two largest units: `3h 12m`.
struct Age(Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        if days > 0 {
            write!(f, "{days}d {}h", hours % 24)
        } else if hours > 0 {
            write!(f, "{hours}h {}m", minutes % 60)
        } else if minutes > 0 {
            write!(f, "{minutes}m {}s", seconds % 60)
        } else {
            write!(f, "{seconds}s")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn expiry_is_told_in_two_units() {
        let text = |seconds| {
            AuthError::Expired {
                by: Duration::from_secs(seconds),
            }
            .to_string()
        };
        assert_eq!(text(1), "token expired 1s ago");
        assert_eq!(text(59), "token expired 59s ago");
        assert_eq!(text(60), "token expired 1m 0s ago");
        assert_eq!(text(3 * 3600 + 12 * 60 + 59), "token expired 3h 12m ago");
        assert_eq!(text(86_400), "token expired 1d 0h ago");
        assert_eq!(text(412 * 86_400 + 23 * 3600), "token expired 412d 23h ago");
    }

    #[test]
    fn every_reason_is_a_label_of_its_own() {
        let errors = [
            AuthError::TooShort { len: 3 },
            AuthError::Algorithm(2),
            AuthError::BadSignature,
            AuthError::BadNumber,
            AuthError::Expired { by: Duration::ZERO },
            AuthError::Refused("not on the list".into()),
            AuthError::Unavailable("connection refused".into()),
        ];
        let reasons: HashSet<_> = errors.iter().map(AuthError::reason).collect();
        assert_eq!(reasons.len(), errors.len());
        for error in &errors {
            assert!(
                error
                    .reason()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{error}"
            );
            assert_eq!(error.is_temporary(), error.reason() == "unavailable");
            assert_eq!(error.source().is_some(), error.is_temporary());
        }
    }
}
