//! A stock pod of the simulation: the double of `tests/support`, on the network in memory. It dials nobody.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::net::Net;
use super::pod::{TODAY, address};
use super::support::stock_pod::StockPod;

pub(crate) struct Stock {
    pub(crate) address: SocketAddr,
    /// Which of all pods that were ever started.
    pub(crate) life: u32,
    pub(crate) pod: Arc<StockPod>,
    accepting: AbortHandle,
}

impl Drop for Stock {
    /// A killed process.
    fn drop(&mut self) {
        self.accepting.abort();
        self.pod.kill();
    }
}

impl Stock {
    /// Starts one whose clock goes with the simulation's, which began at `start`.
    pub(crate) fn start(net: &Net, place: usize, life: u32, start: Instant) -> Self {
        let address = address(place);
        let pod = Arc::new(StockPod::new(address, "", TODAY));
        let mut incoming = net.listen(address);
        let taking = Arc::clone(&pod);
        let accepting = tokio::spawn(async move {
            loop {
                let end = poll_fn(|cx| incoming.poll_accept(cx)).await;
                taking.set_now(TODAY + start.elapsed().as_secs());
                taking.accept(end);
            }
        });
        Self {
            address,
            life,
            pod,
            accepting: accepting.abort_handle(),
        }
    }
}
