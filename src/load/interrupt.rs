//! What an interrupt (Ctrl-C) does to a load: it cuts the measured time short, and ends the load at any other time.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::signal::ctrl_c;
use tokio::time::Instant;

use super::error::LoadError;

/// Whether a load is measured, and whether its time is cut short.
#[derive(Debug, Default)]
pub(super) struct Interrupt {
    measuring: Cell<bool>,
    cut: Cell<bool>,
}

impl Interrupt {
    /// The measured time begins, or is over.
    pub(super) fn measuring(&self, on: bool) {
        self.measuring.set(on);
    }

    /// Whether the measured time is to end now.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// What is left of a time that began at `start`; none when it is over or cut short.
    pub(super) fn left(&self, start: Instant, time: Duration) -> Option<Duration> {
        let left = time.checked_sub(start.elapsed())?;
        (!left.is_zero() && !self.is_cut()).then_some(left)
    }

    /// An error for a load of which the part that was cut short is not the last one.
    pub(super) fn none_yet(&self) -> Result<(), LoadError> {
        if self.is_cut() {
            Err(LoadError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Ends with the interrupt that ends the load.
    pub(super) async fn wait(&self) -> LoadError {
        let failed = |source: io::Error| LoadError::Io {
            doing: "waiting for Ctrl-C",
            source,
        };
        loop {
            if let Err(error) = ctrl_c().await {
                return failed(error);
            }
            if !self.measuring.get() || self.cut.replace(true) {
                return LoadError::Interrupted;
            }
        }
    }
}
