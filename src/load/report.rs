//! What a load has found: typed, and as JSON for machines.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::fair::Fairness;
use super::measure::Measured;
use super::options::{Load, Settings};
use super::process::Account;
use super::storm::Storm;

/// The least that a message and a connect can cost a relay, microseconds, and the longest step of the kernel's account.
pub(super) const MESSAGE_US: u64 = 1;
pub(super) const CONNECT_US: u64 = 50;
const STEP_US: u64 = 10_000;

/// One-way latencies, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// How many were recorded.
    pub samples: u64,
    /// Half were at most this.
    pub p50: f64,
    /// 90% were at most this.
    pub p90: f64,
    /// 99% were at most this.
    pub p99: f64,
    /// 99.9% were at most this.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    /// As [`Latency::new`], of a histogram in which there is something.
    pub(super) fn of(recorded: &Histogram<u64>) -> Option<Self> {
        (!recorded.is_empty()).then(|| Self::new(recorded))
    }

    /// Reads a histogram of nanoseconds.
    pub fn new(recorded: &Histogram<u64>) -> Self {
        let at = |quantile| recorded.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            samples: recorded.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: recorded.max() as f64 / 1e3,
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            p50,
            p90,
            p99,
            p999,
            max,
            ..
        } = self;
        write!(
            f,
            "p50 {p50:.0}  p90 {p90:.0}  p99 {p99:.0}  p99.9 {p999:.0}  max {max:.0}"
        )
    }
}

/// The outcome of one load. A field is `None` where the load does not measure it, or `--pid` was not given.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The load's name.
    pub load: &'static str,
    /// Where the senders connected.
    pub target: String,
    /// What messages went over: `plain`, `TLS` or `QUIC`.
    pub over: &'static str,
    /// The relay's name, where it is another than the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the receivers connected, if elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receivers_on: Option<String>,
    /// The measured time, seconds.
    pub seconds: f64,
    /// Pairs of a sender and a receiver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<u64>,
    /// Peers connected (`idle`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<u64>,
    /// Connections being made at a time (`churn`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    /// Payload bytes of a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Messages in a write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<u64>,
    /// Messages in flight for each pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Messages a second and pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// What part of that rate was sent, percent, where it was less than nine tenths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_reached_percent: Option<f64>,
    /// Messages received in the measured time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// The same a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_second: Option<f64>,
    /// Payload bits received a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_second: Option<f64>,
    /// Messages sent over the whole load, warm-up included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// Those of them that never came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// Those of them that came after a later one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reordered: Option<u64>,
    /// Pairs, or idle peers, whose connection ended during the load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// How many of the connections that ended were senders', where receivers connect elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_senders: Option<u64>,
    /// How many were receivers'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_receivers: Option<u64>,
    /// Jain's index over the pairs' messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fairness: Option<f64>,
    /// What each class of senders got (`fair`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fair: Option<Fairness>,
    /// One-way latency (`paced`; `stall`: of the other receivers while one is stalled; `storm`: during it).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// `stall`: the same while all receivers read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_unstalled: Option<Latency>,
    /// `storm`: the same in calm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_calm: Option<Latency>,
    /// What became of the strangers' handshakes (`storm`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm: Option<Storm>,
    /// Connections made and closed (`churn`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connects: Option<u64>,
    /// Connections made a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connects_per_second: Option<f64>,
    /// Health checks that came and were answered (`idle`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_checks: Option<u64>,
    /// The relay's CPU time per message received, microseconds: the figure that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_cpu_us_per_message: Option<f64>,
    /// What of it was spent outside the kernel, in the relay's own code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_user_us_per_message: Option<f64>,
    /// How often one of the relay's threads went to sleep, per message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_sleeps_per_message: Option<f64>,
    /// The relay's CPU time per connection, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_cpu_us_per_connect: Option<f64>,
    /// The relay's CPU time in the measured time, percent of one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_cpu_percent: Option<f64>,
    /// The relay's resident memory before the load, KiB (`idle`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_kib_before: Option<f64>,
    /// The relay's resident memory at the end, KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_kib: Option<f64>,
    /// Growth of the relay's resident memory for each peer, KiB (`idle`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_kib_per_peer: Option<f64>,
    /// This process's CPU time per message received, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_cpu_us_per_message: Option<f64>,
    /// What of it was spent outside the kernel: what the load adds to the calls that it is made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_user_us_per_message: Option<f64>,
    /// This process's CPU time per connection, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_cpu_us_per_connect: Option<f64>,
    /// Whether Ctrl-C ended the measured time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut_short: bool,
    /// What makes a figure doubtful.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Report {
    /// A report that says what is done, and no outcome yet.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            load: settings.load.name(),
            target: settings.target.address().to_string(),
            over: match (&settings.tls, settings.quic) {
                (None, _) => "plain",
                (Some(_), false) => "TLS",
                (Some(_), true) => "QUIC",
            },
            name: settings.target.name().map(str::to_owned),
            receivers_on: settings.receivers_on.map(|address| address.to_string()),
            ..Self::default()
        }
    }

    /// A relay that did work of so many microseconds at the least has used CPU time; the kernel's account may be in steps.
    pub(super) fn doubt_the_process(&mut self, before: &Account, after: &Account, least_us: u64) {
        if after.cpu_since(before) == 0 && least_us > STEP_US {
            self.notes.push(
                "the process of --pid used no CPU time: it is probably not the relay".to_owned(),
            );
        }
    }

    /// The report of a load that sends, without its latencies.
    pub(super) fn of_traffic(settings: &Settings, measured: &Measured) -> Self {
        let seconds = measured.time.as_secs_f64();
        let each = measured.messages.max(1) as f64;
        let us_each = |ns: u64| ns as f64 / 1e3 / each;
        let relay = measured.relay.as_ref();
        let with_rate = matches!(settings.load, Load::Paced | Load::Stall | Load::Storm);
        let mut report = Self {
            seconds,
            pairs: Some(settings.pairs as u64),
            size: Some(settings.size as u64),
            batch: Some(settings.batch as u64),
            window: (settings.load == Load::Flow).then_some(settings.window),
            rate: with_rate.then_some(settings.rate),
            rate_reached_percent: with_rate
                .then(|| rate_reached(settings, measured))
                .flatten(),
            messages: Some(measured.messages),
            messages_per_second: Some(measured.messages as f64 / seconds),
            bits_per_second: Some(measured.payload_bytes as f64 * 8.0 / seconds),
            sent: Some(measured.sent),
            lost: Some(measured.lost),
            reordered: Some(measured.reordered),
            ended: Some(measured.ended),
            ended_senders: settings.receivers_on.map(|_| measured.ended_sides.0),
            ended_receivers: settings.receivers_on.map(|_| measured.ended_sides.1),
            fairness: (measured.messages > 0).then_some(measured.fairness),
            relay_cpu_us_per_message: relay.map(|(before, after)| us_each(after.cpu_since(before))),
            relay_user_us_per_message: relay
                .map(|(before, after)| us_each(after.user_since(before))),
            relay_sleeps_per_message: relay
                .map(|(before, after)| after.sleeps_since(before) as f64 / each),
            relay_cpu_percent: relay
                .map(|(before, after)| after.cpu_since(before) as f64 / 1e7 / seconds),
            relay_kib: relay.map(|(_, after)| after.resident as f64 / 1024.0),
            own_cpu_us_per_message: Some(us_each(measured.own.1.cpu_since(&measured.own.0))),
            own_user_us_per_message: Some(us_each(measured.own.1.user_since(&measured.own.0))),
            ..Self::new(settings)
        };
        if let Some((before, after)) = relay {
            report.doubt_the_process(before, after, measured.messages * MESSAGE_US);
        }
        report
    }

    /// One JSON object on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, strings and fixed keys always serialize")
    }
}

/// What part of the asked rate was sent, percent, where it is less than nine tenths and more than a beat of each pair is missing.
fn rate_reached(settings: &Settings, measured: &Measured) -> Option<f64> {
    let asked = settings.rate * settings.pairs as f64 * measured.time.as_secs_f64();
    let sent = measured.sent_in_time as f64;
    let beat = (settings.pairs * settings.batch) as f64;
    (sent < 0.9 * asked && sent + beat < asked).then(|| 100.0 * sent / asked)
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
