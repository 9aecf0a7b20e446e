//! Keeps a stream to each pod that discovery lists (cluster-protocol.md, fault 3).
//!
//! A pod that leaves the list is not dialed any more; its stream lives on.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt as _};
use tracing::{Instrument as _, debug, warn};

use super::discovery::Discovered;
use super::hello::GreetError;
use super::link::Link;
use super::stream::PodStream;
use super::streams::Streams;
use crate::telemetry::log_limit::brief;
use crate::telemetry::spans;

/// How long a dial may take, TLS handshake included.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// The pause after the first failure; it doubles up to the discovery interval.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// Opens a stream to the pod at an address.
pub type Dial = BoxCloneSyncService<SocketAddr, PodStream, BoxError>;

/// Dials over TCP. Always ready; what failed may be tried again.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDial;

impl Service<SocketAddr> for TcpDial {
    type Response = PodStream;
    type Error = io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = io::Result<PodStream>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: SocketAddr) -> Self::Future {
        Box::pin(async move { PodStream::tcp(TcpStream::connect(address).await?) })
    }
}

/// The pauses between tries: each one twice the one before, up to a most, and shorter by chance by up to a half, so that pods
/// which failed together do not try together.
struct Backoff {
    next: Duration,
    most: Duration,
    random: SmallRng,
}

impl Backoff {
    fn new(most: Duration, seed: u64) -> Self {
        Self {
            next: BACKOFF_FIRST.min(most),
            most,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(self.random.random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.most);
        pause
    }

    fn reset(&mut self) {
        self.next = BACKOFF_FIRST.min(self.most);
    }
}

/// What one pod's dialer runs in; ends with it.
struct Dialing(AbortHandle);

impl Drop for Dialing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is wrong with a pod that takes the stream and says nothing, where it would have to prove the secret.
const UNANSWERED: &str = "it takes the stream but does not answer HELLO, so nothing is sent to it: it stands still, or it is a stock \
                          pod and --cluster-allow-one-way is missing";

/// What was last said to be wrong with a pod: the same is not said again.
#[derive(Default)]
struct Complaint(Option<String>);

impl Complaint {
    fn tell(&mut self, address: SocketAddr, error: &str) {
        // Some errors say how many seconds ago a certificate expired.
        let but_numbers = error.replace(|letter: char| letter.is_ascii_digit(), "");
        if self.0.as_ref() == Some(&but_numbers) {
            debug!(network.peer.address = %address, error, "pod not reached");
        } else {
            warn!(network.peer.address = %address, error, "pod not reached: it is tried again");
            self.0 = Some(but_numbers);
        }
    }
}

/// What the dialers need.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) streams: Arc<Streams>,
    pub(super) dial: Dial,
    /// The longest pause between two tries: the discovery interval.
    pub(super) backoff_most: Duration,
    /// What the pauses' chance comes from.
    pub(super) seed: u64,
}

impl Dialer {
    /// Dials what `discovered` lists, as long as it is listed. Ends when it is dropped or the fabric stops.
    pub(super) async fn run(self, mut discovered: watch::Receiver<Discovered>) {
        let mut stop = self.streams.stop_watch();
        let mut dialing = BTreeMap::new();
        loop {
            let pods = discovered.borrow_and_update().pods.clone();
            dialing.retain(|address, _| pods.contains(address));
            for address in pods {
                dialing.entry(address).or_insert_with(|| {
                    Dialing(tokio::spawn(self.clone().keep(address)).abort_handle())
                });
            }
            tokio::select! {
                biased;
                () = stop.started() => return,
                changed = discovered.changed() => if changed.is_err() {
                    // Nobody will list anything else any more.
                    return stop.started().await;
                },
            }
        }
    }

    /// Keeps a stream to one pod. A link that comes up lives its own life: it is not ours to end.
    async fn keep(mut self, address: SocketAddr) {
        let port_and_ip = match address.ip() {
            std::net::IpAddr::V4(ip) => u64::from(ip.to_bits()),
            std::net::IpAddr::V6(ip) => ip.to_bits() as u64,
        } ^ (u64::from(address.port()) << 48);
        let mut backoff = Backoff::new(self.backoff_most, self.seed ^ port_and_ip);
        let mut complaint = Complaint::default();
        loop {
            // Whoever dialed whom: it was reached.
            if self.streams.links.is_linked(address) {
                complaint = Complaint::default();
            }
            self.streams.links.unlinked(address).await;
            let span = spans::dial(&address);
            match self.connect(address).instrument(span).await {
                Ok(Some(link)) => {
                    if !self.streams.links.carries_peers(link.pod()) {
                        complaint.tell(address, UNANSWERED);
                    }
                    let up = Instant::now();
                    link.ended().await;
                    if link.carries_peers() {
                        complaint = Complaint::default();
                    }
                    // A pod that takes our stream and drops it at once is not asked more often than one that takes none.
                    if up.elapsed() >= self.backoff_most {
                        backoff.reset();
                    }
                }
                // There is a link under another address, now known.
                Ok(None) => {}
                Err(error) => complaint.tell(address, &brief(&error)),
            }
            sleep(backoff.pause()).await;
        }
    }

    async fn connect(&mut self, address: SocketAddr) -> Result<Option<Arc<Link>>, BoxError> {
        let result = self.try_connect(address).await;
        if result.is_err() {
            spans::failed("unreachable");
        }
        result
    }

    async fn try_connect(&mut self, address: SocketAddr) -> Result<Option<Arc<Link>>, BoxError> {
        let stream = self.dial.ready().await?.call(address).await?;
        match self.streams.dialed(address, stream).await {
            Ok(link) => Ok(link.ok()),
            Err(error @ GreetError::Ourselves) => {
                debug!(network.peer.address = %address, %error, "dialed in vain");
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_most_and_start_again() {
        let most = Duration::from_secs(10);
        let mut backoff = Backoff::new(most, 7);
        for round in 0..12 {
            let full = (BACKOFF_FIRST * 2_u32.pow(round)).min(most);
            let pause = backoff.pause();
            assert!(full / 2 <= pause && pause <= full, "{round}: {pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= BACKOFF_FIRST);
    }
}
