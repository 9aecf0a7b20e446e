//! `trunkline load`: loads a relay of this protocol, ours or another, and reports what it cost.
//!
//! Owns the loads, the connections they run over, and their reports. It is a client: it uses `proto` and `auth` to speak the
//! protocol, of QUIC the relay's settings, and of `tls` how PEM files are read and a certificate that is not looked at; and no other
//! room, so that nothing of the relay can flatter itself. What it does beside the calls that a load consists of must be little: one
//! thread, frames made beforehand, no copy of what comes in; each report has its own CPU time beside the relay's.
//! (performance.md; peer-protocol.md.)
//!
//! [`execute`] is the whole of it: settings in, [`Report`] out. The comparison in `benches/compare/` calls it too.

mod churn;
mod command;
mod engine;
mod error;
mod fair;
mod flow;
mod frame;
mod idle;
mod interrupt;
mod measure;
mod options;
mod path;
mod peer;
mod process;
mod progress;
mod quic;
mod report;
mod scan;
mod stall;
mod storm;
mod table;
#[cfg(test)]
mod tests;
mod tls;

use std::error::Error;
use std::process::ExitCode;
use std::rc::Rc;

use clap::ArgMatches;
use tokio::runtime;
use tokio::task::LocalSet;

pub use command::command;
pub use error::LoadError;
pub use fair::Fairness;
pub use options::{Load, Settings, Target};
pub use process::{Account, Process};
pub use report::{Latency, Report};
pub use storm::Storm;

use path::Path;

/// The exit code of a mistake in the options.
const USAGE: u8 = 2;
/// That of a load which was cut short by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Runs `trunkline load` as the command line asks, prints its report on stdout, and says what went wrong on stderr. Exit code 2
/// is a mistake in the options, 1 a load that failed, 130 one that was interrupted.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let outcome = command::settings(matches).and_then(|settings| execute(&settings));
    match outcome {
        Ok(report) => {
            if matches.get_flag("json") {
                println!("{}", report.to_json());
            } else {
                print!("{report}");
            }
            if report.cut_short {
                return ExitCode::from(INTERRUPTED);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("trunkline load: {}", chain(&error));
            ExitCode::from(match error {
                LoadError::Usage(_) => USAGE,
                LoadError::Interrupted => INTERRUPTED,
                _ => 1,
            })
        }
    }
}

/// Runs one load to its end, on a thread-local runtime of its own: it blocks, and must not be called from within another
/// runtime's task (use a thread, or `spawn_blocking`).
pub fn execute(settings: &Settings) -> Result<Report, LoadError> {
    settings.check()?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|source| LoadError::Io {
            doing: "starting",
            source,
        })?;
    LocalSet::new().block_on(&runtime, async {
        let path = Rc::new(Path::open(settings).await?);
        let load = async {
            match settings.load {
                Load::Flow | Load::Flood | Load::Paced => flow::run(settings, &path).await,
                Load::Idle => idle::run(settings, &path).await,
                Load::Churn => churn::run(settings, &path).await,
                Load::Stall => stall::run(settings, &path).await,
                Load::Storm => storm::run(settings, &path).await,
                Load::Fair => fair::run(settings, &path).await,
            }
        };
        let mut report = tokio::select! {
            report = load => report?,
            error = path.interrupt().wait(), if settings.interrupt => return Err(error),
        };
        report.cut_short = path.interrupt().is_cut();
        Ok(report)
    })
}

/// An error and what caused it, in one line.
fn chain(error: &LoadError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
