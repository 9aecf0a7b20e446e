//! The signals that end the process (operations.md, *Signals*).

use std::io;
use std::time::Duration;

use tracing::{info, warn};

use crate::reload::{Reload, Reloader};

/// What the log's writer gets for its last line.
const LAST_WORD: Duration = Duration::from_millis(50);

/// Exit code after a second signal.
const IMPATIENT: i32 = 1;

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        let _ = tokio::signal::ctrl_c().await;
        "Ctrl-C"
    }
}

/// Catches SIGHUP from the call on, which would else end the process: each one gives the word to read files again.
///
/// # Panics
/// Outside a tokio runtime.
#[must_use]
pub fn reload_signal() -> Reload {
    let (reloader, reload) = Reloader::new();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::hangup()) {
            Ok(mut hangup) => {
                tokio::spawn(async move {
                    while hangup.recv().await.is_some() {
                        info!(
                            signal = "SIGHUP",
                            "signal received: certificates and secrets are read again"
                        );
                        reloader.reload();
                    }
                });
            }
            Err(error) => warn!(%error, "SIGHUP cannot be caught"),
        }
    }
    #[cfg(not(unix))]
    drop(reloader);
    reload
}

/// Catches SIGTERM and SIGINT from the call on; the future resolves at the first. From then on a second one ends the process at
/// once, with exit code 1: so this is for programs, and for one place in them.
///
/// Where signals cannot be caught it never resolves, and the system's default action ends the process.
///
/// # Panics
/// Outside a tokio runtime.
pub fn shutdown_signal() -> impl Future<Output = ()> + Send + 'static {
    // Now and not when first polled: a signal that comes in between would end the process without a word to the peers.
    let signals = Signals::new();
    async move {
        let mut signals = match signals {
            Ok(signals) => signals,
            Err(error) => {
                warn!(%error, "signals cannot be caught");
                return std::future::pending().await;
            }
        };
        let first = signals.next().await;
        info!(
            signal = first,
            "signal received: a second one ends the process at once"
        );
        tokio::spawn(async move {
            let second = signals.next().await;
            warn!(signal = second, "second signal received: ending at once");
            // The log is written by a thread of its own, which `exit` does not wait for: this line is the one that matters.
            std::thread::sleep(LAST_WORD);
            std::process::exit(IMPATIENT);
        });
    }
}
