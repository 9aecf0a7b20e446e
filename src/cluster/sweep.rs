//! The one task of the owner table: what is due, and what is told to new links.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::exchange;
use super::owners::Owners;
use super::pods::PodNumber;
use super::timeline::Due;

/// Things done in a row before others of this thread get their turn: some 100 us.
const AT_ONCE: usize = 128;

impl Owners {
    /// Does what is due, when it is due. Never returns; ends when it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let more_to_tell = self.exchange_some();
            self.do_due().await;
            let due = self.timeline.first().map(|at| self.instant(at));
            let paused =
                more_to_tell.then(|| Instant::now() + Duration::from_millis(exchange::PAUSE));
            let wait = async {
                match [due, paused].into_iter().flatten().min() {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.timeline.earlier() => {}
                () = wait => {}
            }
        }
    }

    async fn do_due(&self) {
        let mut done = 0;
        while let Some(due) = self.timeline.take(self.now()) {
            match due {
                Due::Lookup(peer, number) => self.lookup_timed_out(&peer, number),
                Due::Absent(peer) => self.forget_absent(&peer),
                Due::Held(peer) => self.hold_timed_out(&peer),
                Due::Lingering(peer, stamp) => self.lingered(&peer, stamp),
                Due::Gone(peer, stamp) => self.forget_gone(&peer, stamp),
                Due::StockOwner(peer, stamp) => self.stock_owner_is_old(&peer, stamp),
                Due::Ask(peer, attempt) => self.ask_again(&peer, attempt),
                Due::Pod(pod, epoch) => self.pod_due(pod, epoch).await,
                Due::StockPods => self.ask_for_all_watched(),
            }
            done += 1;
            if done % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// The peers of a lost pod have been held long enough. If it is linked again by now, it has as long to name them again; if it was
    /// lost again since, what is due for that follows.
    async fn pod_due(&self, pod: PodNumber, epoch: u8) {
        if self.pods.epoch(pod) != epoch {
            return;
        }
        if let Some(at) = self.pods.confirmed_by(pod)
            && at > self.now()
        {
            return self.timeline.add(at, Due::Pod(pod, epoch));
        }
        for shard in 0..self.shards() {
            self.sweep_pod(shard, pod, epoch);
            tokio::task::yield_now().await;
        }
    }
}
