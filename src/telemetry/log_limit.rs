//! Lines of the log that strangers could cause without end, or make as long as they like: one of a kind in ten seconds, which says how
//! many more there were, and errors cut short.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a kind of line is silent after one.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// What of an error is told, in bytes: a failed handshake may quote the other side's certificate at length.
const ERROR_MAX: usize = 300;

/// An error for the log, whoever had a hand in its text.
pub(crate) fn brief(error: &impl std::fmt::Display) -> String {
    let mut text = error.to_string();
    if text.len() > ERROR_MAX {
        text.truncate(text.floor_char_boundary(ERROR_MAX));
        text.push_str("...");
    }
    text
}

/// Which kinds of lines were said when. A kind is a place in the source and a reason, so there are only so many.
#[derive(Debug, Default)]
pub(crate) struct LogLimit(Mutex<HashMap<(&'static str, &'static str), Kind>>);

#[derive(Debug)]
struct Kind {
    said: Instant,
    unsaid: u64,
}

impl LogLimit {
    /// Whether a line of this kind may be said now. If so: how many were not since the last one, if any.
    pub(crate) fn due(&self, place: &'static str, reason: &'static str) -> Option<Option<u64>> {
        let now = Instant::now();
        let mut kinds = self.0.lock();
        let Some(kind) = kinds.get_mut(&(place, reason)) else {
            let kind = Kind {
                said: now,
                unsaid: 0,
            };
            kinds.insert((place, reason), kind);
            return Some(None);
        };
        if now.duration_since(kind.said) < INTERVAL {
            kind.unsaid += 1;
            return None;
        }
        kind.said = now;
        let unsaid = std::mem::take(&mut kind.unsaid);
        Some((unsaid > 0).then_some(unsaid))
    }
}

/// `log_rarely!(warn, limit, reason, fields and text as tracing takes them)`: at this level if a line of this kind is due, with the
/// field `more` (how many like it were not told since the last); else for those who debug. The reason is the field `error.type`.
macro_rules! log_rarely {
    ($level:ident, $limit:expr, $reason:expr, $($line:tt)+) => {{
        let reason: &'static str = $reason;
        match $limit.due(concat!(module_path!(), line!()), reason) {
            Some(more) => tracing::$level!(more, error.type = reason, $($line)+),
            None => tracing::debug!(error.type = reason, $($line)+),
        }
    }};
}
pub(crate) use log_rarely;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_error_the_beginning_is_told() {
        assert_eq!(brief(&"x".repeat(ERROR_MAX)), "x".repeat(ERROR_MAX));
        let told = brief(&"ä".repeat(ERROR_MAX));
        assert_eq!(told, format!("{}...", "ä".repeat(ERROR_MAX / 2)));
        let told = brief(&format!("x{}", "ä".repeat(ERROR_MAX)));
        assert_eq!(told, format!("x{}...", "ä".repeat(ERROR_MAX / 2 - 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_a_kind_in_ten_seconds_and_none_is_forgotten() {
        let limit = LogLimit::default();
        assert_eq!(limit.due("tls", "timeout"), Some(None));
        for _ in 0..1000 {
            assert_eq!(limit.due("tls", "timeout"), None);
        }
        assert_eq!(limit.due("tls", "not_tls"), Some(None), "another reason");
        assert_eq!(limit.due("auth", "timeout"), Some(None), "another place");
        tokio::time::advance(INTERVAL).await;
        assert_eq!(limit.due("tls", "timeout"), Some(Some(1000)));
        assert_eq!(limit.due("tls", "timeout"), None);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(limit.due("tls", "timeout"), Some(Some(1)));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(limit.due("tls", "timeout"), Some(None));
    }
}
