//! `trunkline demo`: a relay on a free loopback port, real peers that use it, then three pods that act as one relay, and a line for
//! each thing that happens.
//!
//! Owns the play and how it is told. What it shows it also checks, so it is a smoke test of a build: the first thing that does
//! not happen as it should ends it with an error. It listens on loopback only, with a secret made up for the run.

mod cluster;
mod pod;
mod report;
mod scenes;
mod stage;
mod traffic;

use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use self::report::{Report, duration, grouped};
use self::stage::Stage;
use crate::cluster::ClusterError;
use crate::relay::BuildError;
use crate::server::{BindError, shutdown_signal};
use crate::telemetry::prometheus::MetricsError;

/// The payload of all messages: what a WireGuard tunnel with its usual MTU makes, in bytes.
const PAYLOAD: usize = 1280;

/// How long anything may take before it counts as not happening. Long, so that a busy machine is no failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a demo ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The async runtime could not be started.
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
    /// The relay could not be built.
    #[error("cannot build the relay: {0}")]
    Build(#[from] BuildError),
    /// The metrics could not be set up.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The pods could not become a cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// No free loopback port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Something did not happen as it should.
    #[error("not as expected: {0}")]
    Unexpected(String),
}

/// What did not happen as it should; the text says what was expected and what came.
#[derive(Debug)]
struct Unexpected(String);

impl From<Unexpected> for DemoError {
    fn from(unexpected: Unexpected) -> Self {
        Self::Unexpected(unexpected.0)
    }
}

/// Plays the demo on standard output, in a runtime of its own; with `keep`, the relay then goes on until SIGINT or SIGTERM. Blocks.
///
/// # Errors
/// If the relay cannot be started, or as soon as something does not happen as it should.
pub fn run(keep: bool) -> Result<(), DemoError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(DemoError::Runtime)?
        .block_on(play(keep, &mut Report::new(io::stdout())))
}

async fn play(keep: bool, report: &mut Report<impl io::Write>) -> Result<(), DemoError> {
    let began = Instant::now();
    let stage = Stage::set_up()?;
    report.say(&format!(
        "A relay on {} with a secret made up for this run, and peers that connect to it by WebSocket.\n",
        stage.address()
    ));
    let played = scenes::play(&stage, report).await;
    let relayed = stage.relay().counters().transfer_bytes().1;
    let took = duration(began.elapsed());
    if let Err(Unexpected(what)) = played {
        report.failed(&what);
        report.say(&format!(
            "\nSummary: FAILED after {} checks, in {took}.",
            report.checks()
        ));
        return Err(DemoError::Unexpected(what));
    }
    if keep {
        report.say(&format!(
            "\nSummary: all {} checks as expected, in {took}; {} bytes relayed.",
            report.checks(),
            grouped(relayed)
        ));
        // The signal is caught before anybody is told to send it: `biased` polls in this order.
        tokio::select! {
            biased;
            () = shutdown_signal() => {}
            () = async { invite(&stage, report); pending().await } => {}
        }
        stage.take_down().await?;
        report.say("The relay has stopped.");
        return Ok(());
    }
    let ended = scenes::shutdown(stage, report).await;
    if let Err(Unexpected(what)) = ended {
        report.failed(&what);
        report.say(&format!(
            "\nSummary: FAILED after {} checks, in {took}.",
            report.checks()
        ));
        return Err(DemoError::Unexpected(what));
    }
    report.say(&format!(
        "\nSummary: all {} checks as expected, in {}; {} bytes relayed.\n\
         To keep the relay and try things on it: trunkline demo --keep",
        report.checks(),
        duration(began.elapsed()),
        grouped(relayed)
    ));
    Ok(())
}

/// Says how the relay can be used while it is kept.
fn invite(stage: &Stage, report: &mut Report<impl io::Write>) {
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned());
    report.say(&format!(
        "\nThe relay goes on until Ctrl-C. From another terminal:\n  \
           {program} load --address {address} --secret {secret} --pid {pid} --duration 5\n  \
           curl http://{metrics}/metrics\n  \
           curl http://{health}/readyz\n\
         Clients connect to ws://{address}/relay with tokens signed with that secret.",
        address = stage.address(),
        secret = stage.secret_text(),
        pid = std::process::id(),
        metrics = stage.metrics(),
        health = stage.health(),
    ));
}
