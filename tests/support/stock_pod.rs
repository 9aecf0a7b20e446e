//! A *stock pod*: a double of an openZro relay pod, as its cluster side behaves on the wire (cluster-protocol.md), faults included.
//!
//! It uses nothing of Trunkline's own cluster code: frames are put together and cut by hand. Its peers are scripted; they have no sockets.
//!
//! - It dials an address once and never again, sends a HELLO first, and never answers one.
//! - It has one stream for each announced address; a second one, whoever dialed, is closed.
//! - It answers WHO_HAS with a count of its answers for a seqno, and is silent about peers that it has not.
//! - Before a message to a peer of unknown place it asks all pods and waits 200 ms, whatever comes. Owners are cached for 5 minutes; an
//!   I_HAVE with a higher seqno changes the cache, asked for or not.
//! - It drops a FWD for a peer it has not, in silence. It never forwards one, never announces, sends neither PING nor PONG, and
//!   ignores them and every type that it does not know.
//! - It closes a stream on a known type of the wrong size.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use trunkline::proto::PeerId;

use super::client::transport;
use super::clock::PATIENCE;

const HELLO: u8 = 0x00;
const WHO_HAS: u8 = 0x01;
const I_HAVE: u8 = 0x02;
const FWD: u8 = 0x14;

/// How long it waits for answers to WHO_HAS, always.
const LOOKUP: Duration = Duration::from_millis(200);
/// How long it believes an answer.
const CACHE: Duration = Duration::from_secs(300);
/// How long it waits for a HELLO.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A whole frame.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    [&[kind][..], &length.to_be_bytes(), payload].concat()
}

fn signature(secret: &[u8], signed: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(signed);
    mac.finalize().into_bytes().to_vec()
}

/// The payload of a HELLO, version 2.
pub(crate) fn hello(address: &str, now: u64, secret: &str) -> Vec<u8> {
    let mut payload = vec![2, u8::try_from(address.len()).unwrap()];
    payload.extend(address.as_bytes());
    payload.extend(now.to_be_bytes());
    if secret.is_empty() {
        payload.push(0);
    } else {
        let mac = signature(secret.as_bytes(), &payload);
        payload.push(32);
        payload.extend(mac);
    }
    payload
}

/// The announced address of a HELLO, if the reference would take it.
pub(crate) fn verdict(payload: &[u8], now: u64, secret: &str) -> Option<Vec<u8>> {
    let length = usize::from(*payload.get(1)?);
    let address = payload.get(2..2 + length)?;
    let stamp = payload.get(2 + length..10 + length)?;
    let mac_length = usize::from(*payload.get(10 + length)?);
    let mac = payload.get(11 + length..11 + length + mac_length)?;
    let fresh = u64::from_be_bytes(stamp.try_into().unwrap()).abs_diff(now) <= 300;
    let signed = if secret.is_empty() {
        mac.is_empty()
    } else {
        mac == signature(secret.as_bytes(), &payload[..10 + length])
    };
    let good = payload[0] == 2 && fresh && signed;
    good.then(|| address.to_vec())
}

/// The next frame; None at the end of the stream.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 3];
    stream.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[0], payload))
}

/// What it speaks over.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for S {}

/// What became of a message that a peer of this pod sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The destination is a peer of the same pod.
    Here,
    /// It went to the pod that announces this address.
    To(String),
    /// Nobody has the destination, or the stream to who has it is gone.
    Nowhere,
}

#[derive(Debug)]
struct Owner {
    pod: String,
    seqno: u32,
    until: Instant,
}

#[derive(Debug, Default)]
struct State {
    /// Writers by announced address, each with the number of its stream; in order, so that a simulation takes the same course each time.
    streams: BTreeMap<String, (u64, mpsc::UnboundedSender<Vec<u8>>)>,
    opened: u64,
    peers: HashMap<PeerId, mpsc::UnboundedSender<Vec<u8>>>,
    owners: HashMap<PeerId, Owner>,
    /// All I_HAVEs of a lookup that is going on: asked ID to the answers.
    asking: HashMap<PeerId, Vec<(String, u32)>>,
    /// Every frame that came, with the pod it came from.
    seen: Vec<(String, u8, Vec<u8>)>,
}

#[derive(Debug)]
struct Shared {
    announced: String,
    secret: String,
    now: AtomicU64,
    answers: AtomicU32,
    state: Mutex<State>,
}

/// A running stock pod; dropped, it is gone like a killed process.
#[derive(Debug)]
pub(crate) struct StockPod {
    shared: Arc<Shared>,
    addr: SocketAddr,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

/// A peer of a stock pod.
#[derive(Debug)]
pub(crate) struct StockPeer {
    /// Its ID.
    pub(crate) id: PeerId,
    received: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl StockPeer {
    /// The next message for it: the sender's ID and the payload.
    pub(crate) async fn recv(&mut self) -> (PeerId, Vec<u8>) {
        let message = timeout(PATIENCE, self.received.recv()).await;
        let message = message.expect("a message in time").expect("the pod lives");
        assert_eq!(message[..2], [1, 3], "a transport message");
        let id = PeerId::from_bytes(message[2..38].try_into().unwrap());
        (id, message[38..].to_vec())
    }

    /// The next message for it as it came; none when another connection has its place, or the pod is gone.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        self.received.recv().await
    }

    /// What has come and was not read yet.
    pub(crate) fn waiting(&self) -> usize {
        self.received.len()
    }
}

impl StockPod {
    /// One that listens and announces `addr` (port 0: any free one), with this secret (empty: none) and clock.
    pub(crate) async fn start(addr: SocketAddr, secret: &str, now: u64) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let pod = Self::new(listener.local_addr().unwrap(), secret, now);
        let (shared, tasks) = (Arc::clone(&pod.shared), Arc::downgrade(&pod.tasks));
        pod.tasks.lock().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(tasks) = tasks.upgrade() else { return };
                tasks
                    .lock()
                    .spawn(accepted(Arc::clone(&shared), Box::new(stream)));
            }
        });
        pod
    }

    /// One that announces `addr`, and has the streams that it is given.
    pub(crate) fn new(addr: SocketAddr, secret: &str, now: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                announced: addr.to_string(),
                secret: secret.to_owned(),
                now: AtomicU64::new(now),
                answers: AtomicU32::new(0),
                state: Mutex::default(),
            }),
            addr,
            tasks: Arc::default(),
        }
    }

    /// Sets its clock.
    pub(crate) fn set_now(&self, now: u64) {
        self.shared.now.store(now, Ordering::Relaxed);
    }

    /// Somebody has dialed it.
    pub(crate) fn accept(&self, stream: impl Duplex) {
        let accepted = accepted(Arc::clone(&self.shared), Box::new(stream));
        self.tasks.lock().spawn(accepted);
    }

    /// It is gone, whoever still holds this.
    pub(crate) fn kill(&self) {
        self.tasks.lock().abort_all();
        self.shared.state.lock().peers.clear();
    }

    /// The address that it listens on and announces.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Dials, once; false if nobody takes the connection.
    pub(crate) async fn dial(&self, to: SocketAddr) -> bool {
        let Ok(stream) = TcpStream::connect(to).await else {
            return false;
        };
        self.greet(to, stream);
        true
    }

    /// Both dial each other, and neither has heard of the other when it takes its own stream for the one.
    pub(crate) async fn dial_each_other(one: &Self, two: &Self) {
        let there = TcpStream::connect(two.addr).await.unwrap();
        let back = TcpStream::connect(one.addr).await.unwrap();
        one.greet(two.addr, there);
        two.greet(one.addr, back);
    }

    /// Takes a dialed stream into use. It never learns who answered: the address that was dialed is the other's name.
    fn greet(&self, to: SocketAddr, stream: TcpStream) {
        let pod = to.to_string();
        let Some(stream) = Stream::open(&self.shared, pod, Box::new(stream)) else {
            return;
        };
        let now = self.shared.now.load(Ordering::Relaxed);
        let hello = hello(&self.shared.announced, now, &self.shared.secret);
        let _ = stream.sender.send(frame(HELLO, &hello));
        self.tasks
            .lock()
            .spawn(stream.carry(Arc::clone(&self.shared)));
    }

    /// A peer connects; an older one of this name is gone.
    pub(crate) fn attach(&self, name: &str) -> StockPeer {
        let id = PeerId::from_name(name.as_bytes());
        let (sender, received) = mpsc::unbounded_channel();
        self.shared.state.lock().peers.insert(id, sender);
        StockPeer { id, received }
    }

    /// A peer goes.
    pub(crate) fn detach(&self, id: &PeerId) {
        self.shared.state.lock().peers.remove(id);
    }

    /// Whether it has this peer.
    pub(crate) fn has(&self, id: &PeerId) -> bool {
        self.shared.state.lock().peers.contains_key(id)
    }

    /// The announced addresses of the pods that it has a stream with.
    pub(crate) fn streams(&self) -> Vec<String> {
        let mut pods: Vec<String> = self.shared.state.lock().streams.keys().cloned().collect();
        pods.sort();
        pods
    }

    /// Every frame that came of this type: the pod that sent it, and the payload.
    pub(crate) fn seen(&self, kind: u8) -> Vec<(String, Vec<u8>)> {
        let state = self.shared.state.lock();
        let of = state.seen.iter().filter(|(_, seen, _)| *seen == kind);
        of.map(|(pod, _, payload)| (pod.clone(), payload.clone()))
            .collect()
    }

    /// Who has the peer: here or on another pod, as a subscription asks. Waits 200 ms unless it is here or in the cache.
    pub(crate) async fn locate(&self, id: &PeerId) -> Option<String> {
        if self.has(id) {
            return Some(self.shared.announced.clone());
        }
        {
            let mut state = self.shared.state.lock();
            match state.owners.get(id) {
                Some(owner) if owner.until > Instant::now() => return Some(owner.pod.clone()),
                _ => state.owners.remove(id),
            };
            state.asking.entry(*id).or_default();
            let question = frame(WHO_HAS, id.as_bytes());
            for (_, writer) in state.streams.values() {
                let _ = writer.send(question.clone());
            }
        }
        sleep(LOOKUP).await;
        let mut state = self.shared.state.lock();
        let answers = state.asking.remove(id).unwrap_or_default();
        answers
            .into_iter()
            .max_by_key(|(_, seqno)| *seqno)
            .map(|(pod, _)| pod)
    }

    /// One of its peers sends something.
    pub(crate) async fn send(&self, from: &PeerId, to: &PeerId, payload: &[u8]) -> Sent {
        let message = transport(from, payload);
        if let Some(peer) = self.shared.state.lock().peers.get(to) {
            let _ = peer.send(message);
            return Sent::Here;
        }
        let Some(pod) = self.locate(to).await else {
            return Sent::Nowhere;
        };
        let mut state = self.shared.state.lock();
        let Some((_, writer)) = state.streams.get(&pod) else {
            state.owners.remove(to);
            return Sent::Nowhere;
        };
        let _ = writer.send(frame(FWD, &[to.as_bytes(), &message[..]].concat()));
        Sent::To(pod)
    }

    /// Sends bytes as they are to a pod that it has a stream with.
    pub(crate) fn send_raw(&self, pod: &str, bytes: &[u8]) {
        let state = self.shared.state.lock();
        let _ = state.streams[pod].1.send(bytes.to_vec());
    }
}

/// The accepting side: a good HELLO first, or nothing.
async fn accepted(shared: Arc<Shared>, mut stream: Box<dyn Duplex>) {
    let Ok(Some((HELLO, payload))) = timeout(HELLO_TIMEOUT, read(&mut stream)).await else {
        return;
    };
    let Some(pod) = verdict(&payload, shared.now.load(Ordering::Relaxed), &shared.secret) else {
        return;
    };
    let pod = String::from_utf8_lossy(&pod).into_owned();
    if let Some(stream) = Stream::open(&shared, pod, stream) {
        stream.carry(shared).await;
    }
}

/// The one stream with a pod.
struct Stream {
    pod: String,
    number: u64,
    stream: Box<dyn Duplex>,
    sender: mpsc::UnboundedSender<Vec<u8>>,
    queue: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Stream {
    /// None, and so closed, if there is one already.
    fn open(shared: &Shared, pod: String, stream: Box<dyn Duplex>) -> Option<Self> {
        let mut state = shared.state.lock();
        if state.streams.contains_key(&pod) {
            return None;
        }
        state.opened += 1;
        let number = state.opened;
        let (sender, queue) = mpsc::unbounded_channel();
        state.streams.insert(pod.clone(), (number, sender.clone()));
        Some(Self {
            pod,
            number,
            stream,
            sender,
            queue,
        })
    }

    /// Until it ends.
    async fn carry(self, shared: Arc<Shared>) {
        let Self { pod, mut queue, .. } = self;
        let (mut reader, mut writer) = tokio::io::split(self.stream);
        let write = async {
            while let Some(bytes) = queue.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        let read = async {
            while let Some((kind, payload)) = read(&mut reader).await {
                if !take(&shared, &pod, kind, payload) {
                    return;
                }
            }
        };
        tokio::select! {
            () = read => {}
            () = write => {}
        }
        let mut state = shared.state.lock();
        let current = state.streams.get(&pod);
        if current.is_some_and(|(current, _)| *current == self.number) {
            state.streams.remove(&pod);
        }
    }
}

/// One frame; false if the stream is to be closed.
fn take(shared: &Shared, pod: &str, kind: u8, payload: Vec<u8>) -> bool {
    let mut state = shared.state.lock();
    let id = |bytes: &[u8]| PeerId::from_bytes(bytes[..36].try_into().unwrap());
    let good = match (kind, payload.len()) {
        (WHO_HAS, 36) => {
            let asked = id(&payload);
            if state.peers.contains_key(&asked) {
                let count = shared.answers.fetch_add(1, Ordering::Relaxed) + 1;
                let answer = frame(I_HAVE, &[&payload[..], &count.to_be_bytes()].concat());
                let _ = state.streams[pod].1.send(answer);
            }
            true
        }
        (I_HAVE, 40) => {
            let seqno = u32::from_be_bytes(payload[36..].try_into().unwrap());
            let had = id(&payload);
            if let Some(answers) = state.asking.get_mut(&had) {
                answers.push((pod.to_owned(), seqno));
            }
            let now = Instant::now();
            let known = state.owners.get(&had).filter(|owner| owner.until > now);
            if known.is_none_or(|owner| seqno > owner.seqno) {
                let owner = Owner {
                    pod: pod.to_owned(),
                    seqno,
                    until: now + CACHE,
                };
                state.owners.insert(had, owner);
            }
            true
        }
        (FWD, 36..) => {
            if let Some(peer) = state.peers.get(&id(&payload)) {
                let _ = peer.send(payload[36..].to_vec());
            }
            true
        }
        (WHO_HAS | I_HAVE | FWD, _) => false,
        // HELLO, PING, PONG, LOST, REFWD, and whatever else there may be.
        _ => true,
    };
    state.seen.push((pod.to_owned(), kind, payload));
    good
}
