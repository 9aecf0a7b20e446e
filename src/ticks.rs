//! A clock that costs one atomic load: milliseconds since the relay started, true to [`TICK`].
//!
//! The message path may not read the system's clock for each message, but must know roughly how long a message has
//! waited and whether a peer has sent something lately. One task moves this clock for everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

/// How far behind the true time this clock may be.
pub const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Shared {
    now: AtomicU32,
    running: AtomicBool,
}

/// A handle to the coarse clock; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ticks(Arc<Shared>);

impl Ticks {
    /// Milliseconds since the clock was started; wraps after 49 days, so compare with [`Ticks::since`].
    #[must_use]
    pub fn now(&self) -> u32 {
        self.0.now.load(Ordering::Relaxed)
    }

    /// Milliseconds from `earlier` until now.
    #[must_use]
    pub fn since(&self, earlier: u32) -> u32 {
        self.now().wrapping_sub(earlier)
    }

    /// Starts the task that moves the clock, once; it ends when all other handles are gone.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(&self) {
        if self.0.running.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let started = Instant::now();
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                interval.tick().await;
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                // Wrapping on purpose: only differences are ever used.
                #[allow(clippy::cast_possible_truncation)]
                shared
                    .now
                    .store(started.elapsed().as_millis() as u32, Ordering::Relaxed);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn follows_the_time_to_a_tick() {
        let ticks = Ticks::default();
        ticks.start();
        ticks.start();
        tokio::time::sleep(Duration::from_millis(5_050)).await;
        assert!((4_900..=5_050).contains(&ticks.now()), "{}", ticks.now());
        let then = ticks.now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!((900..=1_100).contains(&ticks.since(then)));
    }
}
