//! The loads that measure throughput: `flow` with a window, `flood` without one.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::engine::{Pace, PairTask, Shared, Tally};
use super::error::LoadError;
use super::frame::Batch;
use super::measure::measure;
use super::options::{Load, Settings};
use super::path::{Path, gather};
use super::report::{Latency, Report};

/// Runs `flow`, `flood` or `paced`, which differ in their pace and in what is told of them.
pub(super) async fn run(settings: &Settings, path: &Rc<Path>) -> Result<Report, LoadError> {
    let shared = Shared::new();
    let timed = settings.load == Load::Paced;
    let connecting = Rc::clone(path);
    let pairs = gather(settings, settings.pairs, move |number| {
        let path = Rc::clone(&connecting);
        async move { path.pair(number).await }
    })
    .await?;
    // All batches are made before any of them is sent.
    let prepared: Vec<_> = pairs
        .into_iter()
        .enumerate()
        .map(|(number, ends)| {
            let receiver = path.id(2 * number as u64 + 1);
            (
                ends,
                Batch::new(&vec![receiver; settings.batch], settings.size),
            )
        })
        .collect();
    let mut tasks = JoinSet::new();
    let tallies: Vec<Rc<Tally>> = prepared
        .into_iter()
        .map(|(ends, batch)| {
            let pace = match settings.load {
                Load::Flow => Pace::Window(settings.window),
                Load::Paced => beat(settings),
                _ => Pace::Open,
            };
            let (task, tally) =
                PairTask::new(ends, batch, settings.batch, pace, timed, Rc::clone(&shared));
            tasks.spawn_local(task);
            tally
        })
        .collect();
    let measured = measure(settings, path.interrupt(), &shared, &tallies).await?;
    let mut report = Report::of_traffic(settings, &measured);
    if timed {
        report.latency = Latency::of(&shared.take_latency());
    }
    Ok(report)
}

/// A beat at the rate of the settings, begun at a random moment: pairs in step would measure their own crowd.
pub(super) fn beat(settings: &Settings) -> Pace {
    let interval = Duration::from_secs_f64(settings.batch as f64 / settings.rate);
    Pace::beat(interval, Instant::now() + interval.mul_f64(rand::random()))
}
