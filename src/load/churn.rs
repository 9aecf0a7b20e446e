//! The load of coming and going: connect, authenticate, close.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::error::LoadError;
use super::measure::Meter;
use super::options::Settings;
use super::path::Path;
use super::progress::Progress;
use super::report::{CONNECT_US, Report};

/// What closing leaves to do on the relay's side is over after this, and counts.
const SETTLE: Duration = Duration::from_millis(300);
/// How often the progress line is renewed.
const TICK: Duration = Duration::from_millis(500);

/// Lets `concurrency` workers connect and close for the duration, one peer after another each. A failure ends the load.
pub(super) async fn run(settings: &Settings, path: &Rc<Path>) -> Result<Report, LoadError> {
    let meter = Meter::new(&settings.pids)?;
    let next = Rc::new(Cell::new(0_u64));
    work(settings, path, &next, settings.warmup, "warm-up").await?;
    sleep(SETTLE).await;
    let first = next.get();
    let before = (meter.relay()?, meter.own()?);
    let start = Instant::now();
    path.interrupt().measuring(true);
    work(settings, path, &next, settings.duration, "churn").await?;
    path.interrupt().measuring(false);
    let time = start.elapsed();
    sleep(SETTLE).await;
    let after = (meter.relay()?, meter.own()?);

    let connects = next.get() - first;
    let per_connect = |ns: u64| ns as f64 / 1e3 / connects as f64;
    let mut report = Report::new(settings);
    report.seconds = time.as_secs_f64();
    report.concurrency = Some(settings.concurrency as u64);
    report.connects = Some(connects);
    report.connects_per_second = Some(connects as f64 / time.as_secs_f64());
    report.own_cpu_us_per_connect = Some(per_connect(after.1.cpu_since(&before.1)));
    if let (Some(before), Some(after)) = (before.0, after.0) {
        report.relay_cpu_us_per_connect = Some(per_connect(after.cpu_since(&before)));
        report.relay_kib = Some(after.resident as f64 / 1024.0);
        report.doubt_the_process(&before, &after, connects * CONNECT_US);
    }
    Ok(report)
}

async fn work(
    settings: &Settings,
    path: &Rc<Path>,
    next: &Rc<Cell<u64>>,
    time: Duration,
    what: &'static str,
) -> Result<(), LoadError> {
    let start = Instant::now();
    let until = start + time;
    let mut workers = JoinSet::new();
    for _ in 0..settings.concurrency {
        let (path, next) = (Rc::clone(path), Rc::clone(next));
        workers.spawn_local(async move {
            // Once at least: a report of no connects would say nothing.
            loop {
                let number = next.get();
                next.set(number + 1);
                match path.lone(number).await? {
                    (peer, None) => peer.leave().await?,
                    (peer, Some(other)) => drop((peer, other)),
                }
                if Instant::now() >= until || path.interrupt().is_cut() {
                    return Ok::<(), LoadError>(());
                }
            }
        });
    }
    let mut progress = Progress::new(settings.progress);
    let first = next.get();
    loop {
        tokio::select! {
            worker = workers.join_next() => match worker {
                Some(worker) => worker.expect("no worker panics or is aborted")?,
                None => return Ok(()),
            },
            () = sleep(TICK) => progress.show(|| {
                let elapsed = start.elapsed().as_secs_f64();
                let count = next.get() - first;
                format!("{what}: {elapsed:.1} of {:.1} s, {count} connects, {:.0} a second", time.as_secs_f64(), count as f64 / elapsed)
            }),
        }
    }
}
