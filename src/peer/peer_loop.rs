//! The loop of a connected peer: registers it, answers it, relays for it until it is closed.
//!
//! Reading never waits for anything but the peer's own socket. What is counted is counted in plain integers and handed over
//! once a batch.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tower::{Service, ServiceExt};
use tracing::{debug, info};

use super::closed::{CloseReason, Closed};
use super::health::{Due, HealthCheck};
use super::member::Member;
use super::tally::Tally;
use super::{Authenticated, HandshakeError, Shared};
use crate::crosspod::{CrossPod, Forward, Forwarded};
use crate::proto::PeerId;
use crate::proto::limits::{MESSAGE_MAX, TRANSPORT_HEADER_LEN};
use crate::proto::peer::{self, HEALTH_CHECK, Message, MessageType};
use crate::routing::{EndReason, Registration, RouteMemo};
use crate::telemetry::counters::DropReason;
use crate::transport::{MessageReader, MessageTransport};

/// How long a peer may take to accept the last bytes of its connection (peer-protocol.md, *A connected peer*, Shutdown).
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the relay reads on after its last word, so that a reset does not overtake it.
const LINGER: Duration = Duration::from_secs(1);

/// After how many full reads in a row a peer that always has more lets others go first: the receivers' writers may wait for this
/// thread. Each such turn wakes another worker in vain, or moves the peer to it.
const FULL_READS: u32 = 4;

/// The innermost service of a connection: [`Authenticated`] in, [`Closed`] out. Always ready.
#[derive(Debug, Clone)]
pub(crate) struct PeerLoop(pub(crate) Arc<Shared>);

impl<T: MessageTransport> Service<Authenticated<T>> for PeerLoop {
    type Response = Closed;
    type Error = HandshakeError;
    type Future = Pin<Box<dyn Future<Output = Result<Closed, HandshakeError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, authenticated: Authenticated<T>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { Ok(run(shared, authenticated).await) })
    }
}

async fn run<T: MessageTransport>(shared: Arc<Shared>, authenticated: Authenticated<T>) -> Closed {
    let (peer, incoming) = authenticated.into_parts();
    let began = Instant::now();
    let outbox = Arc::clone(incoming.transport.outbox());
    let kind = incoming.transport.kind();
    // In the queue before anybody can reach the peer, so that it is the first thing the peer reads; written after the
    // registration, so that whoever reads it can be reached.
    outbox.push_control(&shared.auth_response);
    shared.counters.control_sent(MessageType::AuthResponse);
    let registration = Registration::new(
        peer,
        shared.serial.fetch_add(1, Ordering::Relaxed) + 1,
        kind,
        incoming.remote,
        outbox,
        shared.ticks.now(),
    );
    let _connected = shared.instruments.connected(kind as usize);
    let (member, old) = Member::join(&shared, registration);
    shared.instruments.stored(began.elapsed());
    let client = incoming.remote;
    match &old {
        Some(old) => {
            shared.instruments.taken_over();
            info!(
                relay.peer.id = %peer, client.address = %client, network.transport = kind.name(),
                relay.takeover.from = %old.remote(),
                "peer connected and took over its older connection"
            );
        }
        None => info!(
            relay.peer.id = %peer, client.address = %client, network.transport = kind.name(),
            "peer connected"
        ),
    }
    drop(old);
    // A shutdown that began between the handshake and the registration has not seen this peer.
    if shared.drain.is_started() {
        member.registration.close(EndReason::Shutdown);
    }

    let (mut reader, writer) = incoming.transport.split();
    let mut writer = tokio::spawn({
        let registration = Arc::clone(&member.registration);
        async move {
            writer.await;
            registration.end(EndReason::WriterEnded);
        }
    });

    let mut this = Loop {
        cross_pod: None,
        health: HealthCheck::new(shared.health_check_threshold),
        memo: RouteMemo::default(),
        unflushed: false,
        warned: false,
        tally: Tally::default(),
        member,
        shared,
    };
    let reason = this.relay(&mut reader).await;
    this.count_lost(&mut reader);
    let Loop {
        mut member, shared, ..
    } = this;
    while shared
        .presence
        .end_some(&member.registration, &mut member.subscriptions)
    {
        // Unlike `yield_once` this lets the sockets have their turn, too.
        tokio::task::yield_now().await;
    }
    member.leave();
    let outbox = member.registration.outbox();
    let lasted = began.elapsed();
    info!(
        relay.peer.id = %peer, client.address = %client, relay.close.reason = reason.reason(),
        duration_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
        "peer disconnected: {reason}"
    );

    // A last message, and the transport's own last bytes.
    let farewell: Option<(Option<&[u8]>, &[u8])> = match &reason {
        CloseReason::Read(error) => Some(error.farewell())
            .filter(|bytes| !bytes.is_empty())
            .map(|bytes| (None, bytes)),
        CloseReason::ClosedByPeer | CloseReason::Message(_) | CloseReason::NotForRelays(_) => {
            Some((None, &[]))
        }
        // Whoever ended it says this too, but perhaps only now.
        CloseReason::Ended(EndReason::Shutdown | EndReason::Requested) => {
            Some((Some(&peer::CLOSE), &[]))
        }
        CloseReason::HealthCheck
        | CloseReason::Ended(EndReason::TakenOver | EndReason::WriterEnded | EndReason::Aborted) => {
            None
        }
    };
    // Whatever the writer still holds is counted before the peer counts as gone. Its error would be a panic: there is nothing
    // left to save then.
    match farewell {
        Some((message, bytes)) => {
            outbox.finish(message, bytes);
            let written = timeout(FAREWELL_TIMEOUT, &mut writer).await;
            // Also when the writer has ended: by a failed socket, perhaps, with messages left that nobody else would count.
            outbox.abort();
            if written.is_err() {
                let _ = writer.await;
            }
            let _ = timeout(LINGER, poll_fn(|cx| reader.poll_drain(cx))).await;
        }
        None => {
            outbox.abort();
            let _ = writer.await;
        }
    }
    Closed {
        peer,
        reason,
        lasted,
    }
}

struct Loop {
    shared: Arc<Shared>,
    member: Member,
    memo: RouteMemo,
    /// Forked at the first message for a peer that is not here: most peers never need it.
    cross_pod: Option<Box<dyn CrossPod>>,
    /// Whether the fabric has been given something in this batch.
    unflushed: bool,
    health: HealthCheck,
    /// Whether this peer's misbehaviour has been told once: it decides how often, and must not fill the log.
    warned: bool,
    tally: Tally,
}

impl Loop {
    async fn relay(&mut self, reader: &mut impl MessageReader) -> CloseReason {
        let mut looked = self.shared.ticks.now();
        let mut full_reads = 0;
        loop {
            let ended = self.batch(reader);
            self.memo.flush();
            if std::mem::take(&mut self.unflushed)
                && let Some(fabric) = &mut self.cross_pod
            {
                fabric.flush();
            }
            self.tally.flush(&self.shared.counters);
            if let Some(reason) = ended {
                return reason;
            }
            full_reads = if reader.is_full() { full_reads + 1 } else { 0 };
            if full_reads == FULL_READS {
                full_reads = 0;
                yield_once().await;
            }
            // A socket that always has more would keep the clock from being looked at.
            let now = self.shared.ticks.now();
            let ticked = std::mem::replace(&mut looked, now) != now;
            if let Err(reason) = self.fill(reader, ticked).await {
                return reason;
            }
            self.member.registration.hear(self.shared.ticks.now());
        }
    }

    /// Waits for the next batch, and does meanwhile what is due; before it looks at the socket if `ticked`.
    async fn fill(
        &mut self,
        reader: &mut impl MessageReader,
        mut ticked: bool,
    ) -> Result<(), CloseReason> {
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(reason) = self.member.registration.poll_end(cx) {
                    return Poll::Ready(Err(CloseReason::Ended(reason)));
                }
                let look_first = std::mem::take(&mut ticked);
                if !look_first && let Poll::Ready(result) = reader.poll_fill(cx) {
                    return Poll::Ready(result.map_err(CloseReason::Read));
                }
                match self.health.poll_due(cx) {
                    Poll::Ready(due) => self.health_due(&due, reader)?,
                    Poll::Pending if look_first => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    fn health_due(
        &mut self,
        due: &Due,
        reader: &mut impl MessageReader,
    ) -> Result<(), CloseReason> {
        match due {
            Due::Dead => return Err(CloseReason::HealthCheck),
            Due::Ask => {
                if self
                    .member
                    .registration
                    .outbox()
                    .push_control(&HEALTH_CHECK)
                {
                    self.shared.counters.control_sent(MessageType::HealthCheck);
                }
                self.count_lost(reader);
                reader.release();
                self.memo.release();
                self.member.registration.outbox().release();
            }
        }
        Ok(())
    }

    /// Counts what came and was lost before it could be read.
    fn count_lost(&mut self, reader: &mut impl MessageReader) {
        let lost = reader.take_lost();
        if lost > 0 {
            let counters = &self.shared.counters;
            counters.received(MessageType::Transport, lost);
            counters.dropped(DropReason::ReceiveOverflow, lost);
        }
    }

    /// Handles all messages that one fill brought.
    fn batch(&mut self, reader: &mut impl MessageReader) -> Option<CloseReason> {
        loop {
            let message = match reader.next_message(MESSAGE_MAX) {
                Ok(Some(message)) => message,
                Ok(None) => return None,
                Err(error) => return Some(CloseReason::Read(error)),
            };
            match peer::message_type(message) {
                Ok(MessageType::Transport) => self.transport(message),
                Ok(_) => {
                    if let Err(reason) = self.control(message) {
                        return Some(reason);
                    }
                }
                Err(error) => return Some(CloseReason::Message(error)),
            }
        }
    }

    /// The message path: one look at the memo, one lock, one copy.
    #[inline]
    fn transport(&mut self, message: &mut [u8]) {
        self.tally.messages += 1;
        self.tally.bytes += message.len() as u64;
        if message.len() < TRANSPORT_HEADER_LEN {
            return self.tally.drop(DropReason::Malformed);
        }
        let destination = peer::transport_peer(message).expect("the length was checked above");
        peer::stamp_source(message, self.member.registration.peer());
        // A flow to another pod costs no look-up among the peers of this one.
        if let Some(fabric) = &mut self.cross_pod
            && !self.memo.knows(&destination)
            && let Some(forwarded) = fabric.forward_again(Forward {
                destination,
                message,
            })
        {
            return self.forwarded(&destination, forwarded);
        }
        // The second turn is for a receiver that was taken over between the look-up and the push.
        for _ in 0..2 {
            let Some(receiver) = self.memo.route(&self.shared.registry, &destination) else {
                return self.elsewhere(destination, message);
            };
            match receiver.outbox().push(message) {
                Ok(()) => return,
                Err(DropReason::ReceiverClosed) if !receiver.is_current() => {}
                Err(reason) => return self.tally.drop(reason),
            }
        }
        self.tally.drop(DropReason::ReceiverClosed);
    }

    /// For a peer that is not here.
    #[inline(never)]
    fn elsewhere(&mut self, destination: PeerId, message: &[u8]) {
        if self.cross_pod.is_none() {
            self.cross_pod = self.shared.cross_pod.get().map(|fabric| fabric.fork());
        }
        let Some(fabric) = &mut self.cross_pod else {
            debug!(relay.peer.id = %self.member.registration.peer(), relay.destination.id = %destination, "message dropped: no such peer");
            return self.tally.drop(DropReason::NoSuchPeer);
        };
        let forwarded = fabric.forward(Forward {
            destination,
            message,
        });
        self.forwarded(&destination, forwarded);
    }

    #[inline]
    fn forwarded(&mut self, destination: &PeerId, forwarded: Forwarded) {
        self.unflushed = true;
        match forwarded {
            Forwarded::Sent => self.tally.forwarded += 1,
            Forwarded::Queued | Forwarded::Held => {}
            Forwarded::Dropped(reason) => {
                debug!(relay.peer.id = %self.member.registration.peer(), relay.destination.id = %destination, relay.drop.reason = reason.reason(), "message dropped by the fabric");
                self.tally.drop(reason);
            }
        }
    }

    /// Everything but transport: rare, so it may cost something.
    fn control(&mut self, message: &[u8]) -> Result<(), CloseReason> {
        let peer = *self.member.registration.peer();
        let counters = &self.shared.counters;
        if let Ok(kind @ (MessageType::Auth | MessageType::Hello)) = peer::message_type(message)
            && message.len() <= kind.max_len()
        {
            counters.received(kind, 1);
            counters.dropped(DropReason::Unexpected, 1);
            if std::mem::replace(&mut self.warned, true) {
                debug!(relay.peer.id = %peer, "message ignored: {} after authentication", kind.name());
            } else {
                info!(relay.peer.id = %peer, "message ignored: {} after authentication", kind.name());
            }
            return Ok(());
        }
        let parsed = match peer::parse(message) {
            Ok(parsed) => parsed,
            Err(error) if error.ends_connection() => return Err(CloseReason::Message(error)),
            Err(error) => {
                if let Ok(kind) = peer::message_type(message) {
                    counters.received(kind, 1);
                }
                counters.dropped(DropReason::MalformedPeerList, 1);
                debug!(relay.peer.id = %peer, "message dropped: {error}");
                return Ok(());
            }
        };
        let kind = parsed.message_type();
        if kind.is_sent_by_clients() {
            counters.received(kind, 1);
        }
        match parsed {
            Message::Close => return Err(CloseReason::ClosedByPeer),
            Message::HealthCheck => self.health.answered(),
            Message::Subscribe(ids) => self.subscribe(ids.into_iter()),
            Message::Unsubscribe(ids) => self.shared.presence.unsubscribe(
                &self.member.registration,
                &mut self.member.subscriptions,
                ids.into_iter(),
            ),
            // The first three have been dealt with before; the others are for relays to send.
            Message::Transport { .. }
            | Message::Auth(_)
            | Message::Hello
            | Message::HelloResponse
            | Message::AuthResponse(_)
            | Message::PeersOnline(_)
            | Message::PeersOffline(_) => return Err(CloseReason::NotForRelays(kind)),
        }
        Ok(())
    }

    fn subscribe(&mut self, ids: impl Iterator<Item = PeerId>) {
        let mut elsewhere = Vec::new();
        let refused = self.shared.presence.subscribe(
            &self.member.registration,
            &mut self.member.subscriptions,
            ids,
            self.shared.max_subscriptions,
            &mut elsewhere,
        );
        if refused > 0 {
            self.shared
                .counters
                .dropped(DropReason::SubscriptionLimit, refused as u64);
            let (peer, limit) = (
                self.member.registration.peer(),
                self.shared.max_subscriptions,
            );
            if std::mem::replace(&mut self.warned, true) {
                debug!(relay.peer.id = %peer, refused, "subscriptions refused: {limit} is the limit for one peer");
            } else {
                info!(relay.peer.id = %peer, refused, "subscriptions refused: {limit} is the limit for one peer");
            }
        }
        if let Some(locate) = &self.shared.locate
            && !elsewhere.is_empty()
        {
            let locate = locate.clone();
            let presence = Arc::clone(&self.shared.presence);
            let subscriber = Arc::clone(&self.member.registration);
            // Reading goes on meanwhile; a subscription that ended by then is not told.
            tokio::spawn(async move {
                for id in elsewhere {
                    if let Ok(Some(_)) = locate.clone().oneshot(id).await {
                        presence.found_elsewhere(&subscriber, &id);
                    }
                }
            });
        }
    }
}

/// Lets the other tasks of this thread run before this one goes on.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
