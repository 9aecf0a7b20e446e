//! The loads, which figure of a report counts for each of them, and the bar that it must meet.

use std::time::Duration;

use trunkline::load::{Load, Report, Settings};

use crate::contender::{Contender, Kind};

/// Short-lived connections come from so many addresses: none of them runs out of ports.
const SOURCES: u32 = 16;
/// Pairs of the cost curve.
const PAIRS: [usize; 5] = [1, 10, 50, 200, 1_000];
/// Those of them that the table shows.
const TABLE_PAIRS: [usize; 2] = [1, 50];
/// Messages in a write.
const BATCHES: [usize; 2] = [1, 16];
/// Idle peers of the memory curve.
const PEERS: [usize; 4] = [1_000, 5_000, 10_000, 18_000];
/// Those of them that the table shows.
const TABLE_PEERS: [usize; 2] = [5_000, 18_000];
/// Beyond it the load would need more than 20,000 files: behind a proxy it holds both ends of each connection.
const PROXY_PEERS: usize = 5_000;
/// Idle peers beside a pair: as many as 20,000 files allow, nearly.
const CROWD: usize = 15_000;

/// The curve that a load has a point on, and where on its horizontal axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Point {
    /// Cost a message, for one message a write, at so many pairs.
    CostSingly(f64),
    /// The same for 16 a write.
    CostBatched(f64),
    /// Memory, at so many peers.
    Memory(f64),
    /// Latency; all of the curve.
    Latency,
}

/// One row of the table: a load, and the figure taken from its report.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) load: Load,
    /// What is asked of the figure, if anything.
    pub(crate) bar: &'static str,
    pub(crate) figure: fn(&Report) -> Option<f64>,
    pub(crate) point: Option<Point>,
    /// Whether it runs only if curves are asked for.
    pub(crate) only_for_curves: bool,
    /// Idle peers that are connected beside the load.
    pub(crate) crowd: usize,
    pairs: usize,
    batch: usize,
    peers: usize,
    concurrency: usize,
}

impl Case {
    fn new(load: Load, name: String) -> Self {
        Self {
            name,
            unit: "us CPU a message",
            load,
            bar: "",
            figure: |report| report.relay_cpu_us_per_message,
            point: None,
            only_for_curves: false,
            crowd: 0,
            pairs: 10,
            batch: 1,
            peers: 0,
            concurrency: 64,
        }
    }

    /// Puts the load into settings for a contender; `seconds` are measured.
    pub(crate) fn apply(&self, settings: &mut Settings, seconds: u64) {
        settings.pairs = self.pairs;
        settings.batch = self.batch;
        settings.concurrency = self.concurrency;
        settings.warmup = Duration::from_millis(500);
        settings.duration = Duration::from_secs(seconds);
        match self.load {
            // Nothing happens in the measured time.
            Load::Idle => {
                settings.peers = self.peers;
                settings.duration = Duration::from_secs(1);
            }
            Load::Churn => settings.source_addresses = SOURCES,
            _ => {}
        }
    }

    /// Whether it can be run with this contender on 20,000 files.
    pub(crate) fn suits(&self, contender: &Contender) -> bool {
        match contender.kind {
            Kind::Relay(_) => true,
            Kind::HaProxy => {
                let one_receiver_each = !matches!(self.load, Load::Stall | Load::Fair);
                one_receiver_each && self.peers <= PROXY_PEERS && self.crowd == 0
            }
        }
    }
}

/// All loads, in the order in which they run.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for pairs in PAIRS {
        cases.extend(BATCHES.map(|batch| flow(pairs, batch)));
    }
    cases.push(Case {
        bar: "within 30% of 1 pair, 16 a write",
        crowd: CROWD,
        pairs: 1,
        batch: 16,
        ..Case::new(
            Load::Flow,
            format!("1 pair among {CROWD} idle peers, 16 a write"),
        )
    });
    cases.push(Case {
        unit: "us one way",
        bar: "no worse than HAProxy",
        figure: |report| report.latency.map(|latency| latency.p99),
        point: Some(Point::Latency),
        ..Case::new(Load::Paced, "10 pairs, 200 a second each, p99".to_owned())
    });
    cases.push(Case {
        unit: "times the p99 without",
        bar: "at most 2",
        figure: |report| Some(report.latency?.p99 / report.latency_unstalled?.p99),
        ..Case::new(
            Load::Stall,
            "10 pairs, 200 a second each, one receiver stalled".to_owned(),
        )
    });
    cases.push(Case {
        unit: "Jain's index",
        bar: "at least 0.95",
        figure: |report| Some(report.fair.as_ref()?.jain),
        pairs: 50,
        ..Case::new(
            Load::Fair,
            "50 modest senders and a flood, one slow receiver".to_owned(),
        )
    });
    cases.extend(PEERS.map(idle));
    cases.push(churn("connects, one after another", 1, ""));
    cases.push(churn("connects, 64 at a time", 64, "at most 120 us"));
    cases
}

fn flow(pairs: usize, batch: usize) -> Case {
    let in_table = TABLE_PAIRS.contains(&pairs);
    let (noun, at) = (if pairs == 1 { "pair" } else { "pairs" }, pairs as f64);
    Case {
        bar: if in_table {
            "at least 0.9 of HAProxy"
        } else {
            ""
        },
        point: Some(match batch {
            1 => Point::CostSingly(at),
            _ => Point::CostBatched(at),
        }),
        only_for_curves: !in_table,
        pairs,
        batch,
        ..Case::new(Load::Flow, format!("{pairs} {noun}, {batch} a write"))
    }
}

fn idle(peers: usize) -> Case {
    Case {
        unit: "KiB a peer",
        bar: "at most 6 KiB at 20,000",
        figure: |report| report.relay_kib_per_peer,
        point: Some(Point::Memory(peers as f64)),
        only_for_curves: !TABLE_PEERS.contains(&peers),
        peers,
        ..Case::new(Load::Idle, format!("{peers} idle peers"))
    }
}

fn churn(name: &str, concurrency: usize, bar: &'static str) -> Case {
    Case {
        unit: "us CPU each",
        bar,
        figure: |report| report.relay_cpu_us_per_connect,
        concurrency,
        ..Case::new(Load::Churn, name.to_owned())
    }
}
