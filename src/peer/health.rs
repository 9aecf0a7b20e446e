//! Is the peer still there? (peer-protocol.md, *A connected peer*, Health)
//!
//! One timer per connection, set for whichever comes first: the next question or the end of a window without an answer. It
//! fires every 25 s and is not touched by traffic.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// How often the relay asks. The client gives up after 35 s without a question, so this is not free to grow.
pub(super) const INTERVAL: Duration = Duration::from_secs(25);

/// The first question comes up to this much earlier, at random: clients that reconnect at the same instant would otherwise
/// all be asked, and all answer, in the same instant for ever after.
const SPREAD: Duration = Duration::from_secs(5);

/// How long an answer may be missing before that counts as a miss.
pub(super) const WINDOW: Duration = Duration::from_secs(45);

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Ask the peer.
    Ask,
    /// The peer has not answered for the last time.
    Dead,
}

/// The rhythm of one connection.
#[derive(Debug)]
pub(super) struct HealthCheck {
    sleep: Pin<Box<Sleep>>,
    ask_at: Instant,
    window_end: Instant,
    missed: u32,
    threshold: u32,
}

impl HealthCheck {
    /// `threshold`: so many windows in a row may pass without an answer, and with the last the peer counts as dead.
    pub(super) fn new(threshold: u32) -> Self {
        let now = Instant::now();
        let ask_at = now + INTERVAL - SPREAD.mul_f64(rand::random());
        Self {
            sleep: Box::pin(tokio::time::sleep_until(ask_at)),
            ask_at,
            window_end: now + WINDOW,
            missed: 0,
            threshold,
        }
    }

    /// The peer answered.
    pub(super) fn answered(&mut self) {
        self.missed = 0;
        self.window_end = Instant::now() + WINDOW;
    }

    /// Waits for the next thing to do. Cancel-safe.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = Instant::now();
            let mut ask = false;
            if now >= self.ask_at {
                self.ask_at = now + INTERVAL;
                ask = true;
            }
            if now >= self.window_end {
                self.missed += 1;
                self.window_end = now + WINDOW;
                if self.missed >= self.threshold {
                    return Poll::Ready(Due::Dead);
                }
            }
            // `answered` moves the window without touching the timer: it may then fire early, and waits on.
            self.sleep.as_mut().reset(self.ask_at.min(self.window_end));
            if ask {
                return Poll::Ready(Due::Ask);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn next(check: &mut HealthCheck) -> Due {
        poll_fn(|cx| check.poll_due(cx)).await
    }

    #[tokio::test(start_paused = true)]
    async fn asks_every_25_s_while_the_peer_answers() {
        let started = Instant::now();
        let mut check = HealthCheck::new(1);
        for turn in 0..200 {
            assert_eq!(next(&mut check).await, Due::Ask);
            let at = started.elapsed().as_secs_f64() - f64::from(turn) * 25.0;
            assert!((19.9..25.5).contains(&at), "question {turn}: {at}");
            check.answered();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_after_the_window() {
        for threshold in [1, 3] {
            let started = Instant::now();
            let mut check = HealthCheck::new(threshold);
            while next(&mut check).await == Due::Ask {}
            let lived = started.elapsed().as_secs();
            assert!(
                (45..=46).contains(&(lived / u64::from(threshold))),
                "{lived} s with threshold {threshold}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_starts_the_count_again() {
        let started = Instant::now();
        let mut check = HealthCheck::new(2);
        let mut answered = false;
        loop {
            if next(&mut check).await == Due::Dead {
                break;
            }
            // Asked at about 70 s, after the first window was missed.
            if !answered && started.elapsed() > Duration::from_secs(60) {
                check.answered();
                answered = true;
            }
        }
        assert!(started.elapsed() >= Duration::from_secs(60 + 90));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_one_instant_do_not_beat_in_step() {
        let mut seconds = std::collections::HashSet::new();
        for _ in 0..64 {
            seconds.insert(HealthCheck::new(1).ask_at);
        }
        assert!(seconds.len() > 32, "{} instants of 64", seconds.len());
    }
}
