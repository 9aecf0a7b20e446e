//! What a load has found: typed, as a table for people, as JSON for machines.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::fair::Fairness;
use super::measure::Measured;
use super::options::{Load, Settings};
use super::storm::Storm;

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
}

impl Report {
    /// A report that says what is done, and no outcome yet.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            load: settings.load.name(),
            target: settings.target.address().to_string(),
            ..Self::default()
        }
    }

    /// The report of a load that sends, without its latencies.
    pub(super) fn of_traffic(settings: &Settings, measured: &Measured) -> Self {
        let seconds = measured.time.as_secs_f64();
        let each = measured.messages.max(1) as f64;
        let us_each = |ns: u64| ns as f64 / 1e3 / each;
        let relay = measured.relay.as_ref();
        Self {
            seconds,
            pairs: Some(settings.pairs as u64),
            size: Some(settings.size as u64),
            batch: Some(settings.batch as u64),
            window: (settings.load == Load::Flow).then_some(settings.window),
            rate: matches!(settings.load, Load::Paced | Load::Stall | Load::Storm)
                .then_some(settings.rate),
            messages: Some(measured.messages),
            messages_per_second: Some(measured.messages as f64 / seconds),
            bits_per_second: Some(measured.payload_bytes as f64 * 8.0 / seconds),
            sent: Some(measured.sent),
            lost: Some(measured.lost),
            reordered: Some(measured.reordered),
            ended: Some(measured.ended),
            fairness: Some(measured.fairness),
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
        }
    }

    /// One JSON object on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, strings and fixed keys always serialize")
    }

    /// The table's rows: what, and how much.
    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let mut row = |what, text: Option<String>| rows.extend(text.map(|text| (what, text)));
        let count = |value: Option<u64>| value.map(grouped);
        let whole = |value: Option<f64>| value.map(|value| grouped(value.round().max(0.0) as u64));
        let fine = |value: Option<f64>, unit: &str| value.map(|value| format!("{value:.2}{unit}"));
        let split = |all: Option<f64>, user: Option<f64>| {
            let user = user.map(|user| format!(" ({user:.2} outside the kernel)"));
            all.map(|all| format!("{all:.2} us{}", user.unwrap_or_default()))
        };
        row(
            "load",
            Some(format!(
                "{} on {}, {:.1} s",
                self.load, self.target, self.seconds
            )),
        );
        row("pairs", count(self.pairs));
        row("peers", count(self.peers));
        row("connecting at a time", count(self.concurrency));
        row("payload", count(self.size).map(|size| format!("{size} B")));
        row("messages a write", count(self.batch));
        row("window", count(self.window));
        row("rate a sender", fine(self.rate, " /s"));
        row("messages", count(self.messages));
        row("messages a second", whole(self.messages_per_second));
        row("payload a second", self.bits_per_second.map(bits));
        row("sent, warm-up included", count(self.sent));
        row("lost", self.lost.map(|lost| share(lost, self.sent)));
        row("reordered", count(self.reordered));
        row("connections ended", count(self.ended));
        row(
            "fairness (Jain)",
            self.fairness.map(|index| format!("{index:.4}")),
        );
        if let Some(fair) = &self.fair {
            row("modest senders", Some(grouped(fair.modest)));
            row(
                "receiver reads",
                Some(format!("{:.0} /s", fair.receive_rate)),
            );
            let of = |got: u64, sent: u64| Some(format!("{} of {}", grouped(got), grouped(sent)));
            row(
                "flood got through",
                of(fair.flood_delivered, fair.flood_sent),
            );
            row(
                "modest got through",
                of(fair.modest_delivered, fair.modest_sent),
            );
            row(
                "one modest sender got",
                Some(format!(
                    "{} to {}",
                    grouped(fair.modest_least),
                    grouped(fair.modest_most)
                )),
            );
            row("Jain, of messages", Some(format!("{:.4}", fair.jain)));
            row(
                "Jain, of fair shares",
                Some(format!("{:.4}", fair.jain_of_share)),
            );
            if fair.handshakes_sent > 0 {
                row(
                    "handshakes through",
                    of(fair.handshakes_delivered, fair.handshakes_sent),
                );
            }
            row("overtaken", Some(grouped(fair.reordered)));
        }
        let alone = if self.latency_unstalled.is_some() {
            "latency us, one stalled"
        } else if self.storm.is_some() {
            "latency us, storm"
        } else {
            "latency us, one way"
        };
        if let Some(storm) = self.storm {
            row("handshakes attempted", Some(grouped(storm.attempted)));
            row("not even connected", Some(grouped(storm.unconnected)));
            row("ended by the relay", Some(grouped(storm.ended)));
        }
        row(
            "latency us, calm",
            self.latency_calm.map(|latency| latency.to_string()),
        );
        row(
            "latency us, all read",
            self.latency_unstalled.map(|latency| latency.to_string()),
        );
        row(alone, self.latency.map(|latency| latency.to_string()));
        row("connects", count(self.connects));
        row("connects a second", whole(self.connects_per_second));
        row("health checks answered", count(self.health_checks));
        row(
            "relay CPU a message",
            split(
                self.relay_cpu_us_per_message,
                self.relay_user_us_per_message,
            ),
        );
        row(
            "relay sleeps a message",
            self.relay_sleeps_per_message
                .map(|value| format!("{value:.3}")),
        );
        row(
            "relay CPU a connect",
            fine(self.relay_cpu_us_per_connect, " us"),
        );
        row("relay CPU", fine(self.relay_cpu_percent, " % of a core"));
        row(
            "relay memory before",
            whole(self.relay_kib_before).map(|kib| format!("{kib} KiB")),
        );
        row(
            "relay memory",
            whole(self.relay_kib).map(|kib| format!("{kib} KiB")),
        );
        row("relay memory a peer", fine(self.relay_kib_per_peer, " KiB"));
        row(
            "own CPU a message",
            split(self.own_cpu_us_per_message, self.own_user_us_per_message),
        );
        row(
            "own CPU a connect",
            fine(self.own_cpu_us_per_connect, " us"),
        );
        rows
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let width = rows
            .iter()
            .map(|(what, _)| what.len())
            .max()
            .unwrap_or_default();
        for (what, text) in rows {
            writeln!(f, "{what:width$}  {text}")?;
        }
        Ok(())
    }
}

/// `1234567` as `1 234 567`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn bits(per_second: f64) -> String {
    if per_second < 1e9 {
        format!("{:.1} Mbit", per_second / 1e6)
    } else {
        format!("{:.2} Gbit", per_second / 1e9)
    }
}

fn share(part: u64, whole: Option<u64>) -> String {
    match whole.filter(|whole| *whole > 0 && part > 0) {
        Some(whole) => format!(
            "{} ({:.3} %)",
            grouped(part),
            100.0 * part as f64 / whole as f64
        ),
        None => grouped(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut recorded = Histogram::new(3).unwrap();
        for us in 1..=1000_u64 {
            recorded.record(us * 1000).unwrap();
        }
        let latency = Latency::new(&recorded);
        assert_eq!(latency.samples, 1000);
        for (found, right) in [
            (latency.p50, 500.0),
            (latency.p90, 900.0),
            (latency.p99, 990.0),
            (latency.p999, 999.0),
            (latency.max, 1000.0),
        ] {
            assert!(
                (found - right).abs() <= right * 0.002,
                "{found} is not {right}"
            );
        }
    }

    #[test]
    fn table_has_a_row_for_what_is_known_only() {
        let report = Report {
            load: "flow",
            target: "127.0.0.1:80".to_owned(),
            seconds: 4.0,
            messages: Some(1_234_567),
            bits_per_second: Some(3.5e9),
            sent: Some(2000),
            lost: Some(3),
            relay_cpu_us_per_message: Some(0.876),
            ..Report::default()
        };
        let table = report.to_string();
        for line in [
            "load                    flow on 127.0.0.1:80, 4.0 s",
            "messages                1 234 567",
            "payload a second        3.50 Gbit",
            "lost                    3 (0.150 %)",
            "relay CPU a message     0.88 us",
        ] {
            assert!(
                table.lines().any(|found| found == line),
                "{line} is not in\n{table}"
            );
        }
        assert_eq!(table.lines().count(), 6, "{table}");
    }

    #[test]
    fn json_is_one_object_with_plain_names() {
        let report = Report {
            load: "paced",
            latency: Some(Latency::new(&Histogram::new(3).unwrap())),
            lost: Some(0),
            ..Report::default()
        };
        let value: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(value["load"], "paced");
        assert_eq!(value["lost"], 0);
        assert_eq!(value["latency"]["samples"], 0);
        assert!(value.get("connects").is_none());
        assert!(!report.to_json().contains('\n'));
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1 000");
        assert_eq!(grouped(12_345_678), "12 345 678");
        assert_eq!(bits(12_345_678.0), "12.3 Mbit");
        assert_eq!(share(0, Some(9)), "0");
    }
}
