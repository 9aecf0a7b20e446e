//! The rounds: all sources are asked, what came of it is told, and after a while they are asked again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};
use tokio::sync::watch;
use tokio::time::sleep;
use tower::retry::backoff::{
    Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff as _,
};
use tower::timeout::Timeout;
use tower::util::rng::HasherRng;
use tower::{BoxError, ServiceExt as _};
use tracing::{debug, info, warn};

use super::resolve::{Answer, Family, Resolver};
use super::source::Source;
use crate::telemetry::names;

/// The longest time between two rounds (cluster-protocol.md, *Fixed facts*).
pub const INTERVAL: Duration = Duration::from_secs(10);

/// The shortest time between two rounds, however short the TTL: a DNS that forbids caching must not be asked without end.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The first pause after a round without an answer; it doubles up to the interval.
const RETRY_FIRST: Duration = Duration::from_millis(500);

/// By how much of itself a pause after a failure may be longer: pods that start together do not ask together for ever.
const RETRY_JITTER: f64 = 0.5;

/// What the rounds have found so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovered {
    /// The other pods; never this one.
    pub pods: BTreeSet<SocketAddr>,
    /// How many rounds have had an answer. From the first one on it is known who is there.
    pub rounds: u64,
}

/// How a round ended, the worse first; the words are the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// No source had an answer.
    Failed,
    /// The names exist nowhere, or have no addresses.
    Nothing,
    /// There are addresses, if only our own.
    Found,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Found, Self::Nothing, Self::Failed];

    const fn name(self) -> &'static str {
        match self {
            Self::Found => "ok",
            Self::Nothing => "empty",
            Self::Failed => "failed",
        }
    }
}

/// One source and what is known of it.
#[derive(Debug)]
struct Known {
    source: Source,
    pods: BTreeSet<SocketAddr>,
    /// What was wrong the last time, so that it is logged once.
    complaint: Option<String>,
}

/// Finds the other pods. Made with what it needs, then [`run`](Self::run).
#[derive(Debug)]
pub struct Discovery {
    own: SocketAddr,
    known: Vec<Known>,
    resolver: Resolver,
    interval: Duration,
    rounds: Counter<u64>,
    found: watch::Sender<Discovered>,
}

impl Discovery {
    /// `own` is the address that this pod announces, which is never told. `interval` is the longest time between two rounds, and
    /// twice the time that an answer is waited for.
    #[must_use]
    pub fn new(
        own: SocketAddr,
        sources: impl IntoIterator<Item = Source>,
        resolver: Resolver,
        interval: Duration,
        meter: &Meter,
    ) -> (Self, watch::Receiver<Discovered>) {
        let (found, told) = watch::channel(Discovered::default());
        let known = sources.into_iter().map(|source| Known {
            source,
            pods: BTreeSet::new(),
            complaint: None,
        });
        let rounds = meter
            .u64_counter(names::DISCOVERY_ROUNDS)
            .with_description("Rounds in which the other pods were looked for, by result.")
            .build();
        for outcome in Outcome::ALL {
            rounds.add(0, &[KeyValue::new(names::RESULT, outcome.name())]);
        }
        let seen = told.clone();
        meter
            .u64_observable_gauge(names::DISCOVERED_PODS)
            .with_description("Other pods that the last answers named.")
            .with_callback(move |observer| {
                observer.observe(seen.borrow().pods.len() as u64, &[]);
            })
            .build();
        let discovery = Self {
            own: SocketAddr::new(own.ip().to_canonical(), own.port()),
            known: known.collect(),
            resolver: Resolver::new(Timeout::new(resolver, interval / 2)),
            interval,
            rounds,
            found,
        };
        (discovery, told)
    }

    /// Asks for ever, the first time at once. Cancel-safe: dropping the future ends it.
    pub async fn run(mut self) {
        let mut backoff = self.backoff();
        loop {
            let (outcome, ttl) = self.round().await;
            self.rounds
                .add(1, &[KeyValue::new(names::RESULT, outcome.name())]);
            if outcome == Outcome::Found {
                backoff = self.backoff();
                let longest = self.interval;
                sleep(ttl.clamp(PAUSE_MIN.min(longest), longest)).await;
            } else {
                backoff.next_backoff().await;
            }
        }
    }

    fn backoff(&self) -> ExponentialBackoff {
        ExponentialBackoffMaker::new(
            RETRY_FIRST.min(self.interval),
            self.interval,
            RETRY_JITTER,
            HasherRng::default(),
        )
        .expect("the first pause is not longer than the longest, and neither is zero")
        .make_backoff()
    }

    /// Asks every source once and tells what is known then. The time is that for which the answers hold.
    async fn round(&mut self) -> (Outcome, Duration) {
        let family = Family::of(self.own.ip());
        let answers = self.known.iter().map(|known| {
            let resolver = self.resolver.clone();
            async move {
                match known.source.question(family) {
                    Some(question) => resolver.oneshot(question).await,
                    None => Ok(known.source.fixed()),
                }
            }
        });
        let answers = join_all(answers).await;
        let mut outcome = Outcome::Failed;
        let mut ttl = Duration::MAX;
        for (known, answer) in self.known.iter_mut().zip(answers) {
            if let Ok(answer) = &answer {
                ttl = ttl.min(answer.ttl);
            }
            // One source with an answer makes the round a success: a name in a list may belong to a machine that is gone for good.
            outcome = outcome.max(known.learn(answer));
        }
        if outcome != Outcome::Failed {
            self.tell();
        }
        (outcome, ttl)
    }

    fn tell(&self) {
        let mut pods: BTreeSet<SocketAddr> = self
            .known
            .iter()
            .flat_map(|known| known.pods.iter().copied())
            .collect();
        pods.remove(&self.own);
        self.found.send_modify(|found| {
            if found.pods != pods {
                info!(
                    pods = pods.len(),
                    new = listed(pods.difference(&found.pods)),
                    gone = listed(found.pods.difference(&pods)),
                    "the other pods have been looked up: there is a change"
                );
                found.pods = pods;
            }
            found.rounds += 1;
        });
    }
}

impl Known {
    /// What fails changes nothing. Neither does a name that has no addresses any more: our own pod would be among them, so that is
    /// a Service without ready pods, or somebody's slip, and whoever is behind the known addresses may well be alive.
    fn learn(&mut self, answer: Result<Answer, BoxError>) -> Outcome {
        let (outcome, complaint) = match answer {
            Ok(answer) if answer.pods.is_empty() => {
                let complaint = "there are no addresses behind this name (yet?)".to_owned();
                (Outcome::Nothing, Some(complaint))
            }
            Ok(answer) => {
                self.pods = answer.pods;
                (Outcome::Found, None)
            }
            Err(error) => (Outcome::Failed, Some(error.to_string())),
        };
        match &complaint {
            Some(text) if complaint != self.complaint => {
                warn!(source = %self.source, error = text, "pods cannot be looked up: those that are known stay");
            }
            None if self.complaint.is_some() => {
                info!(source = %self.source, "pods can be looked up again");
            }
            Some(_) | None => {
                debug!(source = %self.source, pods = self.pods.len(), "pods looked up")
            }
        }
        self.complaint = complaint;
        outcome
    }
}

/// Addresses in one field of a log line.
fn listed<'a>(addresses: impl Iterator<Item = &'a SocketAddr>) -> String {
    let texts: Vec<String> = addresses.map(SocketAddr::to_string).collect();
    texts.join(",")
}

#[cfg(test)]
#[path = "rounds_tests.rs"]
mod tests;
