//! The queue between the threads that log and the one thread that writes.
//!
//! Owns the bound, the count of dropped lines and the end of the writer thread. Never blocks a thread that
//! logs for longer than a copy takes, and never knows where lines go.

use std::io::Write as _;
use std::{fmt, io, mem, sync::Arc, thread, time::Duration};

use parking_lot::{Condvar, Mutex};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::sink::{self, Sink};

/// The most that waits to be written, in bytes: some 5,000 lines, a burst that a busy disk delays by a second.
const QUEUE_MAX: usize = 1 << 20;
/// How long the writer waits for more lines once there is one: a line alone costs a wake-up and a write, and in a burst each would be
/// alone.
const GATHER: Duration = Duration::from_millis(2);
/// How long the end of the process waits for a destination that does not take what is left.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Where the subscriber puts its lines. Cheap to clone.
#[derive(Clone)]
pub(super) struct LineQueue {
    shared: Arc<Shared>,
    priorities: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Tells the writer thread that there is something to do.
    wake: Condvar,
    /// Tells the guard that the writer thread has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// Whole lines, each ended by a line break.
    lines: Vec<u8>,
    /// Lines lost since the last time the loss was told.
    dropped: u64,
    closing: bool,
    ended: bool,
}

/// Keeps the log going. Dropping it writes what is queued, for two seconds at most.
#[must_use = "dropping the guard ends the log"]
pub struct LogGuard {
    shared: Arc<Shared>,
}

impl fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogGuard").finish_non_exhaustive()
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closing = true;
        self.shared.wake.notify_one();
        // A destination that hangs must not hold up the end of the process.
        self.shared
            .ended
            .wait_while_for(&mut state, |state| !state.ended, FLUSH_MAX);
    }
}

impl LineQueue {
    /// Starts the writer thread on `sink`. It calls `tell_lost` with the number of lines that were dropped, once
    /// lines can be written again.
    pub(super) fn start(
        sink: Box<dyn Sink>,
        tell_lost: impl Fn(u64) + Send + 'static,
    ) -> io::Result<(Self, LogGuard)> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || own.write_to(sink, tell_lost))?;
        let queue = Self {
            shared: Arc::clone(&shared),
            priorities: false,
        };
        Ok((queue, LogGuard { shared }))
    }

    /// Puts syslog's header with the event's severity before each line.
    pub(super) fn with_priorities(self) -> Self {
        Self {
            priorities: true,
            ..self
        }
    }
}

impl Shared {
    fn push(&self, header: &[u8], line: &[u8]) {
        // Levels are padded on the left, which is of no use where no time stands before them.
        let line = line.trim_ascii();
        let mut state = self.state.lock();
        if state.closing || state.lines.len() + header.len() + line.len() >= QUEUE_MAX {
            state.dropped += 1;
            return;
        }
        let was_empty = state.lines.is_empty();
        state.lines.extend_from_slice(header);
        for &byte in line {
            // An event is one line, whatever a peer has put into its fields.
            match byte {
                b'\n' => state.lines.extend_from_slice(b"\\n"),
                b'\r' => state.lines.extend_from_slice(b"\\r"),
                _ => state.lines.push(byte),
            }
        }
        state.lines.push(b'\n');
        drop(state);
        if was_empty {
            self.wake.notify_one();
        }
    }

    /// The writer thread: takes all that is queued, writes it, and tells what was lost.
    fn write_to(&self, mut sink: Box<dyn Sink>, tell_lost: impl Fn(u64)) {
        let mut batch = Vec::new();
        let mut failing = false;
        loop {
            let mut state = self.state.lock();
            self.wake
                .wait_while(&mut state, |state| state.lines.is_empty() && !state.closing);
            // Who logs meanwhile wakes nobody.
            self.wake
                .wait_while_for(&mut state, |state| !state.closing, GATHER);
            if state.lines.is_empty() {
                state.ended = true;
                drop(state);
                self.ended.notify_all();
                return;
            }
            mem::swap(&mut batch, &mut state.lines);
            drop(state);
            let written = sink.write(&batch);
            let lost = match written {
                // Told only once something could be written: before that, nobody would read it.
                Ok(()) => {
                    failing = false;
                    mem::take(&mut self.state.lock().dropped)
                }
                Err(error) => {
                    // Said once, where it may still be read; nothing else can be done.
                    if !mem::replace(&mut failing, true) {
                        let _ = writeln!(
                            io::stderr(),
                            "trunkline: log lines cannot be written and are lost: {error}"
                        );
                    }
                    let lines = batch.iter().filter(|&&byte| byte == b'\n').count();
                    self.state.lock().dropped += lines as u64;
                    0
                }
            };
            batch.clear();
            if lost > 0 {
                tell_lost(lost);
            }
        }
    }
}

/// Takes one event's line.
pub(super) struct LineWriter<'a> {
    shared: &'a Shared,
    header: Option<String>,
}

impl io::Write for LineWriter<'_> {
    /// The subscriber formats an event whole and writes it once: a call is a line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let header = self.header.as_deref().unwrap_or_default();
        self.shared.push(header.as_bytes(), line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        self.writer(Level::INFO)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        self.writer(*meta.level())
    }
}

impl LineQueue {
    fn writer(&self, level: Level) -> LineWriter<'_> {
        LineWriter {
            shared: &self.shared,
            header: self.priorities.then(|| sink::syslog_header(level)),
        }
    }
}
