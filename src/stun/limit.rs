//! How often one source may ask: a token bucket for each, in a table of bounded size.
//!
//! Owns no clock: whoever asks brings the time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::source::Source;

/// Questions that a source may ask at once: a household's or a small office's clients behind one NAT that start together.
const BURST: u16 = 64;

/// The time after which a source may ask once more.
const REFILL: Duration = Duration::from_millis(50);

/// Sources that are remembered (about 1.5 MiB a socket). While they are all busy, further ones have to wait.
const SOURCES_MAX: usize = 32_768;

/// How often a full table is searched for sources that may be forgotten; a search takes well below a millisecond.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// What is left of a source's burst, as the moment at which it is whole again.
#[derive(Debug)]
pub(super) struct Limiter {
    whole_at: HashMap<Source, Instant>,
    swept: Instant,
}

impl Limiter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            whole_at: HashMap::new(),
            swept: now,
        }
    }

    /// Whether this source may ask now; if so, that has been counted.
    pub(super) fn allows(&mut self, ip: IpAddr, now: Instant) -> bool {
        let source = Source::from(ip);
        if self.whole_at.len() >= SOURCES_MAX && !self.whole_at.contains_key(&source) {
            self.sweep(now);
            if self.whole_at.len() >= SOURCES_MAX {
                return false;
            }
        }
        let whole_at = self.whole_at.entry(source).or_insert(now);
        let next = (*whole_at).max(now) + REFILL;
        let allowed = next <= now + REFILL * u32::from(BURST);
        if allowed {
            *whole_at = next;
        }
        allowed
    }

    fn sweep(&mut self, now: Instant) {
        if now < self.swept + SWEEP_INTERVAL {
            return;
        }
        self.swept = now;
        self.whole_at.retain(|_, whole_at| *whole_at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn asks(limiter: &mut Limiter, from: &str, times: usize, now: Instant) -> usize {
        (0..times).filter(|_| limiter.allows(ip(from), now)).count()
    }

    #[test]
    fn a_source_has_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        assert_eq!(asks(&mut limiter, "192.0.2.1", 1000, start), 64);
        assert_eq!(
            asks(&mut limiter, "192.0.2.2", 3, start),
            3,
            "others are not touched"
        );
        let later = start + REFILL * 3;
        assert_eq!(asks(&mut limiter, "192.0.2.1", 1000, later), 3);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(asks(&mut limiter, "192.0.2.1", 1000, much_later), 64);
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        assert_eq!(asks(&mut limiter, "2001:db8:0:1::1", 1000, start), 64);
        assert_eq!(asks(&mut limiter, "2001:db8:0:1:ffff::2", 1000, start), 0);
        assert_eq!(asks(&mut limiter, "2001:db8:0:2::1", 1000, start), 64);
    }

    #[test]
    fn the_table_is_bounded_and_swept() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let all = SOURCES_MAX as u32;
        for bits in 0..all * 2 {
            let allowed = limiter.allows(IpAddr::V4(bits.into()), start);
            assert_eq!(allowed, bits < all, "{bits}");
        }
        assert_eq!(limiter.whole_at.len(), SOURCES_MAX);
        assert!(
            limiter.allows(IpAddr::V4(0.into()), start),
            "who is known goes on"
        );
        let later = start + Duration::from_secs(1);
        assert!(limiter.allows(ip("192.0.2.1"), later));
        assert_eq!(
            limiter.whole_at.len(),
            1,
            "the others are whole and forgotten"
        );
    }
}
