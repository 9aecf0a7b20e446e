//! The load with a receiver that stops reading: what it does to everybody else.
//!
//! Each sender writes to its own receiver and, in the same call, to one receiver that all have in common. The latency to the
//! senders' own receivers is measured twice: while the common one reads, and after it has stopped.

use std::rc::Rc;

use tokio::task::{JoinSet, spawn_local};

use super::engine::{PairTask, Shared, Tally};
use super::error::LoadError;
use super::flow::beat;
use super::frame::Batch;
use super::idle::{Crowd, stay};
use super::measure::measure;
use super::options::Settings;
use super::path::{Path, gather};
use super::report::{Latency, Report};

/// The common receiver's socket takes no more than this before its silence is felt.
const SMALL_BUFFER: usize = 64 * 1024;

/// Runs the load: the measured time is spent twice, once with all reading, once with the common receiver stalled.
pub(super) async fn run(settings: &Settings, path: &Rc<Path>) -> Result<Report, LoadError> {
    let before = phase(settings, path, 0, false).await?;
    path.interrupt().none_yet()?;
    // Peers of their own: the second phase must not begin with the queues of the first.
    let stalled = phase(settings, path, settings.pairs as u64 + 1, true).await?;
    let mut report = stalled.0;
    report.latency_unstalled = before.1;
    report.latency = stalled.1;
    Ok(report)
}

async fn phase(
    settings: &Settings,
    path: &Rc<Path>,
    first: u64,
    stalled: bool,
) -> Result<(Report, Option<Latency>), LoadError> {
    let shared = Shared::new();
    let common_number = 2 * (first + settings.pairs as u64) + 1;
    let connecting = Rc::clone(path);
    let pairs = gather(settings, settings.pairs, move |number| {
        let path = Rc::clone(&connecting);
        async move { path.pair(first + number).await }
    })
    .await?;
    let (common, _) = path.receiver(common_number).await?;
    common.narrow(SMALL_BUFFER)?;
    // Stalled, it is held and never read.
    let (_held, reading) = if stalled {
        (Some(common), None)
    } else {
        (
            None,
            Some(spawn_local(stay(
                common,
                Rc::clone(&shared),
                Rc::new(Crowd::default()),
            ))),
        )
    };

    let mut tasks = JoinSet::new();
    let tallies: Vec<Rc<Tally>> = pairs
        .into_iter()
        .enumerate()
        .map(|(number, ends)| {
            let own = path.id(2 * (first + number as u64) + 1);
            let mut destinations = vec![own; settings.batch];
            destinations.resize(2 * settings.batch, path.id(common_number));
            let batch = Batch::new(&destinations, settings.size);
            let (task, tally) = PairTask::new(
                ends,
                batch,
                settings.batch,
                beat(settings),
                true,
                Rc::clone(&shared),
            );
            tasks.spawn_local(task);
            tally
        })
        .collect();
    let measured = measure(settings, path.interrupt(), &shared, &tallies).await?;
    if let Some(reading) = reading {
        reading.abort();
    }
    Ok((
        Report::of_traffic(settings, &measured),
        Latency::of(&shared.take_latency()),
    ))
}
