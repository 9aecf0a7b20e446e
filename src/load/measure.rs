//! Measures a load that runs: warm-up, the measured time, and the drain in which the last messages may still come.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::engine::{Shared, Tally};
use super::error::LoadError;
use super::interrupt::Interrupt;
use super::options::Settings;
use super::process::{Account, Process};
use super::progress::Progress;
use super::quic::unanswered;

/// How often pairs are looked after.
const TICK: Duration = Duration::from_millis(250);
/// A pair whose window has not moved for so many ticks has lost what is in it.
const STUCK_TICKS: u32 = 4;
/// The drain is over when nothing has come for so many ticks,
const QUIET_TICKS: u32 = 4;
/// and after so many in any case.
const DRAIN_TICKS: u32 = 40;

/// What was measured, over the measured time unless said otherwise.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// How long it was.
    pub(super) time: Duration,
    /// Messages received.
    pub(super) messages: u64,
    /// Their payload, bytes.
    pub(super) payload_bytes: u64,
    /// Jain's index over the pairs' messages: 1 when all had the same share.
    pub(super) fairness: f64,
    /// Messages sent in the measured time.
    pub(super) sent_in_time: u64,
    /// Messages sent over the whole load.
    pub(super) sent: u64,
    /// Messages of the whole load that never came.
    pub(super) lost: u64,
    /// Messages of the whole load that came after a later one.
    pub(super) reordered: u64,
    /// Pairs that lost a connection.
    pub(super) ended: u64,
    /// Senders and receivers that did.
    pub(super) ended_sides: (u64, u64),
    /// The relay's account, before and after, if its process is known.
    pub(super) relay: Option<(Account, Account)>,
    /// This process's account, before and after.
    pub(super) own: (Account, Account),
}

/// Reads the accounts of the relay, if known, and of this process.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    /// Its pods.
    relay: Vec<Process>,
    own: Process,
}

impl Meter {
    /// For the relay with these process IDs.
    pub(super) fn new(pids: &[u32]) -> Result<Self, LoadError> {
        Ok(Self {
            relay: pids
                .iter()
                .map(|&pid| Process::new(pid))
                .collect::<Result<_, _>>()?,
            own: Process::own(),
        })
    }

    /// The relay's account now, that of all its pods added up.
    pub(super) fn relay(&self) -> Result<Option<Account>, LoadError> {
        let accounts = self.relay.iter().map(Process::account_still);
        accounts.reduce(|sum, pod| Ok(sum?.plus(&pod?))).transpose()
    }

    /// This process's account now.
    pub(super) fn own(&self) -> Result<Account, LoadError> {
        self.own.account()
    }
}

/// Lets the pairs run and measures them. Latencies are recorded in `shared` during the measured time alone.
pub(super) async fn measure(
    settings: &Settings,
    interrupt: &Interrupt,
    shared: &Shared,
    tallies: &[Rc<Tally>],
) -> Result<Measured, LoadError> {
    let meter = Meter::new(&settings.pids)?;
    let mut watch = Watch {
        tallies,
        interrupt,
        seen: vec![(0, 0); tallies.len()],
        progress: Progress::new(settings.progress),
    };
    watch.run(settings.warmup, "warm-up", settings).await?;

    shared.record(true);
    let start = Instant::now();
    let received: Vec<u64> = tallies.iter().map(|tally| tally.received()).collect();
    let sum = |value: fn(&Tally) -> u64| tallies.iter().map(|tally| value(tally)).sum::<u64>();
    let (bytes, sent) = (sum(Tally::payload_bytes), sum(Tally::sent));
    let before = (meter.relay()?, meter.own()?);
    interrupt.measuring(true);
    watch
        .run(settings.duration, settings.load.name(), settings)
        .await?;
    interrupt.measuring(false);
    let after = (meter.relay()?, meter.own()?);
    let time = start.elapsed();
    let shares: Vec<u64> = tallies
        .iter()
        .zip(&received)
        .map(|(tally, before)| tally.received() - before)
        .collect();
    let payload_bytes = sum(Tally::payload_bytes) - bytes;
    let sent_in_time = sum(Tally::sent) - sent;
    shared.record(false);
    shared.stop();
    watch.drain().await;
    call_the_roll(tallies).await;
    watch.some_are_left(settings)?;
    if watch.received() == received.iter().sum::<u64>() && sum(Tally::lost) > 0 {
        return Err(settings.nothing_arrived(sum(Tally::sent)));
    }

    Ok(Measured {
        time,
        messages: shares.iter().sum(),
        payload_bytes,
        fairness: jain(&shares.iter().map(|&share| share as f64).collect::<Vec<_>>()),
        sent_in_time,
        sent: sum(Tally::sent),
        lost: sum(Tally::lost),
        reordered: sum(Tally::reordered),
        ended: count(tallies, Tally::ended),
        ended_sides: ended_sides(tallies),
        relay: before.0.zip(after.0),
        own: (before.1, after.1),
    })
}

fn count(tallies: &[Rc<Tally>], which: fn(&Tally) -> bool) -> u64 {
    tallies.iter().filter(|tally| which(tally)).count() as u64
}

/// How many senders, and how many receivers, have lost their connection.
fn ended_sides(tallies: &[Rc<Tally>]) -> (u64, u64) {
    let (senders, receivers) = (Tally::sender_ended, Tally::receiver_ended);
    (count(tallies, senders), count(tallies, receivers))
}

/// Ends the pairs that get no answer any more, which TCP tells by itself and QUIC does not.
async fn call_the_roll(tallies: &[Rc<Tally>]) {
    let quic: Vec<_> = tallies
        .iter()
        .filter(|tally| !tally.ended())
        .filter_map(|tally| Some((tally, tally.quic()?)))
        .collect();
    let connections: Vec<_> = quic.iter().flat_map(|(_, (one, two))| [one, two]).collect();
    let silent = unanswered(&connections).await;
    for ((tally, _), silent) in quic.iter().zip(silent.chunks(2)) {
        tally.end(silent[0], silent[1]);
    }
}

/// Looks after the pairs while they run.
struct Watch<'a> {
    tallies: &'a [Rc<Tally>],
    interrupt: &'a Interrupt,
    /// For each pair: messages received at the last tick, and ticks without a change.
    seen: Vec<(u64, u32)>,
    progress: Progress,
}

impl Watch<'_> {
    async fn run(
        &mut self,
        time: Duration,
        what: &str,
        settings: &Settings,
    ) -> Result<(), LoadError> {
        let start = Instant::now();
        let first = self.received();
        while let Some(rest) = self.interrupt.left(start, time) {
            sleep(rest.min(TICK)).await;
            self.free_the_stuck();
            self.some_are_left(settings)?;
            let (elapsed, count) = (start.elapsed().as_secs_f64(), self.received() - first);
            self.progress.show(|| {
                format!(
                    "{what}: {elapsed:.1} of {:.1} s, {} pairs, {count} messages, {:.0} a second",
                    time.as_secs_f64(),
                    settings.pairs,
                    count as f64 / elapsed
                )
            });
        }
        Ok(())
    }

    /// A load without a single pair is over.
    fn some_are_left(&self, settings: &Settings) -> Result<(), LoadError> {
        if self.tallies.iter().any(|tally| !tally.ended()) {
            return Ok(());
        }
        let (senders, receivers) = ended_sides(self.tallies);
        let which = settings.places(senders, receivers);
        Err(LoadError::AllEnded { which })
    }

    fn received(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.received()).sum()
    }

    /// A window whose last messages were lost would stay shut for ever.
    fn free_the_stuck(&mut self) {
        for (tally, (received, ticks)) in self.tallies.iter().zip(&mut self.seen) {
            if *received != tally.received() || tally.in_flight() == 0 {
                (*received, *ticks) = (tally.received(), 0);
                continue;
            }
            *ticks += 1;
            if *ticks >= STUCK_TICKS {
                *ticks = 0;
                tally.forgive();
            }
        }
    }

    async fn drain(&mut self) {
        let (mut last, mut quiet) = (self.received(), 0);
        for _ in 0..DRAIN_TICKS {
            if self
                .tallies
                .iter()
                .all(|tally| tally.ended() || tally.lost() == 0)
            {
                return;
            }
            sleep(TICK).await;
            let now = self.received();
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
            if quiet >= QUIET_TICKS {
                return;
            }
        }
    }
}

/// Jain's index: (sum x)^2 / (n * sum x^2); 1 for equal shares, 1/n when one has all, and 1 when there is nothing to share.
pub(super) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share.powi(2)).sum();
    if squares == 0.0 {
        1.0
    } else {
        sum * sum / (shares.len() as f64 * squares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_of_known_shares() {
        assert_eq!(jain(&[5.0, 5.0, 5.0, 5.0]), 1.0);
        assert_eq!(jain(&[8.0, 0.0, 0.0, 0.0]), 0.25);
        assert_eq!(jain(&[1.0, 3.0]), 16.0 / 20.0);
        assert_eq!(jain(&[0.0, 0.0]), 1.0);
    }
}
