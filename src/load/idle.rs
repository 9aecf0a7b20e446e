//! The load that does nothing: peers that are connected, answer health checks, and say no more.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::engine::Shared;
use super::error::LoadError;
use super::measure::Meter;
use super::options::Settings;
use super::path::{Path, gather};
use super::peer::Peer;
use super::progress::Progress;
use super::quic::unanswered;
use super::report::{CONNECT_US, Report};

/// The work that connecting leaves behind is over after this.
const SETTLE: Duration = Duration::from_secs(1);
/// What the peers add is hard to tell from what a relay reuses where it held so many times as much before.
const LARGE: u64 = 4;
/// How often the progress line is renewed.
const TICK: Duration = Duration::from_millis(500);

/// Counters of peers that stay.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    ended: Cell<u64>,
    health_checks: Cell<u64>,
}

/// Keeps a peer connected: reads and forgets, answers health checks, until the connection ends.
pub(super) async fn stay(mut peer: Peer, shared: Rc<Shared>, crowd: Rc<Crowd>) {
    poll_fn(|cx| {
        let known = peer.health_checks();
        let mut ended = false;
        while let Poll::Ready(read) = peer.poll_receive(cx, &mut shared.buffer(), &mut |_, _, _| {})
        {
            if read.is_err() {
                ended = true;
                break;
            }
        }
        crowd
            .health_checks
            .set(crowd.health_checks.get() + peer.health_checks() - known);
        match peer.poll_control(cx) {
            Poll::Ready(Ok(())) | Poll::Pending if !ended => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
    crowd.ended.set(crowd.ended.get() + 1);
}

/// Connects the peers, lets them settle for the warm-up (a second at least), and watches the relay for the duration.
pub(super) async fn run(settings: &Settings, path: &Rc<Path>) -> Result<Report, LoadError> {
    let meter = Meter::new(&settings.pids)?;
    let before = meter.relay()?;
    let start = Instant::now();
    let connecting = Rc::clone(path);
    let peers = gather(settings, settings.peers, move |number| {
        let path = Rc::clone(&connecting);
        async move { path.lone(number).await }
    })
    .await?;
    let connecting_time = start.elapsed();
    let shared = Shared::new();
    let crowd = Rc::new(Crowd::default());
    let mut tasks = JoinSet::new();
    let mut other_ends = Vec::new();
    let mut quic = Vec::new();
    for (peer, other) in peers {
        quic.extend(peer.quic());
        tasks.spawn_local(stay(peer, Rc::clone(&shared), Rc::clone(&crowd)));
        other_ends.extend(other);
    }
    sleep(settings.warmup.max(SETTLE)).await;
    let settled = meter.relay()?;
    let quiet = Instant::now();
    path.interrupt().measuring(true);
    let mut progress = Progress::new(settings.progress);
    while let Some(rest) = path.interrupt().left(quiet, settings.duration) {
        sleep(rest.min(TICK)).await;
        some_are_left(settings, crowd.ended.get())?;
        progress.show(|| {
            let rest = settings.duration.saturating_sub(quiet.elapsed());
            format!(
                "idle: {} peers, {} ended, {:.0} s left",
                settings.peers,
                crowd.ended.get(),
                rest.as_secs_f64()
            )
        });
    }
    path.interrupt().measuring(false);
    let quiet = quiet.elapsed();
    let after = meter.relay()?;
    let open: Vec<_> = quic
        .iter()
        .filter(|connection| connection.close_reason().is_none())
        .collect();
    let silent = unanswered(&open).await;
    let silent = silent.iter().filter(|silent| **silent).count() as u64;
    let ended = crowd.ended.get() + silent;
    some_are_left(settings, ended)?;

    let mut report = Report::new(settings);
    report.peers = Some(settings.peers as u64);
    report.seconds = quiet.as_secs_f64();
    report.connects_per_second = Some(settings.peers as f64 / connecting_time.as_secs_f64());
    report.health_checks = Some(crowd.health_checks.get());
    report.ended = Some(ended);
    if let (Some(before), Some(settled), Some(after)) = (before, settled, after) {
        let kib = |bytes: u64| bytes as f64 / 1024.0;
        report.relay_kib_before = Some(kib(before.resident));
        report.relay_kib = Some(kib(after.resident));
        report.relay_kib_per_peer =
            Some((kib(after.resident) - kib(before.resident)) / settings.peers as f64);
        report.relay_cpu_percent =
            Some(100.0 * after.cpu_since(&settled) as f64 / quiet.as_nanos() as f64);
        report.relay_cpu_us_per_connect =
            Some(settled.cpu_since(&before) as f64 / 1e3 / settings.peers as f64);
        report.doubt_the_process(&before, &settled, settings.peers as u64 * CONNECT_US);
        let added = after.resident.saturating_sub(before.resident);
        if before.resident > added.saturating_mul(LARGE) {
            report.notes.push(
                "the relay held much more memory before than the peers added, and they may have been given of it: memory a peer \
                 is right on a freshly started relay, with many peers"
                    .to_owned(),
            );
        }
    }
    Ok(report)
}

fn some_are_left(settings: &Settings, ended: u64) -> Result<(), LoadError> {
    if ended < settings.peers as u64 {
        return Ok(());
    }
    let which = settings.places(ended, 0);
    Err(LoadError::AllEnded { which })
}
