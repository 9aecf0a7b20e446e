//! Scripted peers, and the witness who sees what they get.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use trunkline::Relay;
use trunkline::proto::PeerId;
use trunkline::proto::peer::{self, Message, MessageType};
use trunkline::transport::RemoteAddr;
use trunkline::transport::memory::{self, MemoryPeer};

use super::support::stock_pod::StockPod;

/// The ID of a peer by its number.
pub(crate) fn id(number: u8) -> PeerId {
    PeerId::from_name(&[b'p', number])
}

/// What a message says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    /// Who sent it, for whom.
    pub(crate) from: u8,
    pub(crate) to: u8,
    /// The sender's connection.
    pub(crate) connection: u32,
    /// In the order in which this sender sent.
    pub(crate) number: u32,
    /// The calm in which it was sent; 0: none.
    pub(crate) calm: u32,
}

impl Note {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![self.from, self.to];
        for word in [self.connection, self.number, self.calm] {
            bytes.extend(word.to_be_bytes());
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        Some(Self {
            from: *bytes.first()?,
            to: *bytes.get(1)?,
            connection: word(2)?,
            number: word(6)?,
            calm: word(10)?,
        })
    }
}

/// Sees everything that peers get, and knows what must not be.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// What has gone wrong.
    pub(crate) wrong: Vec<String>,
    /// What happened, for whoever looks for the reason.
    pub(crate) story: String,
    /// When it began.
    pub(crate) start: Option<Instant>,
    /// The calm that there is now; 0: none.
    pub(crate) calm: u32,
    /// Messages that have arrived: sender, receiver, number.
    pub(crate) arrived: BTreeSet<(u8, u8, u32)>,
    /// The last number by sender's and receiver's connection: while both are on one pod, or in one calm.
    last: BTreeMap<(u32, u32, u32), u32>,
    /// Which pod a connection is at, in numbers of pods that were ever started.
    pods: BTreeMap<u32, u32>,
    /// By connection and watched peer: whether the last notice said online.
    pub(crate) notices: BTreeMap<(u32, u8), bool>,
}

impl Witness {
    pub(crate) fn tell(&mut self, what: &str) {
        let start = *self.start.get_or_insert_with(Instant::now);
        // Writing to a string cannot fail.
        let _ = writeln!(self.story, "{:9.3} {what}", start.elapsed().as_secs_f64());
    }

    /// Sees a message that came over a connection. Returns the peers that went offline.
    fn see(&mut self, me: u8, connection: u32, message: &[u8]) -> Vec<PeerId> {
        match peer::parse(message) {
            Ok(Message::Transport { peer, payload }) => {
                self.message(me, connection, peer, payload);
            }
            Ok(Message::PeersOnline(ids)) => self.notice(connection, ids.iter(), true),
            Ok(Message::PeersOffline(ids)) => {
                self.notice(connection, ids.iter(), false);
                return ids.iter().collect();
            }
            Ok(Message::HealthCheck | Message::Close) => {}
            other => self.wrong.push(format!("p{me} got {other:?}")),
        }
        Vec::new()
    }

    fn notice(&mut self, connection: u32, ids: impl Iterator<Item = PeerId>, online: bool) {
        for told in ids {
            let Some(number) = (0..=u8::MAX).find(|number| id(*number) == told) else {
                self.wrong
                    .push(format!("a notice about a stranger: {told}"));
                continue;
            };
            let word = if online { "online" } else { "offline" };
            self.tell(&format!(
                "    c{connection} is told that p{number} is {word}"
            ));
            self.notices.insert((connection, number), online);
        }
    }

    fn message(&mut self, receiver: u8, connection: u32, source: PeerId, payload: &[u8]) {
        let Some(note) = Note::read(payload) else {
            self.wrong.push(format!(
                "p{receiver} got something that nobody sent: {payload:?}"
            ));
            return;
        };
        if note.to != receiver {
            self.wrong
                .push(format!("p{receiver} got what is for another: {note:?}"));
        }
        if source != id(note.from) {
            self.wrong
                .push(format!("p{receiver} was told another sender: {note:?}"));
        }
        if !self.arrived.insert((note.from, note.to, note.number)) {
            self.wrong
                .push(format!("p{receiver} got it twice: {note:?}"));
        }
        let same_pod = self.pods.get(&note.connection) == self.pods.get(&connection);
        let calm = if same_pod { 0 } else { note.calm };
        if same_pod || (calm != 0 && calm == self.calm) {
            let last = self
                .last
                .insert((note.connection, connection, calm), note.number);
            if last.is_some_and(|last| last >= note.number) {
                self.wrong
                    .push(format!("p{receiver} got it after {last:?}: {note:?}"));
            }
        }
    }
}

/// A connection of a peer.
pub(crate) struct Connection {
    pub(crate) peer: u8,
    pub(crate) number: u32,
    /// The pod, by its place, and which of those that were there.
    pub(crate) pod: usize,
    sends: mpsc::UnboundedSender<Vec<u8>>,
    pub(crate) watching: BTreeSet<u8>,
}

impl Connection {
    /// Connects; None if the pod lets nobody in.
    pub(crate) async fn open(
        relay: &Relay,
        peer: u8,
        number: u32,
        (pod, life): (usize, u32),
        witness: &Arc<Mutex<Witness>>,
    ) -> Option<Self> {
        let (mut end, theirs) = memory::pair(4096);
        let relay = relay.clone();
        tokio::spawn(async move { relay.accept(theirs, RemoteAddr::unknown()).await });
        let auth = peer::encode_auth(&id(peer), b"").expect("a short message");
        if !end.send(auth).await {
            return None;
        }
        let answer = end.recv().await?;
        if !matches!(peer::parse(&answer), Ok(Message::AuthResponse(_))) {
            return None;
        }
        witness.lock().pods.insert(number, life);
        let (sends, queue) = mpsc::unbounded_channel();
        tokio::spawn(live(end, queue, peer, number, Arc::clone(witness)));
        Some(Self {
            peer,
            number,
            pod,
            sends,
            watching: BTreeSet::new(),
        })
    }

    /// Connects to a stock pod, which tells its peers nothing: what they subscribe to is lost on it.
    pub(crate) fn to_stock(
        pod: &Arc<StockPod>,
        peer: u8,
        number: u32,
        (place, life): (usize, u32),
        witness: &Arc<Mutex<Witness>>,
    ) -> Self {
        let name = format!("p{}", char::from(peer));
        let mut received = pod.attach(&name);
        witness.lock().pods.insert(number, life);
        let (sends, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
        let (pod, witness) = (Arc::downgrade(pod), Arc::clone(witness));
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    biased;
                    message = received.next() => match message {
                        Some(message) => {
                            witness.lock().see(peer, number, &message);
                            continue;
                        }
                        None => return,
                    },
                    message = queue.recv() => message,
                };
                // The pod may be gone.
                let Some(pod) = pod.upgrade() else { return };
                let Some(message) = message else {
                    return pod.detach(&received.id);
                };
                if let Ok(Message::Transport { peer: to, payload }) = peer::parse(&message) {
                    pod.send(&received.id, &to, payload).await;
                }
            }
        });
        Self {
            peer,
            number,
            pod: place,
            sends,
            watching: BTreeSet::new(),
        }
    }

    /// Whether the relay has not ended it.
    pub(crate) fn is_alive(&self) -> bool {
        !self.sends.is_closed()
    }

    pub(crate) fn send(&self, note: Note) {
        let mut message = Vec::new();
        peer::encode_transport(&id(note.to), &note.bytes(), &mut message).expect("a short message");
        // A connection that has ended takes nothing.
        let _ = self.sends.send(message);
    }

    pub(crate) fn watch(&mut self, peers: impl IntoIterator<Item = u8>) {
        let new: Vec<u8> = peers
            .into_iter()
            .filter(|peer| self.watching.insert(*peer))
            .collect();
        let ids: Vec<PeerId> = new.into_iter().map(id).collect();
        for message in peer::encode_peer_ids(MessageType::Subscribe, &ids) {
            let _ = self.sends.send(message);
        }
    }
}

/// A connection's life; it ends when the relay ends it, or its [`Connection`] is dropped.
async fn live(
    mut end: MemoryPeer,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    me: u8,
    connection: u32,
    witness: Arc<Mutex<Witness>>,
) {
    loop {
        let message = tokio::select! {
            biased;
            message = end.recv() => match message {
                Some(message) => message,
                None => {
                    witness.lock().tell(&format!("    c{connection} of p{me} is ended"));
                    return;
                }
            },
            message = queue.recv() => match message {
                Some(message) => {
                    end.send(message).await;
                    continue;
                }
                None => return,
            },
        };
        let gone = witness.lock().see(me, connection, &message);
        // An online notice comes once for a subscription, so stock clients subscribe anew.
        for kind in [MessageType::Unsubscribe, MessageType::Subscribe] {
            for message in peer::encode_peer_ids(kind, &gone) {
                end.send(message).await;
            }
        }
    }
}
