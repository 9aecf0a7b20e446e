//! The end of a relay: every peer is told *close*, all at once or spread over some time (cluster-protocol.md, *Leaving without a
//! trace*).

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use tracing::Instrument as _;

use super::{Relay, SHUTDOWN_TIMEOUT};
use crate::routing::EndReason;
use crate::telemetry::spans;

impl Relay {
    /// Takes no more peers, tells those connected *close*, and waits until all connections have ended, at most 30 s.
    /// Returns the number of peers that were still connected then. Cancel-safe; calling it again waits again.
    pub async fn shutdown(&self) -> usize {
        self.shutdown_over(Duration::ZERO).await
    }

    /// As [`Relay::shutdown`], with the closes spread evenly over `window`, so that the peers do not all come to another pod in
    /// the same instant. Messages go on meanwhile, both ways. The 30 s include the window.
    pub async fn shutdown_over(&self, window: Duration) -> usize {
        let span = spans::drain(self.shared.registry.len());
        self.drain_over(window).instrument(span).await
    }

    async fn drain_over(&self, window: Duration) -> usize {
        let began = Instant::now();
        let last = began + SHUTDOWN_TIMEOUT;
        if let Some(directory) = self.shared.presence.directory() {
            directory.draining();
        }
        self.shared.drain.start();
        let mut peers = Vec::with_capacity(self.shared.registry.len());
        self.shared
            .registry
            .for_each(|registration| peers.push(std::sync::Arc::clone(registration)));
        let all = u32::try_from(peers.len().max(1)).unwrap_or(u32::MAX);
        for (number, registration) in (0..all).zip(peers) {
            let turn = began + (window / all) * number;
            // Whoever is late catches up; nobody waits for less than the clock can tell.
            if turn > Instant::now() {
                sleep_until(turn.min(last)).await;
            }
            registration.close(EndReason::Shutdown);
        }
        // Who does not end in time is cut off with the process.
        let _ = timeout_at(last, self.shared.drain.done()).await;
        self.shared.registry.len()
    }
}
