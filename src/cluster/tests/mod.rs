//! Several pods in one process, each a relay with an owner table; the links between them are queues of bytes that the test can
//! delay, hold up and cut. Time is paused.

mod costs;
mod forwarding;
mod moves;
mod presence;
mod random;
mod stock;

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::MeterProvider;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::fabric::{Fabric, FrameSink};
use super::link::Link;
use super::owners::{Owners, OwnersConfig};
use crate::Relay;
use crate::auth::AllowAll;
use crate::crosspod::PodAddr;
use crate::outbox::{QueuePolicy, Taken};
use crate::proto::PeerId;
use crate::proto::cluster::{Frame, Seqno, encode_i_have, next_frame, parse};
use crate::proto::peer::{self, Message, MessageType};
use crate::telemetry::counters::DropReason;
use crate::time::{Clock, ManualClock};
use crate::transport::RemoteAddr;
use crate::transport::memory::{self, MemoryPeer};

/// Longer than anything may take, in paused time.
const PATIENCE: Duration = Duration::from_secs(600);

/// 2026-08-15.
const TODAY: u64 = 1_786_752_000;

fn id(name: &str) -> PeerId {
    PeerId::from_name(name.as_bytes())
}

/// One pod.
struct Pod {
    relay: Relay,
    owners: Arc<Owners>,
    queues: Arc<QueuePolicy>,
    address: PodAddr,
    date: ManualClock,
    run: JoinHandle<()>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.run.abort();
    }
}

impl Pod {
    fn new(address: &str) -> Self {
        let relay = Relay::builder()
            .exposed_address("rel://cluster")
            .validator(AllowAll)
            .memory_limit(1 << 30)
            .queue_max_age(PATIENCE)
            // Peers of these tests answer none.
            .health_check_threshold(u32::MAX)
            .build()
            .unwrap();
        let (clock, date) = Clock::manual(TODAY);
        let queues = relay.queue_policy().for_pods(8 << 20);
        let owners = Owners::new(OwnersConfig {
            us: PodAddr(address.to_owned()),
            clock,
            counters: Arc::clone(relay.counters()),
            policy: Arc::clone(&queues),
            local: Arc::downgrade(&relay.local_peers()),
            meter: opentelemetry::metrics::noop::NoopMeterProvider::new().meter("test"),
        });
        relay
            .join(owners.forwarder(), &(Arc::clone(&owners) as Arc<_>))
            .unwrap();
        Self {
            relay,
            queues,
            address: PodAddr(address.to_owned()),
            date,
            run: tokio::spawn(Arc::clone(&owners).run()),
            owners,
        }
    }

    /// Connects a peer and reads its auth response.
    async fn connect(&self, name: &str) -> Peer {
        self.connect_with(name, 4096).await
    }

    /// One that has room for so many messages before it must read.
    async fn connect_with(&self, name: &str, capacity: usize) -> Peer {
        let (mut peer, end) = memory::pair(capacity);
        let relay = self.relay.clone();
        tokio::spawn(async move { relay.accept(end, RemoteAddr::unknown()).await });
        assert!(peer.send(peer::encode_auth(&id(name), b"").unwrap()).await);
        let answer = peer.recv().await.unwrap();
        assert!(matches!(peer::parse(&answer), Ok(Message::AuthResponse(_))));
        Peer {
            id: id(name),
            transport: peer,
        }
    }

    fn link_to(&self, pod: &PodAddr) -> Arc<Link> {
        Link::new(pod.clone(), &self.queues, true)
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.relay.counters().dropped_count(reason)
    }

    /// Received, from peers and pods, and what is known of what became of it.
    fn balance(&self) -> (u64, u64) {
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

    fn assert_balanced(&self) {
        let (received, accounted) = self.balance();
        assert_eq!(received, accounted, "{}", self.address.0);
    }
}

/// A connected peer.
struct Peer {
    id: PeerId,
    transport: MemoryPeer,
}

impl Peer {
    async fn send(&mut self, to: &str, payload: &[u8]) {
        let mut message = Vec::new();
        peer::encode_transport(&id(to), payload, &mut message).unwrap();
        assert!(self.transport.send(message).await);
    }

    async fn subscribe(&mut self, names: &[&str]) {
        let ids: Vec<PeerId> = names.iter().map(|name| id(name)).collect();
        for message in peer::encode_peer_ids(MessageType::Subscribe, &ids) {
            assert!(self.transport.send(message).await);
        }
    }

    async fn recv(&mut self) -> Heard {
        // Not for each message: health checks come for ever.
        let next = async {
            loop {
                let message = self.transport.recv().await.expect("the connection lives");
                if let Some(heard) = Heard::new(&message) {
                    return heard;
                }
            }
        };
        timeout(PATIENCE, next).await.expect("something is heard")
    }

    /// What has come by now.
    async fn heard(&mut self) -> Vec<Heard> {
        settle().await;
        let mut heard = Vec::new();
        while let Some(message) = self.transport.try_recv() {
            heard.extend(Heard::new(&message));
        }
        heard
    }

    /// Whether the relay has ended the connection.
    async fn is_ended(&mut self) -> bool {
        settle().await;
        loop {
            match timeout(Duration::ZERO, self.transport.recv()).await {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }
}

/// What a peer was told.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Heard {
    Message(PeerId, Vec<u8>),
    Online(PeerId),
    Offline(PeerId),
}

impl Heard {
    fn new(message: &[u8]) -> Option<Self> {
        match peer::parse(message).unwrap() {
            Message::Transport { peer, payload } => Some(Self::Message(peer, payload.to_vec())),
            Message::PeersOnline(ids) => Some(Self::Online(ids.iter().next().unwrap())),
            Message::PeersOffline(ids) => Some(Self::Offline(ids.iter().next().unwrap())),
            Message::HealthCheck | Message::Close => None,
            other => panic!("{other:?}"),
        }
    }
}

fn message(from: &str, payload: &[u8]) -> Heard {
    Heard::Message(id(from), payload.to_vec())
}

/// Lets all that is under way without waiting arrive.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// Both directions of a stream between two pods.
struct Wire {
    ends: [Arc<Link>; 2],
    /// Whether bytes travel from the first to the second, and from the second to the first.
    /// Held as long as the wire: a pump whose sender is gone does not wait.
    _open: [watch::Sender<bool>; 2],
    pumps: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Links two pods of ours.
    fn new(a: &Pod, b: &Pod, delay: Duration) -> Self {
        let a_to_b = a.link_to(&b.address);
        let b_to_a = b.link_to(&a.address);
        let mut at_a = Arc::clone(&a.owners).link_up(&a_to_b);
        let mut at_b = Arc::clone(&b.owners).link_up(&b_to_a);
        for (pod, link, sink) in [(a, &a_to_b, &mut at_a), (b, &b_to_a, &mut at_b)] {
            pod.owners.use_link(link);
            assert!(link.set_ours());
            sink.became_ours();
        }
        let open = [true, true].map(watch::Sender::new);
        let pumps = vec![
            tokio::spawn(pump(
                Arc::clone(&a_to_b),
                Arc::clone(&b_to_a),
                at_b,
                delay,
                open[0].subscribe(),
            )),
            tokio::spawn(pump(
                Arc::clone(&b_to_a),
                Arc::clone(&a_to_b),
                at_a,
                delay,
                open[1].subscribe(),
            )),
        ];
        Self {
            ends: [a_to_b, b_to_a],
            _open: open,
            pumps,
        }
    }

    /// Cuts the stream.
    async fn cut(self) {
        for end in &self.ends {
            end.outbox().abort();
        }
        for pump in self.pumps {
            pump.await.unwrap();
        }
    }
}

/// Carries what `from` writes to the other pod, where `to` is the link back.
async fn pump(
    from: Arc<Link>,
    to: Arc<Link>,
    mut sink: Box<dyn FrameSink>,
    delay: Duration,
    mut open: watch::Receiver<bool>,
) {
    loop {
        let taken = poll_fn(|cx| from.outbox().poll_take(cx)).await;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let _ = open.wait_for(|open| *open).await;
        match taken {
            Taken::Control(bytes) => feed(&mut *sink, &bytes),
            Taken::Data(slab) => {
                feed(&mut *sink, slab.bytes());
                slab.delivered();
            }
            Taken::Finished | Taken::Aborted => break,
        }
        sink.flush();
    }
    to.outbox().abort();
    sink.down(false);
}

fn feed(sink: &mut dyn FrameSink, mut bytes: &[u8]) {
    while let Some(head) = next_frame(bytes) {
        let (frame, rest) = bytes.split_at(head.len());
        sink.frame(parse(head.kind, &frame[3..]).unwrap());
        bytes = rest;
    }
    assert!(bytes.is_empty(), "a queue holds whole frames");
}

/// A stock pod, as far as its link shows: it answers WHO_HAS for its peers with a counter, and takes messages; it never announces,
/// never says LOST, and drops what is for nobody.
struct StockPod {
    link: Arc<Link>,
    sink: Option<Box<dyn FrameSink>>,
    peers: HashMap<PeerId, Vec<Vec<u8>>>,
    answers: u32,
    asked: Vec<PeerId>,
    /// Announcements that it took into its cache, and frames that it does not know.
    announced: Vec<(PeerId, Seqno)>,
    unknown: usize,
}

impl StockPod {
    fn new(pod: &Pod, address: &str) -> Self {
        let link = pod.link_to(&PodAddr(address.to_owned()));
        let sink = Arc::clone(&pod.owners).link_up(&link);
        pod.owners.use_link(&link);
        Self {
            link,
            sink: Some(sink),
            peers: HashMap::new(),
            answers: 0,
            asked: Vec::new(),
            announced: Vec::new(),
            unknown: 0,
        }
    }

    fn add(&mut self, name: &str) {
        self.peers.insert(id(name), Vec::new());
    }

    fn sink(&mut self) -> &mut dyn FrameSink {
        &mut **self.sink.as_mut().expect("the link is up")
    }

    fn frame(&mut self, bytes: &[u8]) {
        feed(self.sink(), bytes);
        self.sink().flush();
    }

    /// Reads what came, and answers.
    async fn turn(&mut self) {
        settle().await;
        loop {
            let taken = timeout(
                Duration::ZERO,
                poll_fn(|cx| self.link.outbox().poll_take(cx)),
            )
            .await;
            let Ok(taken) = taken else {
                break;
            };
            match taken {
                Taken::Control(bytes) => self.read(&bytes),
                Taken::Data(slab) => {
                    let bytes = slab.bytes().to_vec();
                    slab.delivered();
                    self.read(&bytes);
                }
                Taken::Finished | Taken::Aborted => break,
            }
        }
        settle().await;
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while let Some(head) = next_frame(bytes) {
            let (frame, rest) = bytes.split_at(head.len());
            bytes = rest;
            match parse(head.kind, &frame[3..]).unwrap() {
                Frame::WhoHas(peer) => {
                    self.asked.push(peer);
                    if self.peers.contains_key(&peer) {
                        self.answers += 1;
                        self.frame(&encode_i_have(&peer, Seqno(self.answers)));
                    }
                }
                Frame::IHave { peer, seqno } => self.announced.push((peer, seqno)),
                Frame::Forward {
                    destination,
                    message,
                } => {
                    if let Some(messages) = self.peers.get_mut(&destination) {
                        messages.push(message.to_vec());
                    }
                }
                _ => self.unknown += 1,
            }
        }
    }

    fn payloads(&self, name: &str) -> Vec<Vec<u8>> {
        self.peers[&id(name)]
            .iter()
            .map(|message| message[38..].to_vec())
            .collect()
    }
}
