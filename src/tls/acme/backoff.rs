//! How long to wait after a failed order.

use std::time::Duration;

use rand::RngExt as _;

use super::AcmeError;

/// After a failure that cost the authority nothing: from 5 s, so that a start before the network is no great matter, to half an hour.
const FREE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30 * 60));

/// After one that it counts: from 2 minutes to six hours. The sixth attempt comes after 62 minutes or more: Let's Encrypt allows five
/// failed ones an hour.
const COUNTED: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(6 * 3600));

/// The failures since the last success.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    counted: u32,
    last: String,
}

impl Backoff {
    /// Takes note of a failure, and says how long to wait (up to a tenth longer than need be, so that several relays do not go in
    /// step), and whether it is another failure than the last one.
    pub(super) fn failed(&mut self, error: &AcmeError) -> (Duration, bool) {
        let text = error.text();
        let is_new = text != self.last;
        self.last = text;
        let ((first, most), count) = if error.uses_up_attempts() {
            (COUNTED, &mut self.counted)
        } else {
            (FREE, &mut self.failures)
        };
        let wait = first.saturating_mul(1 << (*count).min(16)).min(most);
        *count += 1;
        (wait.mul_f64(rand::rng().random_range(1.0..1.1)), is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(error: impl Fn() -> AcmeError, count: usize) -> Vec<u64> {
        let mut backoff = Backoff::default();
        let wait = |_| backoff.failed(&error()).0.as_secs();
        (0..count).map(wait).collect()
    }

    #[test]
    fn what_the_authority_counts_is_tried_five_times_in_the_first_hour() {
        for _ in 0..1000 {
            let waits = waits(|| AcmeError::TimedOut, 20);
            let mut since_start = 0;
            let attempts = waits.iter().take_while(|&&wait| {
                since_start += wait;
                since_start <= 3600
            });
            assert_eq!(1 + attempts.count(), 5, "{waits:?}");
            assert!(waits.iter().all(|&wait| wait < 7 * 3600), "{waits:?}");
            assert!(waits[19] > 5 * 3600, "{waits:?}");
        }
    }

    #[test]
    fn an_authority_that_is_not_there_is_soon_tried_again() {
        let unreachable = || AcmeError::Unreachable("nobody".into());
        let waits = waits(unreachable, 20);
        assert!(waits[..4].iter().sum::<u64>() < 90, "{waits:?}");
        assert!(waits[19] < 2000, "{waits:?}");
    }

    #[test]
    fn the_same_failure_is_new_once() {
        let mut backoff = Backoff::default();
        let unreachable = |why: &'static str| AcmeError::Unreachable(why.into());
        assert!(backoff.failed(&unreachable("refused")).1);
        assert!(!backoff.failed(&unreachable("refused")).1);
        assert!(backoff.failed(&unreachable("no such host")).1);
        assert!(backoff.failed(&AcmeError::TimedOut).1);
    }
}
