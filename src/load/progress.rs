//! The line on stderr that says a load is alive. Silent where stderr is no terminal.

use std::io::{self, IsTerminal, Write};

/// One line, written over itself.
#[derive(Debug)]
pub(super) struct Progress {
    shown: bool,
    enabled: bool,
}

impl Progress {
    /// A line if `wanted`, and if there is a terminal to show it on.
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            shown: false,
            enabled: wanted && io::stderr().is_terminal(),
        }
    }

    /// Shows what `text` makes, in place of what was shown before.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        if self.enabled {
            self.shown = true;
            // A progress line that cannot be written is no reason to end a load.
            let _ = write!(io::stderr(), "\r\x1b[2K{}", text());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }
}
