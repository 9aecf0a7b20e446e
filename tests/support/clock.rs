//! Waiting for conditions, and a paused clock that works with real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How long a test may wait for anything before it fails: far beyond what a busy machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A pause of about a millisecond of real time, whatever tokio's clock says; the runtime goes on meanwhile.
pub(crate) async fn real_pause() {
    let pause = || std::thread::sleep(Duration::from_millis(1));
    tokio::task::spawn_blocking(pause).await.unwrap();
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || std::future::ready(condition())).await;
}

/// Likewise, where it takes an await to see.
pub(crate) async fn eventually<F>(what: &str, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    for _ in 0..PATIENCE.as_millis() {
        if condition().await {
            return;
        }
        real_pause().await;
    }
    panic!("this never came true: {what}");
}

/// tokio's clock, stopped: it moves only by [`FrozenClock::advance`].
///
/// A clock that is merely paused jumps to the next timer whenever the runtime waits, also when it waits for a socket. It does
/// not while a blocking task runs, so one runs here until this is dropped. Should a test hang, that task gives up, the clock
/// jumps, and the test fails: where it waits, or when this is dropped.
#[derive(Debug)]
pub(crate) struct FrozenClock {
    _held: mpsc::Sender<()>,
    gave_up: Arc<AtomicBool>,
}

impl Drop for FrozenClock {
    fn drop(&mut self) {
        let gave_up = self.gave_up.load(Ordering::Relaxed);
        assert!(!gave_up || std::thread::panicking(), "the test hung");
    }
}

impl FrozenClock {
    /// Stops the clock of this (single-threaded) runtime.
    pub(crate) fn freeze() -> Self {
        tokio::time::pause();
        let (held, dropped) = mpsc::channel::<()>();
        let gave_up = Arc::<AtomicBool>::default();
        let giving_up = Arc::clone(&gave_up);
        tokio::task::spawn_blocking(move || {
            let waited = dropped.recv_timeout(PATIENCE);
            giving_up.store(waited == Err(RecvTimeoutError::Timeout), Ordering::Relaxed);
        });
        Self {
            _held: held,
            gave_up,
        }
    }

    /// Moves the clock on and lets every task see it.
    pub(crate) async fn advance(&self, by: Duration) {
        tokio::time::advance(by).await;
        // Timers fire when the runtime next looks at them, and what they wake may wake others.
        for _ in 0..3 {
            real_pause().await;
        }
    }
}
