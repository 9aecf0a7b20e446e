//! The table of a report, for people.

use std::fmt;

use super::report::Report;

impl Report {
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
        row(
            "over",
            (!self.over.is_empty()).then(|| self.over.to_owned()),
        );
        row("relay's name", self.name.clone());
        row("receivers on", self.receivers_on.clone());
        row("pairs", count(self.pairs));
        row("peers", count(self.peers));
        row("connecting at a time", count(self.concurrency));
        row("payload", count(self.size).map(|size| format!("{size} B")));
        row("messages a write", count(self.batch));
        row("window", count(self.window));
        row("rate a sender", fine(self.rate, " /s"));
        row(
            "rate reached",
            self.rate_reached_percent
                .map(|percent| format!("{percent:.0} %")),
        );
        row("messages", count(self.messages));
        row("messages a second", whole(self.messages_per_second));
        row("payload a second", self.bits_per_second.map(bits));
        row("sent, warm-up included", count(self.sent));
        row("lost", self.lost.map(|lost| share(lost, self.sent)));
        row("reordered", count(self.reordered));
        row(
            "connections ended",
            self.ended.map(|ended| self.which(ended)),
        );
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
        row(
            "cut short",
            self.cut_short
                .then(|| "by Ctrl-C, and measured until then".to_owned()),
        );
        for note in &self.notes {
            row("note", Some(note.clone()));
        }
        rows
    }

    /// So many connections, and if there were any, whose.
    fn which(&self, ended: u64) -> String {
        let sides = self.ended_senders.zip(self.ended_receivers);
        match (sides, &self.receivers_on) {
            (Some((senders, receivers)), Some(elsewhere)) if ended > 0 => format!(
                "{} ({senders} to {}, {receivers} to {elsewhere})",
                grouped(ended),
                self.target
            ),
            _ => grouped(ended),
        }
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
pub(super) fn grouped(value: u64) -> String {
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

pub(super) fn bits(per_second: f64) -> String {
    if per_second < 1e9 {
        format!("{:.1} Mbit", per_second / 1e6)
    } else {
        format!("{:.2} Gbit", per_second / 1e9)
    }
}

pub(super) fn share(part: u64, whole: Option<u64>) -> String {
    match whole.filter(|whole| *whole > 0 && part > 0) {
        Some(whole) => format!(
            "{} ({:.3} %)",
            grouped(part),
            100.0 * part as f64 / whole as f64
        ),
        None => grouped(part),
    }
}
