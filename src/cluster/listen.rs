//! Takes the streams that other pods dial: a bounded number of them before they have said who they are.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::hello::HELLO_TIMEOUT;
use super::stream::PodStream;
use super::streams::Streams;
use super::tls::{PodTls, TlsRefusal};
use crate::proto::cluster::hello::HelloRefusal;
use crate::telemetry::log_limit::{brief, log_rarely};

/// Streams that have not said HELLO yet, in all. Enough for a large cluster that starts at one instant.
const GREETING_MAX: usize = 1024;

/// Streams that have not said HELLO yet, from one address: a pod needs one or two, and a flood takes only its own address's.
const GREETING_MAX_EACH: usize = 16;

/// How long accepting rests after an error that is not one connection's.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where streams of other pods come from.
pub trait Accept: Send + 'static {
    /// The next stream. Cancel-safe.
    ///
    /// # Errors
    /// Those of the socket; the next call may succeed.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<PodStream>>;
}

impl Accept for TcpListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<PodStream>> {
        let (stream, _) = ready!(Self::poll_accept(self, cx))?;
        Poll::Ready(PodStream::tcp(stream))
    }
}

/// Who is being greeted.
#[derive(Debug, Default)]
struct Greeting {
    all: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// A place among those who are greeted.
struct Place {
    greeting: Arc<Mutex<Greeting>>,
    ip: Option<IpAddr>,
}

impl Place {
    fn take(greeting: &Arc<Mutex<Greeting>>, ip: Option<IpAddr>) -> Option<Self> {
        let mut state = greeting.lock();
        if state.all >= GREETING_MAX {
            return None;
        }
        if let Some(ip) = ip {
            let each = state.by_ip.entry(ip).or_default();
            if *each >= GREETING_MAX_EACH {
                return None;
            }
            *each += 1;
        }
        state.all += 1;
        Some(Self {
            greeting: Arc::clone(greeting),
            ip,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.greeting.lock();
        state.all -= 1;
        if let Some(ip) = self.ip
            && let Some(each) = state.by_ip.get_mut(&ip)
        {
            *each -= 1;
            if *each == 0 {
                state.by_ip.remove(&ip);
            }
        }
    }
}

/// Accepts until the fabric stops.
pub(super) async fn run(streams: Arc<Streams>, mut accept: Box<dyn Accept>, tls: Option<PodTls>) {
    let mut stop = streams.stop_watch();
    let greeting = Arc::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.started() => return,
            accepted = std::future::poll_fn(|cx| accept.poll_accept(cx)) => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                log_rarely!(warn, streams.log_limit, "accept", %error, "cannot accept streams of other pods");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let ip = stream.remote.map(|remote| remote.ip());
        let Some(place) = Place::take(&greeting, ip) else {
            debug!(network.peer.address = ?stream.remote, "stream closed: too many that have not said HELLO");
            continue;
        };
        tokio::spawn(greet(Arc::clone(&streams), stream, tls.clone(), place));
    }
}

/// Until it is known who it is, or that it is nobody.
async fn greet(streams: Arc<Streams>, stream: PodStream, tls: Option<PodTls>, place: Place) {
    let mut stop = streams.stop_watch();
    let remote = stream.remote;
    let greeting = async {
        let stream = match tls {
            None => stream,
            Some(tls) => match tls.accept(stream).await {
                Ok(stream) => stream,
                Err(TlsRefusal::Nothing) => return,
                Err(TlsRefusal::Plain) => {
                    return streams.refuse(remote, HelloRefusal::PlainButTlsRequired, None);
                }
                Err(TlsRefusal::Handshake(error)) => {
                    return streams.refuse(remote, HelloRefusal::TlsFailed, Some(&brief(&error)));
                }
            },
        };
        streams.accepted(stream).await;
    };
    tokio::select! {
        biased;
        () = stop.started() => {}
        greeted = timeout(HELLO_TIMEOUT, greeting) => if greeted.is_err() {
            streams.refuse(remote, HelloRefusal::Timeout, None);
        },
    }
    drop(place);
}
