//! The seam to other pods, with doubles in the fabric's place: what reaches it, what is counted, what comes back.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::retry::Policy;
use tower::{BoxError, Service, ServiceBuilder, service_fn};
use trunkline::auth::AllowAll;
use trunkline::crosspod::{
    CrossPod, DeliverError, Forward, ForwardService, Forwarded, Locate, PodAddr,
};
use trunkline::proto::PeerId;
use trunkline::proto::peer::{self, Message, MessageType};
use trunkline::telemetry::counters::DropReason;
use trunkline::transport::RemoteAddr;
use trunkline::transport::memory::{self, MemoryPeer};
use trunkline::{Relay, RelayBuilder};

/// Long enough for any machine: a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

fn id(name: &str) -> PeerId {
    PeerId::from_name(name.as_bytes())
}

fn builder() -> RelayBuilder {
    Relay::builder()
        .exposed_address("rel://pod-a")
        .validator(AllowAll)
        // A busy machine may keep a message longer than the second that WireGuard wants.
        .queue_max_age(PATIENCE)
}

/// Connects a peer in memory and reads its auth response.
async fn connect(relay: &Relay, name: &str) -> MemoryPeer {
    let (mut peer, end) = memory::pair(64);
    let relay = relay.clone();
    tokio::spawn(async move { relay.accept(end, RemoteAddr::unknown()).await });
    assert!(peer.send(peer::encode_auth(&id(name), b"").unwrap()).await);
    let answer = recv(&mut peer).await;
    assert_eq!(
        peer::parse(&answer),
        Ok(Message::AuthResponse("rel://pod-a"))
    );
    peer
}

async fn recv(peer: &mut MemoryPeer) -> Vec<u8> {
    timeout(PATIENCE, peer.recv())
        .await
        .expect("a message")
        .expect("the connection lives")
}

/// A transport message with this ID in it.
fn transport(peer: &PeerId, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    peer::encode_transport(peer, payload, &mut message).unwrap();
    message
}

fn online(name: &str) -> Vec<u8> {
    ids(MessageType::PeersOnline, &[id(name)])
}

fn ids(kind: MessageType, ids: &[PeerId]) -> Vec<u8> {
    peer::encode_peer_ids(kind, ids).next().unwrap()
}

/// All that `peer` has sent has been handled when this returns: it sends itself a message and waits for it.
async fn settle(peer: &mut MemoryPeer, name: &str) {
    assert!(peer.send(transport(&id(name), b"settle")).await);
    assert_eq!(recv(peer).await, transport(&id(name), b"settle"));
}

/// Received = delivered + forwarded + dropped (operations.md, *Metrics*), of transport messages.
fn balance(relay: &Relay) -> (u64, u64) {
    let counters = relay.counters();
    let dropped: u64 = DropReason::ALL
        .into_iter()
        .filter(|reason| reason.is_transport())
        .map(|reason| counters.dropped_count(reason))
        .sum();
    (
        counters.received_count(MessageType::Transport),
        counters.sent_count(MessageType::Transport) + counters.forwarded_count() + dropped,
    )
}

async fn balanced(relay: &Relay) {
    let even = async {
        loop {
            let (received, accounted) = balance(relay);
            if received == accounted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if timeout(PATIENCE, even).await.is_err() {
        panic!("{:?}", balance(relay));
    }
}

/// A destination and the whole message.
type Given = (PeerId, Vec<u8>);

/// A fabric that answers as told and keeps what it was given.
#[derive(Clone, Default)]
struct Double {
    answers: Arc<Mutex<VecDeque<Forwarded>>>,
    given: Arc<Mutex<Vec<Given>>>,
    forks: Arc<AtomicUsize>,
}

impl CrossPod for Double {
    fn forward(&mut self, message: Forward<'_>) -> Forwarded {
        self.given
            .lock()
            .push((message.destination, message.message.to_vec()));
        self.answers.lock().pop_front().expect("an answer is left")
    }

    fn fork(&self) -> Box<dyn CrossPod> {
        self.forks.fetch_add(1, Ordering::Relaxed);
        Box::new(self.clone())
    }
}

#[tokio::test]
async fn without_a_fabric_a_local_miss_is_dropped_and_counted() {
    let relay = builder().build().unwrap();
    let mut alice = connect(&relay, "alice").await;
    assert!(alice.send(transport(&id("bob"), b"anybody?")).await);
    settle(&mut alice, "alice").await;
    assert_eq!(relay.counters().dropped_count(DropReason::NoSuchPeer), 1);
    assert_eq!(relay.counters().forwarded_count(), 0);
    balanced(&relay).await;
}

#[tokio::test]
async fn a_local_miss_goes_to_the_fabric_stamped_and_is_counted_by_its_fate() {
    let fabric = Double::default();
    fabric.answers.lock().extend([
        Forwarded::Sent,
        Forwarded::Held,
        Forwarded::Dropped(DropReason::FabricOverloaded),
        Forwarded::Sent,
    ]);
    let relay = builder().cross_pod(fabric.clone()).build().unwrap();
    let mut alice = connect(&relay, "alice").await;
    let mut bob = connect(&relay, "bob").await;
    for payload in [&b"sent"[..], b"held", b"dropped"] {
        assert!(alice.send(transport(&id("carol"), payload)).await);
    }
    // One for a peer that is here never gets there.
    assert!(alice.send(transport(&id("bob"), b"local")).await);
    assert_eq!(recv(&mut bob).await, transport(&id("alice"), b"local"));
    settle(&mut alice, "alice").await;
    let stamped = |payload: &[u8]| (id("carol"), transport(&id("alice"), payload));
    assert_eq!(
        *fabric.given.lock(),
        [stamped(b"sent"), stamped(b"held"), stamped(b"dropped")]
    );
    let counters = relay.counters();
    assert_eq!(counters.forwarded_count(), 1);
    assert_eq!(counters.dropped_count(DropReason::FabricOverloaded), 1);
    assert_eq!(counters.dropped_count(DropReason::NoSuchPeer), 0);
    // What is held is the fabric's to count, once its fate is known. Until then it is the only one missing.
    let (received, accounted) = balance(&relay);
    assert_eq!(received, accounted + 1);
    counters.forwarded(1);
    balanced(&relay).await;

    // One that was here and left is the fabric's from then on.
    drop(bob);
    let gone = async {
        while relay.peers().contains(&id("bob")) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    assert!(alice.send(transport(&id("bob"), b"moved")).await);
    settle(&mut alice, "alice").await;
    assert_eq!(
        fabric.given.lock().last(),
        Some(&(id("bob"), transport(&id("alice"), b"moved")))
    );
    assert_eq!(
        fabric.forks.load(Ordering::Relaxed),
        1,
        "one for a connection that needs it"
    );
    balanced(&relay).await;
}

/// Why the double of a link did not take a message.
#[derive(Debug, thiserror::Error)]
#[error("link is gone, and nothing of the message was written")]
struct LinkGone;

/// The innermost service of a forward: pushes on a link's queue, and is ready at once.
#[derive(Clone)]
struct Link {
    ready: Arc<AtomicBool>,
    /// How many of the next calls fail.
    failing: Arc<AtomicUsize>,
    given: Arc<Mutex<Vec<Vec<u8>>>>,
    calls: Arc<AtomicUsize>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            ready: Arc::new(AtomicBool::new(true)),
            failing: Arc::default(),
            given: Arc::default(),
            calls: Arc::default(),
        }
    }
}

impl<'a> Service<Forward<'a>> for Link {
    type Response = Forwarded;
    type Error = LinkGone;
    type Future = Ready<Result<Forwarded, LinkGone>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), LinkGone>> {
        if self.ready.load(Ordering::Relaxed) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn call(&mut self, forward: Forward<'a>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let failing = self.failing.load(Ordering::Relaxed);
        if failing > 0 {
            self.failing.store(failing - 1, Ordering::Relaxed);
            return ready(Err(LinkGone));
        }
        self.given.lock().push(forward.message.to_vec());
        ready(Ok(Forwarded::Sent))
    }
}

/// Tries a message once more when surely nothing of it was written.
#[derive(Clone)]
struct Reroute {
    left: bool,
}

impl<'a> Policy<Forward<'a>, Forwarded, LinkGone> for Reroute {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _message: &mut Forward<'a>,
        result: &mut Result<Forwarded, LinkGone>,
    ) -> Option<Self::Future> {
        (result.is_err() && std::mem::take(&mut self.left)).then(|| ready(()))
    }

    fn clone_request(&mut self, message: &Forward<'a>) -> Option<Forward<'a>> {
        Some(*message)
    }
}

#[tokio::test]
async fn a_tower_stack_is_a_fabric() {
    let link = Link::default();
    let stack = ServiceBuilder::new()
        .load_shed()
        .retry(Reroute { left: true })
        .service(link.clone());
    let relay = builder()
        .cross_pod(ForwardService::new(stack))
        .build()
        .unwrap();
    let mut alice = connect(&relay, "alice").await;
    let forwarded = || relay.counters().forwarded_count();
    let shed = || relay.counters().dropped_count(DropReason::FabricOverloaded);
    let calls = || link.calls.load(Ordering::Relaxed);

    assert!(alice.send(transport(&id("bob"), b"1")).await);
    settle(&mut alice, "alice").await;
    assert_eq!((forwarded(), shed(), calls()), (1, 0, 1));

    // The retry happens within the call, so that what follows cannot overtake it.
    link.failing.store(1, Ordering::Relaxed);
    assert!(alice.send(transport(&id("bob"), b"2")).await);
    assert!(alice.send(transport(&id("bob"), b"3")).await);
    settle(&mut alice, "alice").await;
    assert_eq!((forwarded(), shed(), calls()), (3, 0, 4));

    // Not twice.
    link.failing.store(2, Ordering::Relaxed);
    assert!(alice.send(transport(&id("bob"), b"4")).await);
    settle(&mut alice, "alice").await;
    assert_eq!((forwarded(), shed(), calls()), (3, 1, 6));

    // Not ready: shed without a call, and the reader goes on.
    link.ready.store(false, Ordering::Relaxed);
    assert!(alice.send(transport(&id("bob"), b"5")).await);
    settle(&mut alice, "alice").await;
    assert_eq!((forwarded(), shed(), calls()), (3, 2, 6));

    link.ready.store(true, Ordering::Relaxed);
    assert!(alice.send(transport(&id("bob"), b"6")).await);
    settle(&mut alice, "alice").await;
    assert_eq!((forwarded(), shed(), calls()), (4, 2, 7));
    let given = [b"1", b"2", b"3", b"6"].map(|payload| transport(&id("alice"), payload));
    assert_eq!(*link.given.lock(), given);
    balanced(&relay).await;
}

#[tokio::test]
async fn a_service_that_would_wait_sheds() {
    /// Never ready, or ready but with an answer that never comes.
    #[derive(Clone)]
    struct Slow {
        ready: bool,
    }

    impl<'a> Service<Forward<'a>> for Slow {
        type Response = Forwarded;
        type Error = Infallible;
        type Future = std::future::Pending<Result<Forwarded, Infallible>>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            if self.ready {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        }

        fn call(&mut self, _message: Forward<'a>) -> Self::Future {
            assert!(self.ready, "called without being ready");
            pending()
        }
    }

    for ready in [false, true] {
        let mut fabric = ForwardService::new(Slow { ready }).fork();
        let forwarded = fabric.forward(Forward {
            destination: id("bob"),
            message: &transport(&id("alice"), b""),
        });
        assert_eq!(forwarded, Forwarded::Dropped(DropReason::FabricOverloaded));
    }
}

#[tokio::test]
async fn a_subscriber_is_told_of_a_peer_on_another_pod() {
    let locate = Locate::new(service_fn(|peer: PeerId| async move {
        if peer == id("far") {
            Ok(Some(PodAddr("pod-b:7090".to_owned())))
        } else if peer == id("broken") {
            Err(BoxError::from("nobody answers"))
        } else {
            Ok(None)
        }
    }));
    let relay = builder().locate(locate).build().unwrap();
    let mut alice = connect(&relay, "alice").await;
    let _near = connect(&relay, "near").await;
    let all = ["near", "nowhere", "broken", "far"].map(id);
    assert!(alice.send(ids(MessageType::Subscribe, &all)).await);
    assert_eq!(recv(&mut alice).await, online("near"));
    assert_eq!(recv(&mut alice).await, online("far"));
    // The others are told of when they come here.
    let _broken = connect(&relay, "broken").await;
    let _nowhere = connect(&relay, "nowhere").await;
    assert_eq!(recv(&mut alice).await, online("broken"));
    assert_eq!(recv(&mut alice).await, online("nowhere"));
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_not_told() {
    /// A lookup that waits until the test lets it go, and says when it was asked.
    fn gated() -> (Locate, oneshot::Receiver<()>, oneshot::Sender<()>) {
        let (asked, was_asked) = oneshot::channel::<()>();
        let (open, gate) = oneshot::channel::<()>();
        let once = Arc::new(Mutex::new(Some((asked, gate))));
        let locate = Locate::new(service_fn(move |_: PeerId| {
            let once = once.lock().take();
            async move {
                let (asked, gate) = once.expect("one lookup");
                asked.send(()).expect("the test waits");
                gate.await?;
                Ok(Some(PodAddr("pod-b:7090".to_owned())))
            }
        }));
        (locate, was_asked, open)
    }

    // The peer has come here meanwhile: it is told of once.
    let (locate, asked, open) = gated();
    let relay = builder().locate(locate).build().unwrap();
    let mut alice = connect(&relay, "alice").await;
    assert!(alice.send(ids(MessageType::Subscribe, &[id("bob")])).await);
    asked.await.unwrap();
    let _bob = connect(&relay, "bob").await;
    assert_eq!(recv(&mut alice).await, online("bob"));
    open.send(()).unwrap();
    // On this runtime of one thread the lookup's task ends within a few turns.
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
    settle(&mut alice, "alice").await;

    // The subscription has ended meanwhile. Reading went on while the lookup waited.
    let (locate, asked, open) = gated();
    let relay = builder().locate(locate).build().unwrap();
    let mut alice = connect(&relay, "alice").await;
    assert!(alice.send(ids(MessageType::Subscribe, &[id("bob")])).await);
    asked.await.unwrap();
    assert!(
        alice
            .send(ids(MessageType::Unsubscribe, &[id("bob")]))
            .await
    );
    settle(&mut alice, "alice").await;
    open.send(()).unwrap();
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
    settle(&mut alice, "alice").await;
}

#[tokio::test]
async fn the_fabric_delivers_to_local_peers() {
    let relay = builder().build().unwrap();
    let local = relay.local_peers();
    let mut bob = connect(&relay, "bob").await;
    assert!(local.has_peer(&id("bob")));
    assert!(!local.has_peer(&id("carol")));

    // As it is: its sender's own pod has stamped it.
    let message = transport(&id("alice"), b"from afar");
    assert_eq!(local.deliver(&id("bob"), &message), Ok(()));
    assert_eq!(recv(&mut bob).await, message);
    let longest = transport(&id("alice"), &[7; 8782]);
    assert_eq!(local.deliver(&id("bob"), &longest), Ok(()));
    assert_eq!(recv(&mut bob).await, longest);

    assert_eq!(
        local.deliver(&id("carol"), &message),
        Err(DeliverError::LocalPeerGone)
    );
    let mut too_long = longest.clone();
    too_long.push(0);
    for (malformed, what) in [
        (&b""[..], "empty"),
        (&message[..37], "no whole ID"),
        (&too_long, "too long"),
        (&online("alice"), "no transport message"),
    ] {
        assert_eq!(
            local.deliver(&id("bob"), malformed),
            Err(DeliverError::Malformed),
            "{what}"
        );
    }
    assert_eq!(relay.counters().dropped_count(DropReason::Malformed), 4);
}

#[tokio::test]
async fn a_queue_that_is_full_refuses_what_the_fabric_delivers() {
    let relay = builder().peer_queue_bytes(64 * 1024).build().unwrap();
    let local = relay.local_peers();
    let _never_reads = connect(&relay, "bob").await;
    let message = transport(&id("alice"), &[0; 8000]);
    let refused = (0..1000)
        .find_map(|_| local.deliver(&id("bob"), &message).err())
        .expect("64 KiB hold no 8 MB");
    assert_eq!(refused, DeliverError::Refused(DropReason::QueueFull));
    assert_eq!(
        refused.to_string(),
        "peer's queue refused the message: queue_full"
    );
    assert_eq!(relay.counters().dropped_count(DropReason::QueueFull), 1);
}
