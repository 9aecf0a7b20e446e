//! The load at the edge: what established peers feel while strangers try to get in.
//!
//! Pairs send at a rate, and their latency is measured twice: in calm, and while so many handshakes are attempted, evenly over the
//! measured time. One third of them say nothing, one third stop in the middle, one third end in a token of another secret. They
//! come from a thread of their own at the lowest priority, so that what they cost this machine is not measured as the pairs'
//! latency. Connections that the relay does not end are held to the end.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustls::ClientConfig;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until};

use super::engine::{PairTask, Shared};
use super::error::LoadError;
use super::flow::beat;
use super::frame::Batch;
use super::measure::measure;
use super::options::{Settings, Target};
use super::path::{Path, gather};
use super::peer::{Peer, secured};
use super::report::{Latency, Report};
use crate::auth::{Secret, mint};
use crate::proto::PeerId;
use crate::time::Clock;

/// The beginning of a TLS handshake: the head of a record that announces more than follows, and of a ClientHello in it.
const HALF_HELLO: &[u8] = &[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];
/// The beginning of an upgrade request.
const HALF_REQUEST: &[u8] = b"GET /relay HTTP/1.1\r\nHost: relay\r\nUpgr";

/// The nicest there is: real strangers bring machines of their own.
#[cfg(target_os = "linux")]
const LOWEST_PRIORITY: i32 = 19;

/// What became of the handshakes that were attempted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Storm {
    /// Connections that were attempted while the pairs were measured.
    pub attempted: u64,
    /// Those for which there was no connection.
    pub unconnected: u64,
    /// Those that the relay ended before the end of the load.
    pub ended: u64,
}

/// The same while it is being counted, from two threads.
#[derive(Debug, Default)]
struct Count {
    attempted: AtomicU64,
    unconnected: AtomicU64,
    ended: AtomicU64,
}

impl Count {
    fn add(which: &AtomicU64) {
        which.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Storm {
        let read = |which: &AtomicU64| which.load(Ordering::Relaxed);
        Storm {
            attempted: read(&self.attempted),
            unconnected: read(&self.unconnected),
            ended: read(&self.ended),
        }
    }
}

/// Runs the load: the measured time is spent twice, once in calm, once in the storm of `--peers` handshakes.
pub(super) async fn run(settings: &Settings, path: &Rc<Path>) -> Result<Report, LoadError> {
    let (_, calm) = phase(settings, path, 0).await?;
    path.interrupt().none_yet()?;
    let count = Arc::<Count>::default();
    let (stop, stopped) = oneshot::channel();
    let attackers = attack(settings, Arc::clone(&count), stopped)?;
    let (mut report, stormy) = phase(settings, path, settings.pairs as u64).await?;
    // The thread may have failed by itself, and has counted what it could not do.
    let _ = stop.send(());
    let _ = attackers.join();
    report.latency_calm = calm;
    report.latency = stormy;
    report.storm = Some(count.read());
    Ok(report)
}

async fn phase(
    settings: &Settings,
    path: &Rc<Path>,
    first: u64,
) -> Result<(Report, Option<Latency>), LoadError> {
    let shared = Shared::new();
    let connecting = Rc::clone(path);
    let pairs = gather(settings, settings.pairs, move |number| {
        let path = Rc::clone(&connecting);
        async move { path.pair(first + number).await }
    })
    .await?;
    let mut tasks = JoinSet::new();
    let mut tallies = Vec::new();
    for (number, ends) in pairs.into_iter().enumerate() {
        let receiver = path.id(2 * (first + number as u64) + 1);
        let batch = Batch::new(&vec![receiver; settings.batch], settings.size);
        let (task, tally) = PairTask::new(
            ends,
            batch,
            settings.batch,
            beat(settings),
            true,
            Rc::clone(&shared),
        );
        tasks.spawn_local(task);
        tallies.push(tally);
    }
    let measured = measure(settings, path.interrupt(), &shared, &tallies).await?;
    Ok((
        Report::of_traffic(settings, &measured),
        Latency::of(&shared.take_latency()),
    ))
}

/// Starts the strangers' thread; it ends when `stopped` resolves.
fn attack(
    settings: &Settings,
    count: Arc<Count>,
    stopped: oneshot::Receiver<()>,
) -> Result<thread::JoinHandle<()>, LoadError> {
    let Target::Relay {
        address,
        host,
        route,
        ..
    } = settings.target.clone()
    else {
        unreachable!("checked: the load needs a relay");
    };
    let stranger = Stranger {
        address,
        host,
        route,
        tls: settings.tls.clone(),
        token: mint(
            &Secret::new("not the relay's secret"),
            Clock::system().now_unix() + 600,
        ),
        count,
    };
    let starting = |source| LoadError::Io {
        doing: "starting",
        source,
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(starting)?;
    // The pairs need a moment to connect and to warm up.
    let (wait, time) = (settings.warmup, settings.duration);
    let attempts = settings.peers as u64;
    thread::Builder::new()
        .name("strangers".to_owned())
        .spawn(move || {
            // On Linux, this thread's priority alone.
            #[cfg(target_os = "linux")]
            let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
            LocalSet::new().block_on(&runtime, async move {
                tokio::select! {
                    () = storm(Rc::new(stranger), attempts, wait, time) => {}
                    _ = stopped => {}
                }
            });
        })
        .map_err(starting)
}

async fn storm(stranger: Rc<Stranger>, attempts: u64, wait: Duration, time: Duration) {
    let start = Instant::now() + wait;
    let mut tasks = JoinSet::new();
    for number in 0..attempts {
        sleep_until(start + time.mul_f64(number as f64 / attempts as f64)).await;
        let stranger = Rc::clone(&stranger);
        tasks.spawn_local(async move { stranger.attempt(number).await });
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
}

/// Somebody who is no peer.
struct Stranger {
    address: SocketAddr,
    host: String,
    route: String,
    tls: Option<Arc<ClientConfig>>,
    token: Vec<u8>,
    count: Arc<Count>,
}

impl Stranger {
    async fn attempt(&self, number: u64) {
        Count::add(&self.count.attempted);
        let Ok(mut stream) = tokio::net::TcpStream::connect(self.address).await else {
            Count::add(&self.count.unconnected);
            return;
        };
        match number % 3 {
            0 => {}
            1 => {
                let half = match self.tls {
                    Some(_) => HALF_HELLO,
                    None => HALF_REQUEST,
                };
                // It is read from below in any case.
                let _ = stream.write_all(half).await;
            }
            _ => {
                // Refused, as it should be, or not even that.
                if let Ok(stream) = secured(stream, self.tls.as_ref(), &self.host).await {
                    let id = PeerId::from_name(format!("stranger-{number}").as_bytes());
                    let joined =
                        Peer::join(stream, &self.host, &self.route, &id, &self.token).await;
                    debug_assert!(joined.is_err(), "a relay lets in who has no token");
                }
                Count::add(&self.count.ended);
                return;
            }
        }
        let mut buffer = [0; 256];
        loop {
            let read: io::Result<usize> = stream.read(&mut buffer).await;
            if matches!(read, Ok(0) | Err(_)) {
                break;
            }
        }
        Count::add(&self.count.ended);
    }
}
