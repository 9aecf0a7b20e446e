//! What was measured under which conditions, and what is reckoned from it. Prints nothing.

use std::fs;

use serde_json::{Value, json};
use trunkline::load::Report;

use crate::contender::{Contender, Kind};
use crate::loads::Case;

/// How it was measured.
pub(crate) struct Conditions {
    pub(crate) rounds: u32,
    /// Of each load.
    pub(crate) seconds: u64,
    pub(crate) cpus: usize,
    pub(crate) pinned: bool,
    /// Tasks that wanted a CPU in the minute before it began, on average: 0 if the machine was quiet.
    pub(crate) busy_before: f64,
}

impl Conditions {
    /// The kernel's count of those tasks; 0 if it does not tell.
    pub(crate) fn busy_now() -> f64 {
        let averages = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let last_minute = averages.split_ascii_whitespace().next();
        last_minute
            .and_then(|number| number.parse().ok())
            .unwrap_or_default()
    }
}

/// One load, and the reports of each contender: one for each round, unless a run failed.
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) reports: Vec<Vec<Report>>,
}

impl Row {
    pub(crate) fn new(case: Case, contenders: usize) -> Self {
        Self {
            case,
            reports: vec![Vec::new(); contenders],
        }
    }

    /// A contender's figures.
    pub(crate) fn figures(&self, contender: usize) -> Vec<f64> {
        self.values(contender, self.case.figure)
    }

    /// Another value of a contender's reports.
    pub(crate) fn values(&self, contender: usize, value: fn(&Report) -> Option<f64>) -> Vec<f64> {
        self.reports[contender].iter().filter_map(value).collect()
    }

    /// Messages that a contender lost in all rounds.
    pub(crate) fn lost(&self, contender: usize) -> u64 {
        let reports = self.reports[contender].iter();
        reports.filter_map(|report| report.lost).sum()
    }
}

/// Everything.
pub(crate) struct Results {
    pub(crate) conditions: Conditions,
    pub(crate) contenders: Vec<Contender>,
    pub(crate) rows: Vec<Row>,
}

/// HAProxy's figure divided by a relay's: the relay's messages for each of HAProxy's at equal cost. Where the two differ much
/// neither is to be trusted: the machine was not quiet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratio {
    pub(crate) of_medians: f64,
    /// The median of each round's ratio, whose two runs had the same neighbours on the machine.
    pub(crate) of_rounds: f64,
}

impl Results {
    /// Where HAProxy stands among the contenders.
    pub(crate) fn yardstick(&self) -> Option<usize> {
        self.contenders
            .iter()
            .position(|contender| matches!(contender.kind, Kind::HaProxy))
    }

    /// Those that are compared with it.
    pub(crate) fn compared(&self) -> Vec<usize> {
        let yardstick = self.yardstick();
        (0..self.contenders.len())
            .filter(|index| yardstick.is_some_and(|yardstick| yardstick != *index))
            .collect()
    }

    pub(crate) fn ratio(&self, row: &Row, contender: usize) -> Option<Ratio> {
        let (limit, own) = (row.figures(self.yardstick()?), row.figures(contender));
        let by_round = limit.iter().zip(&own).map(|(limit, own)| limit / own);
        Some(Ratio {
            of_rounds: median(by_round.collect())?,
            of_medians: median(limit)? / median(own)?,
        })
    }

    /// Whether no run failed.
    pub(crate) fn is_complete(&self) -> bool {
        self.rows.iter().all(|row| {
            self.contenders
                .iter()
                .zip(&row.reports)
                .all(|(contender, reports)| {
                    !row.case.suits(contender) || reports.len() == self.conditions.rounds as usize
                })
        })
    }

    pub(crate) fn to_json(&self) -> Value {
        let row = |row: &Row| {
            let each = self
                .contenders
                .iter()
                .enumerate()
                .map(|(index, contender)| {
                    json!({
                        "contender": contender.name,
                        "median": median(row.figures(index)),
                        "rounds": row.figures(index),
                        "reports": row.reports[index],
                    })
                });
            json!({ "load": row.case.name, "unit": row.case.unit, "results": each.collect::<Vec<_>>() })
        };
        json!({
            "rounds": self.conditions.rounds,
            "seconds": self.conditions.seconds,
            "cpus": self.conditions.cpus,
            "pinned": self.conditions.pinned,
            "busy_before": self.conditions.busy_before,
            "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "congestion_control": congestion_control(),
            "cases": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// How the kernel's TCP paces what is sent: what one message a write costs depends on it.
pub(crate) fn congestion_control() -> String {
    fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// The least and the most.
pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}
