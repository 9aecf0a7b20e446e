//! A pod of the simulation: a relay and its fabric, on the network in memory.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tower::service_fn;
use trunkline::Relay;
use trunkline::auth::AllowAll;
use trunkline::cluster::discovery::{Answer, Resolver, Source};
use trunkline::cluster::{Accept, Cluster, ClusterHandle, Dial, PodStream};
use trunkline::proto::peer::MessageType;
use trunkline::telemetry::counters::DropReason;
use trunkline::time::Clock;

use super::net::{Incoming, Net};

/// 2027-01-15: what the pods' clocks begin with.
pub(crate) const TODAY: u64 = 1_800_000_000;

/// The address of the pod at a place. The order of addresses as text is not that of the places.
pub(crate) fn address(place: usize) -> SocketAddr {
    let last = [20, 3, 100, 7][place];
    SocketAddr::from(([10, 0, 0, last], 7090))
}

impl Accept for Incoming {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<PodStream>> {
        Self::poll_accept(self, cx).map(|end| {
            let remote = end.remote();
            Ok(PodStream::new(end, Some(remote)))
        })
    }
}

pub(crate) struct Pod {
    pub(crate) address: SocketAddr,
    /// Which of all pods that were ever started.
    pub(crate) life: u32,
    pub(crate) relay: Relay,
    cluster: ClusterHandle,
    clock: AbortHandle,
}

impl Pod {
    /// Starts one whose clock is `skew` seconds ahead of the simulation's, which began at `start`, and which looks up `listed`.
    pub(crate) fn start(
        net: &Net,
        place: usize,
        life: u32,
        skew: u64,
        seed: u64,
        start: Instant,
        listed: &Arc<Mutex<Vec<SocketAddr>>>,
    ) -> Self {
        let address = address(place);
        let relay = Relay::builder()
            .exposed_address("rel://relay.example.com")
            .validator(AllowAll)
            .memory_limit(1 << 30)
            // The scripted peers answer none.
            .health_check_threshold(u32::MAX)
            .build()
            .unwrap();
        let (clock, hand) = Clock::manual(TODAY + skew + start.elapsed().as_secs());
        // The date goes with the simulation's time.
        let clock_task = tokio::spawn(async move {
            loop {
                hand.set(TODAY + skew + start.elapsed().as_secs());
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let listed = Arc::clone(listed);
        let resolver = Resolver::new(service_fn(move |_| {
            let pods: BTreeSet<SocketAddr> = listed.lock().iter().copied().collect();
            std::future::ready(Ok(Answer {
                pods,
                ttl: Duration::from_secs(5),
            }))
        }));
        let dialed = net.clone();
        let dial = Dial::new(service_fn(move |to: SocketAddr| {
            let net = dialed.clone();
            async move { Ok(PodStream::new(net.dial(address, to).await?, Some(to))) }
        }));
        let cluster = Cluster::builder(address)
            .sources([Source::headless("pods", 7090).unwrap()])
            .resolver(resolver)
            .accept(net.listen(address))
            .dial(dial)
            .clock(clock)
            .seed(seed)
            .start(&relay)
            .unwrap();
        Self {
            address,
            life,
            relay,
            cluster,
            clock: clock_task.abort_handle(),
        }
    }

    /// Stops as a pod that is told to: its peers first, then the fabric.
    pub(crate) async fn end(self) {
        self.relay.shutdown_over(Duration::from_secs(2)).await;
        self.cluster.stop().await;
        self.clock.abort();
    }

    /// Transport messages that came, from peers and pods, and what is known of what became of them.
    pub(crate) fn balance(&self) -> (u64, u64) {
        let counters = self.relay.counters();
        let dropped: u64 = DropReason::ALL
            .into_iter()
            .filter(|reason| reason.is_transport())
            .map(|reason| counters.dropped_count(reason))
            .sum();
        (
            counters.received_count(MessageType::Transport) + counters.received_from_pods_count(),
            counters.sent_count(MessageType::Transport) + counters.forwarded_count() + dropped,
        )
    }
}
