//! CPU time a message, across two pods and on one.

use std::time::Duration;

use trunkline::load::{Load, Report, Settings, execute};

use crate::pods::Pods;
use crate::{Failure, Line};

const LOADS: [(usize, usize); 4] = [(1, 1), (1, 16), (50, 1), (50, 16)];

/// One load in all rounds, on one pod and across two.
#[derive(Default)]
struct Costs {
    one: Vec<f64>,
    two: Vec<f64>,
    lost: u64,
}

pub(crate) fn lines(pods: &Pods, rounds: u32, seconds: u64) -> Result<Vec<Line>, Failure> {
    let mut all: [Costs; LOADS.len()] = Default::default();
    for round in 1..=rounds {
        for ((pairs, batch), costs) in LOADS.into_iter().zip(&mut all) {
            eprintln!("round {round} of {rounds}: {pairs} pairs, {batch} a write");
            let mut settings = Settings::new(Load::Flow, pods.target(0));
            settings.pairs = pairs;
            settings.batch = batch;
            settings.duration = Duration::from_secs(seconds);
            // The third pod has nothing to do, and its health checks count for both.
            settings.pids = pods.pids();
            let one = execute(&settings)?;
            settings.receivers_on = Some(pods.address(1));
            let two = execute(&settings)?;
            costs.lost += lost(&one) + lost(&two);
            costs.one.push(cost(&one)?);
            costs.two.push(cost(&two)?);
        }
    }
    let lines = LOADS.into_iter().zip(all).map(|((pairs, batch), costs)| {
        let ratios: Vec<f64> = costs
            .one
            .iter()
            .zip(&costs.two)
            .map(|(one, two)| two / one)
            .collect();
        let noun = if pairs == 1 { "pair" } else { "pairs" };
        Line {
            what: format!(
                "{pairs} {noun}, {batch} a write: us CPU a message, across two pods and on one"
            ),
            figure: format!(
                "{} and {}: {:.2} times ({:.2}); {} lost",
                spread(&costs.two),
                spread(&costs.one),
                median(&costs.two) / median(&costs.one),
                median(&ratios),
                costs.lost,
            ),
            bar: "at most 2.3 times",
        }
    });
    Ok(lines.collect())
}

fn cost(report: &Report) -> Result<f64, Failure> {
    report
        .relay_cpu_us_per_message
        .ok_or_else(|| "no account of the pods".into())
}

fn lost(report: &Report) -> u64 {
    report.lost.unwrap_or_default() + report.reordered.unwrap_or_default()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// The median, and from the least to the most.
pub(crate) fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{:.2} [{least:.2}-{most:.2}]", median(values))
}
