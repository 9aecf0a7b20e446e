//! The wall clock, in whole seconds: what tokens and registrations are dated with.
//!
//! Durations and deadlines are not its business; they come from `tokio::time`, which tests can pause. This is the one
//! place that asks the system for the date, so that a test can put its own in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
#[allow(
    clippy::disallowed_types,
    reason = "the one door through which the date comes in"
)]
use std::time::SystemTime;

/// Tells Unix seconds. Cheap to clone; clones tell the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Fixed(u64),
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The system's clock. Before 1970 it tells 0.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still at this second.
    pub const fn fixed(unix_seconds: u64) -> Self {
        Self(Source::Fixed(unix_seconds))
    }

    /// A clock that starts at this second and moves only when its [`ManualClock`] is told to.
    pub fn manual(unix_seconds: u64) -> (Self, ManualClock) {
        let seconds = Arc::new(AtomicU64::new(unix_seconds));
        (
            Self(Source::Manual(Arc::clone(&seconds))),
            ManualClock(seconds),
        )
    }

    /// Seconds since 1970-01-01 00:00 UTC, rounded down.
    pub fn now_unix(&self) -> u64 {
        match &self.0 {
            Source::System => system_now(),
            Source::Fixed(seconds) => *seconds,
            // Nothing else is published through this number, so no order is needed.
            Source::Manual(seconds) => seconds.load(Ordering::Relaxed),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// The hand that moves a clock made by [`Clock::manual`].
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Puts the clock to this second, forwards or back.
    pub fn set(&self, unix_seconds: u64) {
        self.0.store(unix_seconds, Ordering::Relaxed);
    }

    /// Moves the clock on by this many seconds.
    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

#[allow(
    clippy::disallowed_types,
    reason = "the one door through which the date comes in"
)]
fn system_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_clock_stands_still() {
        let clock = Clock::fixed(1_786_752_000);
        assert_eq!(clock.now_unix(), 1_786_752_000);
        assert_eq!(clock.now_unix(), 1_786_752_000);
    }

    #[test]
    fn manual_clock_moves_in_every_clone() {
        let (clock, hand) = Clock::manual(100);
        let clone = clock.clone();
        hand.advance(5);
        assert_eq!((clock.now_unix(), clone.now_unix()), (105, 105));
        hand.set(3);
        assert_eq!((clock.now_unix(), clone.now_unix()), (3, 3));
    }

    #[test]
    fn system_clock_tells_a_date_of_this_age_and_never_goes_back() {
        let (first, second) = (Clock::system().now_unix(), Clock::default().now_unix());
        // 2025-01-01 to 2200-01-01: seconds, then, and not milliseconds.
        assert!((1_735_689_600..7_258_118_400).contains(&first), "{first}");
        assert!(second >= first);
    }
}
