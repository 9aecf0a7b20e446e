//! Whether the other end still lives: PING every five seconds, and fifteen seconds of silence are the end (cluster-protocol.md, fault 5).

use std::time::Duration;

use tokio::time::Instant;

/// How often a PING is sent.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long a pod that answers PINGs may be silent.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(15);

/// What is due when the time that [`Pinger::next`] named has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Send a PING. `lost`: the one before it was not answered, by a pod that answers.
    Ping { lost: bool },
    /// Nothing was heard for too long: close the stream.
    Silence,
    /// Nothing yet.
    Nothing,
}

/// When one stream was heard of, and when it is to be asked.
#[derive(Debug)]
pub(super) struct Pinger {
    next_ping: Instant,
    heard: Instant,
    /// Only a pod that has answered once is held to it: a stock pod never does.
    answers: bool,
    waiting: bool,
}

impl Pinger {
    /// For a stream on which a PING was sent at this moment.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next_ping: now + PING_INTERVAL,
            heard: now,
            answers: false,
            waiting: true,
        }
    }

    /// Something came in.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// A PONG came in.
    pub(super) fn answered(&mut self) {
        self.answers = true;
        self.waiting = false;
    }

    /// When to ask [`due`](Self::due) again.
    pub(super) fn next(&self) -> Instant {
        if self.answers {
            self.next_ping.min(self.heard + SILENCE_MAX)
        } else {
            self.next_ping
        }
    }

    /// What is due now.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        if self.answers && now >= self.heard + SILENCE_MAX {
            return Due::Silence;
        }
        if now < self.next_ping {
            return Due::Nothing;
        }
        self.next_ping = now + PING_INTERVAL;
        let lost = self.answers && self.waiting;
        self.waiting = true;
        Due::Ping { lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_answers_is_held_to_it_to_the_second() {
        let start = Instant::now();
        let mut pinger = Pinger::new(start);
        assert_eq!(pinger.next(), start + PING_INTERVAL);
        assert_eq!(pinger.due(start), Due::Nothing);
        pinger.answered();
        let heard = start + Duration::from_secs(1);
        pinger.heard(heard);
        assert_eq!(pinger.due(pinger.next()), Due::Ping { lost: false });
        assert_eq!(pinger.due(pinger.next()), Due::Ping { lost: true });
        assert_eq!(pinger.due(pinger.next()), Due::Ping { lost: true });
        assert_eq!(pinger.next(), heard + SILENCE_MAX);
        assert_eq!(pinger.due(pinger.next()), Due::Silence);
    }

    #[test]
    fn a_pod_that_never_answers_is_left_alone() {
        let mut pinger = Pinger::new(Instant::now());
        for _ in 0..100 {
            assert_eq!(pinger.due(pinger.next()), Due::Ping { lost: false });
        }
    }
}
