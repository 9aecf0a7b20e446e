//! The log: one line per event, to stderr, a file or syslog, as text or JSON.
//!
//! Owns the subscriber, the line formats, the queue between the relay's threads and the log's one writer
//! thread, and the rotation of files. Implements operations.md, *Flags* (`--log-...`).
//!
//! A slow or full disk, a stopped terminal or a stuck syslog never blocks a thread that logs: lines go into a
//! queue of at most 1 MiB, and a line that finds it full is dropped and counted. When lines can be written again, a
//! warning says how many were lost. The price is that up to 1 MiB of lines is lost when the process is killed.

mod json;
mod queue;
mod sink;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{self, format::JsonFields},
    layer::SubscriberExt as _,
};

use super::spans;
use opentelemetry_sdk::trace::SdkTracer;
use queue::LineQueue;
use sink::{Console, RotatingFile, Sink, Syslog};

pub use queue::LogGuard;

/// The crate whose events the level applies to; of all others only warnings and errors are kept.
const OWN_TARGET: &str = env!("CARGO_CRATE_NAME");

/// The room of the STUN server, whose events have a level of their own.
const STUN_TARGET: &str = concat!(env!("CARGO_CRATE_NAME"), "::stun");
/// The codec it uses.
const STUN_CODEC: &str = "stun_types";

/// What is logged, where, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// The same, for what the STUN server says.
    pub stun_level: LogLevel,
    /// Where lines go.
    pub file: LogDestination,
    /// What a line looks like.
    pub format: LogFormat,
    /// The size at which a file is set aside, in MiB (the Go relays' "MB"); at least 1.
    pub max_size_mb: u64,
    /// Whether a file is set aside at all.
    pub rotate: bool,
}

/// The severity from which on events are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What an operator wants to know of a healthy relay.
    Info,
    /// What may need a look.
    Warn,
    /// What does need one.
    Error,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogDestination {
    /// Stderr, as with the Go relays.
    Console,
    /// The machine's syslog socket, facility `daemon`.
    Syslog,
    /// A file, appended to, and set aside by size.
    Path(PathBuf),
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, where, message, fields; for people.
    Text,
    /// One flat JSON object: `timestamp`, `level`, `target`, `message`, then the event's and its spans' fields.
    Json,
    /// As `Text` without the time, for a collector that adds its own.
    Syslog,
}

/// Why there is no log. All but the last are mistakes in the configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoggingError {
    /// The log file cannot be opened for writing.
    #[error("--log-file: {} cannot be opened for writing: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no syslog to talk to.
    #[error("--log-file: this machine has no syslog socket ({tried}); give console or a path")]
    Syslog {
        /// The sockets that were tried.
        tried: String,
    },
    /// The writer thread cannot be started.
    #[error("the thread that writes the log cannot be started: {0}")]
    Thread(io::Error),
    /// The process has a subscriber already.
    #[error("the log has been started before")]
    AlreadyStarted,
}

/// Starts the process's log, and gives spans to `tracer`, if there is one. Keep the guard until the end: dropping it writes what is still queued.
///
/// # Errors
/// See [`LoggingError`].
pub fn init(log: &LogSettings, tracer: Option<SdkTracer>) -> Result<LogGuard, LoggingError> {
    let (lines, guard) = LineQueue::start(open(log)?, tell_lost).map_err(LoggingError::Thread)?;
    tracing::subscriber::set_global_default(subscriber(log, lines, tracer))
        .map_err(|_| LoggingError::AlreadyStarted)?;
    Ok(guard)
}

/// Runs on the writer thread, through the subscriber like any other event.
fn tell_lost(lines: u64) {
    tracing::warn!(
        lines,
        "log lines were lost: where they go was too slow or failed"
    );
}

fn open(log: &LogSettings) -> Result<Box<dyn Sink>, LoggingError> {
    Ok(match &log.file {
        LogDestination::Console => Box::new(Console),
        LogDestination::Syslog => Box::new(Syslog::connect(&sink::SYSLOG_SOCKETS)?),
        LogDestination::Path(path) => {
            let limit = log
                .rotate
                .then_some(log.max_size_mb.saturating_mul(1 << 20));
            let file =
                RotatingFile::open(path.clone(), limit).map_err(|source| LoggingError::File {
                    path: path.clone(),
                    source,
                })?;
            Box::new(file)
        }
    })
}

fn subscriber(
    log: &LogSettings,
    lines: LineQueue,
    tracer: Option<SdkTracer>,
) -> impl tracing::Subscriber + Send + Sync {
    let to_syslog = log.file == LogDestination::Syslog;
    let lines = if to_syslog {
        lines.with_priorities()
    } else {
        lines
    };
    let colours = log.file == LogDestination::Console
        && io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none();
    let text = fmt::layer().with_ansi(colours).with_writer(lines.clone());
    let layer = match log.format {
        LogFormat::Json => fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(json::FlatJson)
            .with_ansi(false)
            .with_writer(lines)
            .boxed(),
        // Syslog puts its own time in front of a line.
        LogFormat::Text if to_syslog => text.without_time().boxed(),
        LogFormat::Syslog => text.with_ansi(false).without_time().boxed(),
        LogFormat::Text => text.boxed(),
    };
    let traced = tracer.map(|tracer| {
        let only_spans = Targets::new().with_target(spans::TARGET, LevelFilter::INFO);
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            // Of the source and the thread nobody asks, and they are attributes of each span.
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(only_spans)
    });
    Registry::default()
        .with(layer.with_filter(filter(log.level, log.stun_level)))
        .with(traced)
}

fn filter(level: LogLevel, stun: LogLevel) -> Targets {
    let own = level.level();
    let others = LevelFilter::from_level(own.min(Level::WARN));
    Targets::new()
        .with_target(OWN_TARGET, own)
        .with_target(STUN_TARGET, stun.level())
        // It warns of every malformed datagram: a stranger could fill the log. They are counted.
        .with_target(STUN_CODEC, LevelFilter::OFF)
        // Spans are not for the log.
        .with_target(spans::TARGET, LevelFilter::OFF)
        // What the exporters cannot send is said once by us; they would say it each time.
        .with_target("opentelemetry", LevelFilter::OFF)
        .with_default(others)
}

impl LogLevel {
    fn level(self) -> Level {
        match self {
            Self::Trace => Level::TRACE,
            Self::Debug => Level::DEBUG,
            Self::Info => Level::INFO,
            Self::Warn => Level::WARN,
            Self::Error => Level::ERROR,
        }
    }
}

#[cfg(test)]
#[path = "logging/tests.rs"]
mod tests;
