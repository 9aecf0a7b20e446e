//! A connected peer's life and its end (peer-protocol.md, *A connected peer*).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use trunkline::telemetry::counters::DropReason;
use trunkline::transport::RemoteAddr;
use trunkline::transport::ws::Stream;

use crate::support::{
    CLOSE, Frame, FrozenClock, RawClient, TestRelay, auth_message, binary, close, frame,
    health_check, ids, payload_of, peer, transport, until,
};

#[tokio::test]
async fn a_peer_is_asked_every_25_s_and_lives_as_long_as_it_answers() {
    let relay = TestRelay::start();
    let clock = FrozenClock::freeze();
    let x = peer("x");
    let mut client = RawClient::connected(&relay, "x").await;
    let mut seconds = Vec::new();
    for second in 1..=300 {
        clock.advance(Duration::from_secs(1)).await;
        let asked = client.sync(&x).await;
        for message in &asked {
            assert_eq!(*message, health_check());
            client.send(&health_check()).await;
            seconds.push(second);
        }
        assert!(asked.len() <= 1);
    }
    // The first may be up to 5 s early, so that peers who came together are not asked together.
    assert!((20..=26).contains(&seconds[0]), "{seconds:?}");
    for pair in seconds.windows(2) {
        assert!((25..=26).contains(&(pair[1] - pair[0])), "{seconds:?}");
    }
    assert!(seconds.len() >= 11, "{seconds:?}");
}

#[tokio::test]
async fn who_does_not_answer_is_disconnected_after_threshold_windows_of_45_s() {
    let clock = FrozenClock::freeze();
    for threshold in [1_u32, 3] {
        let relay = TestRelay::with(|builder| builder.health_check_threshold(threshold));
        let mut watcher = RawClient::connected(&relay, "w").await;
        watcher.send(&ids(8, &[peer("dead")])).await;
        let mut dead = RawClient::connected(&relay, "dead").await;
        assert_eq!(watcher.message().await, ids(10, &[peer("dead")]));
        let mut life = 0;
        while relay.relay.peers().contains(&peer("dead")) {
            clock.advance(Duration::from_secs(1)).await;
            life += 1;
            // It is seen up to a second late, and so each window may begin a second late.
            assert!(life <= 47 * threshold, "threshold {threshold}");
            for message in watcher.sync(&peer("w")).await {
                if message == health_check() {
                    watcher.send(&health_check()).await;
                } else {
                    assert_eq!(message, ids(11, &[peer("dead")]));
                }
            }
            // Talking is not answering.
            dead.try_write(&binary(&transport(&peer("nobody"), b"alive?")))
                .await;
        }
        assert!(life >= 45 * threshold, "{life} s, threshold {threshold}");
        while let Some(frame) = dead.frame().await {
            assert_eq!(frame.into_message(), health_check());
        }
    }
}

#[tokio::test]
async fn an_answer_in_time_starts_the_windows_anew() {
    let relay = TestRelay::with(|builder| builder.health_check_threshold(2));
    let clock = FrozenClock::freeze();
    let x = peer("x");
    let mut client = RawClient::connected(&relay, "x").await;
    for _ in 0..3 {
        // One window missed, then an answer in the second.
        clock.advance(Duration::from_secs(44)).await;
        clock.advance(Duration::from_secs(40)).await;
        client.send(&health_check()).await;
        client.sync(&x).await;
    }
    assert!(relay.relay.peers().contains(&x));
}

/// The client gives up when it is not asked for 35 s, however busy the relay is with what it sends.
#[tokio::test]
async fn a_peer_that_never_pauses_is_asked_all_the_same() {
    let relay = TestRelay::start();
    let clock = FrozenClock::freeze();
    let written = Arc::<Mutex<Vec<u8>>>::default();
    let endless = Endless {
        first: binary(&auth_message("x")),
        then: binary(&transport(&peer("nobody"), &[0; 1280])).repeat(50),
        at: 0,
        written: Arc::clone(&written),
    };
    let handle = relay.relay.clone();
    tokio::spawn(async move {
        let connection = Stream(endless);
        handle.accept(connection, RemoteAddr::unknown()).await
    });
    relay.peers(1).await;
    // In few steps: each waits for turns of a peer that uses its own up.
    for _ in 0..6 {
        clock.advance(Duration::from_secs(5)).await;
    }
    let mut written = written.lock().split_off(0);
    assert_eq!(
        Frame::take(&mut written).unwrap().into_message()[..2],
        [1, 7]
    );
    let asked = Frame::take(&mut written).expect("a question within 30 s");
    assert_eq!(asked.into_message(), health_check());
    assert!(written.is_empty());
}

/// A peer whose socket always has more to read.
struct Endless {
    first: Vec<u8>,
    then: Vec<u8>,
    at: usize,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let first = std::mem::take(&mut self.first);
        buffer.put_slice(&first);
        while first.is_empty() && buffer.remaining() > 0 {
            let rest = &self.then[self.at..];
            let piece = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..piece]);
            self.at = (self.at + piece) % self.then.len();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.lock().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn close_ends_the_connection_and_nothing_that_follows_it_counts() {
    let relay = TestRelay::start();
    let mut bob = RawClient::connected(&relay, "bob").await;
    let mut alice = RawClient::connected(&relay, "alice").await;
    let bytes = [
        binary(&transport(&peer("bob"), b"before")),
        binary(&close()),
        binary(&transport(&peer("bob"), b"after")),
    ]
    .concat();
    alice.write(&bytes).await;
    alice.ends_silently().await;
    let before = bob.sync(&peer("bob")).await;
    assert_eq!(before.len(), 1);
    assert_eq!(payload_of(&before[0], &peer("alice")), b"before");
    relay.peers(1).await;
    relay.conserved().await;
}

#[tokio::test]
async fn a_websocket_close_is_answered_with_its_code() {
    let relay = TestRelay::start();
    for (payload, code) in [
        (&[][..], None),
        (&[0x03, 0xE8], Some(1000)),
        (&[0x03, 0xE9, b'b', b'y', b'e'], Some(1001)),
        (&[0x03], Some(1002)),
        (&[0x03, 0xED], Some(1002)),
    ] {
        let mut client = RawClient::connected(&relay, "x").await;
        client.write(&frame(true, CLOSE, payload)).await;
        assert_eq!(client.ends_without_message().await, code, "{payload:?}");
    }
    relay.peers(0).await;
}

#[tokio::test]
async fn a_half_closed_connection_is_a_closed_one() {
    let relay = TestRelay::start();
    let mut client = RawClient::connected(&relay, "x").await;
    client.finish().await;
    client.ends_silently().await;
    relay.peers(0).await;
}

#[tokio::test]
async fn what_breaks_the_framing_ends_the_connection_with_1002() {
    let relay = TestRelay::start();
    let mut bob = RawClient::connected(&relay, "bob").await;
    let good = binary(&transport(&peer("bob"), b"good"));
    let mut unmasked = vec![0x82, 42];
    unmasked.extend(transport(&peer("bob"), b"bad!"));
    let mut reserved_bit = good.clone();
    reserved_bit[0] |= 0x40;
    for bad in [
        unmasked,
        reserved_bit,
        frame(true, 0x3, b"reserved opcode"),
        frame(true, 0x0, b"continues nothing"),
        frame(false, 0x9, b"fragmented ping"),
        frame(true, 0x9, &[0; 126]),
    ] {
        let mut alice = RawClient::connected(&relay, "alice").await;
        alice
            .write(&[good.clone(), bad, good.clone()].concat())
            .await;
        assert_eq!(alice.ends_without_message().await, Some(1002));
        let seen = bob.sync(&peer("bob")).await;
        assert_eq!(seen.len(), 1, "what came before is delivered, and no more");
    }
    relay.conserved().await;
}

#[tokio::test]
async fn a_known_type_at_the_wrong_time_is_ignored_and_counted() {
    let relay = TestRelay::start();
    let x = peer("x");
    let mut client = RawClient::connected(&relay, "x").await;
    client.send(&auth_message("y")).await;
    client.send(&[1, 1]).await;
    assert!(client.sync(&x).await.is_empty());
    assert!(!relay.relay.peers().contains(&peer("y")));
    assert_eq!(relay.dropped(DropReason::Unexpected), 2);
}

#[tokio::test]
async fn peers_are_active_for_30_s_after_their_last_message() {
    let relay = TestRelay::start();
    let clock = FrozenClock::freeze();
    let mut busy = RawClient::connected(&relay, "busy").await;
    let _idle = RawClient::connected(&relay, "idle").await;
    let counts = async || {
        let metrics = relay.read_metrics().await;
        let count = |name| metrics.sum(name, &[]);
        (count("relay_peers_active"), count("relay_peers_idle"))
    };
    assert_eq!(counts().await, (2, 0));
    clock.advance(Duration::from_secs(29)).await;
    assert_eq!(counts().await, (2, 0));
    busy.sync(&peer("busy")).await;
    clock.advance(Duration::from_secs(2)).await;
    assert_eq!(counts().await, (1, 1));
    busy.reset();
    relay.peers(1).await;
    assert_eq!(counts().await, (0, 1));
}

#[tokio::test]
async fn a_connection_whose_future_is_dropped_leaves_nothing_behind() {
    let relay = TestRelay::start();
    let mut watcher = relay.memory_peer("w").await;
    let dropped = relay.memory_peer("d").await;
    assert!(watcher.end.send(ids(8, &[peer("d")])).await);
    assert_eq!(watcher.end.recv().await.unwrap(), ids(10, &[peer("d")]));
    // What an embedder's timeout does to a connection, and what a panic in its own fabric does.
    dropped.connection.abort();
    let mut end = dropped.end;
    assert_eq!(end.recv().await, None, "the connection has ended");
    assert_eq!(watcher.end.recv().await.unwrap(), ids(11, &[peer("d")]));
    assert!(!relay.relay.peers().contains(&peer("d")));
    assert!(watcher.end.send(transport(&peer("d"), b"lost")).await);
    until("the message is dropped", || {
        relay.dropped(DropReason::NoSuchPeer) == 1
    })
    .await;
}
