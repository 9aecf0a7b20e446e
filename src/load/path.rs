//! How connections come about: through a relay, or through a TCP proxy to a listener of our own.
//!
//! The loads see pairs of connections and know no difference, so that a relay and the proxy beside it are measured alike.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

use super::error::LoadError;
use super::interrupt::Interrupt;
use super::options::{Load, Settings, Target};
use super::peer::{Peer, connect, secured};
use super::quic::{self, QuicStream};
use super::tls::{self, Stream};
use crate::auth::mint;
use crate::proto::PeerId;
use crate::telemetry::process::open_files_limit;
use crate::time::Clock;

/// How long tokens stay valid: longer than any load runs.
const TOKEN_SECONDS: u64 = 7 * 24 * 3600;
/// Files that are open beside the connections, at the least, and as is recommended.
const OWN_FILES: u64 = 12;
const SPARE_FILES: u64 = 64;
/// How long a relay may take for the handshake of QUIC, in which a closed port says nothing.
const QUIC_SECONDS: u64 = 10;
/// How long a proxy may take to pass a new connection on.
const PASS_SECONDS: u64 = 10;

/// A sender and the receiver that hears it.
#[derive(Debug)]
pub(super) struct Ends {
    /// Writes.
    pub(super) sender: Peer,
    /// Reads what the sender writes.
    pub(super) receiver: Peer,
}

/// Makes connections to one target. Lives in one `LocalSet`.
#[derive(Debug)]
pub(super) struct Path {
    tls: Option<Arc<ClientConfig>>,
    /// QUIC in the place of TCP.
    quic: Option<quinn::ClientConfig>,
    /// Over QUIC, what a message carries that must pass before a pair is ready.
    settle: usize,
    target: Target,
    receivers_on: Option<SocketAddr>,
    token: Vec<u8>,
    /// Told apart from the peers of other runs by it.
    run: u64,
    sources: u32,
    next_source: Cell<u32>,
    needed_files: u64,
    passed: Option<Passed>,
    interrupt: Interrupt,
}

/// Connections that a proxy has passed on, by the tag that their other end has written first.
#[derive(Debug)]
struct Passed {
    awaited: Rc<RefCell<HashMap<u64, oneshot::Sender<TcpStream>>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Passed {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Path {
    /// Prepares the way; for a proxy it binds the listener behind it.
    pub(super) async fn open(settings: &Settings) -> Result<Self, LoadError> {
        let needed_files = connections(settings) + SPARE_FILES;
        // Before anything else: the first connection that fails would say it late, and in a storm not at all.
        if open_files_limit().is_some_and(|limit| limit < connections(settings) + OWN_FILES) {
            return Err(LoadError::TooManyFiles {
                needed: needed_files,
            });
        }
        let (token, passed) = match &settings.target {
            Target::Relay { secret, .. } => (
                mint(secret, Clock::system().now_unix() + TOKEN_SECONDS),
                None,
            ),
            Target::Proxy { back, .. } => {
                let io = |source| LoadError::Io {
                    doing: "listening behind the proxy",
                    source,
                };
                let socket = socket2::Socket::new(
                    socket2::Domain::for_address(*back),
                    socket2::Type::STREAM,
                    None,
                )
                .map_err(io)?;
                socket.set_reuse_address(true).map_err(io)?;
                socket.set_nonblocking(true).map_err(io)?;
                socket.bind(&(*back).into()).map_err(io)?;
                socket.listen(4096).map_err(io)?;
                let listener = TcpListener::from_std(socket.into()).map_err(io)?;
                (Vec::new(), Some(Passed::start(listener)))
            }
        };
        Ok(Self {
            target: settings.target.clone(),
            receivers_on: settings.receivers_on,
            token,
            run: rand::random(),
            sources: settings.source_addresses,
            next_source: Cell::new(0),
            quic: settings
                .tls
                .as_deref()
                .filter(|_| settings.quic)
                .map(quic::config),
            settle: settings.size,
            tls: settings.tls.clone(),
            needed_files,
            passed,
            interrupt: Interrupt::default(),
        })
    }

    /// Whether the load is to end early.
    pub(super) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The ID of peer `number` of this run.
    pub(super) fn id(&self, number: u64) -> PeerId {
        PeerId::from_name(format!("trunkline-load-{:016x}-{number}", self.run).as_bytes())
    }

    /// Sender and receiver of pair `number`; the sender's frames are to go to `id(2 * number + 1)`.
    pub(super) async fn pair(&self, number: u64) -> Result<Ends, LoadError> {
        match self.passed {
            None => {
                let size = Some(self.settle);
                let receiver = self.peer(2 * number + 1, self.receivers_on, size).await?;
                let sender = self.peer(2 * number, None, None).await?;
                Ok(Ends { sender, receiver })
            }
            Some(ref passed) => self.through_proxy(passed, number).await,
        }
    }

    /// One connection that is there and says nothing. Through a proxy it has two ends, both of which are to be kept.
    pub(super) async fn lone(&self, number: u64) -> Result<(Peer, Option<Peer>), LoadError> {
        match self.passed {
            None => Ok((self.peer(number, None, None).await?, None)),
            Some(ref passed) => {
                let ends = self.through_proxy(passed, number).await?;
                Ok((ends.sender, Some(ends.receiver)))
            }
        }
    }

    /// As [`Path::lone`], where receivers are to connect.
    pub(super) async fn receiver(&self, number: u64) -> Result<(Peer, Option<Peer>), LoadError> {
        match (&self.passed, self.receivers_on) {
            (None, Some(_)) => Ok((self.peer(number, self.receivers_on, None).await?, None)),
            _ => self.lone(number).await,
        }
    }

    /// An authenticated peer of the relay, or of its pod at another address. Over QUIC, messages with a payload of `settle` bytes
    /// reach it from then on.
    async fn peer(
        &self,
        number: u64,
        elsewhere: Option<SocketAddr>,
        settle: Option<usize>,
    ) -> Result<Peer, LoadError> {
        let Target::Relay {
            address,
            host,
            route,
            ..
        } = &self.target
        else {
            unreachable!("a proxy's connections go another way");
        };
        if let Some(config) = &self.quic {
            let address = elsewhere.unwrap_or(*address);
            let connecting = QuicStream::connect(config.clone(), address, self.source(), host);
            let stream = timeout(Duration::from_secs(QUIC_SECONDS), connecting)
                .await
                .map_err(|_| LoadError::QuicSilent {
                    address,
                    seconds: QUIC_SECONDS,
                })?
                .map_err(tls::handshake_failed("doing the QUIC handshake"))?;
            return Peer::join_quic(stream, &self.id(number), &self.token, settle).await;
        }
        let stream = connect(
            elsewhere.unwrap_or(*address),
            self.source(),
            self.needed_files,
        )
        .await?;
        let stream = secured(stream, self.tls.as_ref(), host).await?;
        Peer::join(stream, host, route, &self.id(number), &self.token).await
    }

    async fn through_proxy(&self, passed: &Passed, tag: u64) -> Result<Ends, LoadError> {
        let (tell, told) = oneshot::channel();
        passed.awaited.borrow_mut().insert(tag, tell);
        let mut stream = connect(self.target.address(), self.source(), self.needed_files).await?;
        stream
            .write_all(&tag.to_be_bytes())
            .await
            .map_err(|source| LoadError::Io {
                doing: "writing to the proxy",
                source,
            })?;
        match timeout(Duration::from_secs(PASS_SECONDS), told).await {
            Ok(Ok(other)) => Ok(Ends {
                sender: Peer::bare(Stream::Plain(stream)),
                receiver: Peer::bare(Stream::Plain(other)),
            }),
            _ => Err(LoadError::Timeout {
                doing: "waiting for the proxy to pass a connection on",
                seconds: PASS_SECONDS,
            }),
        }
    }

    fn source(&self) -> Option<Ipv4Addr> {
        let number = self.next_source.get();
        self.next_source.set(number.wrapping_add(1));
        let last = number.checked_rem(self.sources)? + 1;
        Some(Ipv4Addr::new(
            127,
            0,
            0,
            u8::try_from(last).expect("the options allow 254 addresses"),
        ))
    }
}

/// The connections that a load holds at a time, by how many files they are.
fn connections(settings: &Settings) -> u64 {
    let connections = match settings.load {
        Load::Idle => settings.peers,
        Load::Churn => settings.concurrency,
        Load::Storm => 2 * settings.pairs + settings.peers,
        Load::Flow | Load::Paced | Load::Flood | Load::Stall | Load::Fair => 2 * settings.pairs + 2,
    };
    let each = match settings.target {
        Target::Relay { .. } => 1,
        Target::Proxy { .. } => 2,
    };
    connections as u64 * each
}

impl Passed {
    fn start(listener: TcpListener) -> Self {
        let awaited = Rc::new(RefCell::new(
            HashMap::<u64, oneshot::Sender<TcpStream>>::new(),
        ));
        let known = Rc::clone(&awaited);
        let accepting = spawn_local(async move {
            let mut reading = JoinSet::new();
            loop {
                let Ok((mut stream, _)) = listener.accept().await else {
                    // Out of files, most likely; whoever waits for this connection says so after its time.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                while reading.try_join_next().is_some() {}
                let known = Rc::clone(&known);
                reading.spawn_local(async move {
                    let mut tag = [0; 8];
                    // A connection that ends without a tag was nobody's: a proxy's second try for one that has left.
                    if stream.set_nodelay(true).is_err()
                        || stream.read_exact(&mut tag).await.is_err()
                    {
                        return;
                    }
                    let waiting = known.borrow_mut().remove(&u64::from_be_bytes(tag));
                    if let Some(waiting) = waiting {
                        // Whoever waited may have given up meanwhile.
                        let _ = waiting.send(stream);
                    }
                });
            }
        });
        Self { awaited, accepting }
    }
}

/// Makes `count` things, `--concurrency` at a time and spread over `--ramp-up`, each by `make(number)`; ends with the first failure.
pub(super) async fn gather<T, F>(
    settings: &Settings,
    count: usize,
    make: impl Fn(u64) -> F + 'static,
) -> Result<Vec<T>, LoadError>
where
    T: 'static,
    F: Future<Output = Result<T, LoadError>> + 'static,
{
    let make = Rc::new(make);
    let next = Rc::new(Cell::new(0));
    let mut workers = JoinSet::new();
    let (start, step) = (
        Instant::now(),
        settings.ramp_up / u32::try_from(count.max(1)).unwrap_or(u32::MAX),
    );
    for _ in 0..settings.concurrency.min(count) {
        let (make, next) = (Rc::clone(&make), Rc::clone(&next));
        workers.spawn_local(async move {
            let mut made = Vec::new();
            while next.get() < count {
                let number = next.get();
                next.set(number + 1);
                if !step.is_zero() {
                    sleep_until(start + step * number as u32).await;
                }
                made.push((number, make(number as u64).await?));
            }
            Ok::<_, LoadError>(made)
        });
    }
    let mut all = Vec::new();
    while let Some(worker) = workers.join_next().await {
        all.append(&mut worker.expect("no worker panics or is aborted")?);
    }
    all.sort_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, made)| made).collect())
}
