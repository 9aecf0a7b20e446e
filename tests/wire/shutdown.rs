//! The end of a relay (peer-protocol.md, *Shutdown*; operations.md, *Signals* and *Health*).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use trunkline::telemetry::counters::DropReason;

use crate::support::{
    FrozenClock, RawClient, TestRelay, UPGRADE_REQUEST, binary, close, eventually, frame, peer,
    request, transport, until,
};

async fn readiness(relay: &TestRelay) -> u16 {
    let get = "GET /readyz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
    request(relay.health, get).await.expect("an answer").status
}

/// Waits until nobody listens there: a program that another test is just starting has the relay's listener, too, until its `exec`.
async fn takes_nobody(addr: SocketAddr) {
    eventually("nobody listens", || async {
        TcpStream::connect(addr).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn every_peer_hears_close_and_nobody_holds_up_the_end() {
    let mut relay = TestRelay::start();
    // No time passes at all: whatever would wait for a timer waits for ever.
    let clock = FrozenClock::freeze();
    let mut peers = Vec::new();
    for name in ["a", "b", "c"] {
        peers.push(RawClient::connected(&relay, name).await);
    }
    let silent = RawClient::tcp(relay.addr).await;
    let mut half = RawClient::tcp(relay.addr).await;
    half.write(&UPGRADE_REQUEST.as_bytes()[..80]).await;
    let unauthenticated = RawClient::upgraded(&relay).await;
    let mut begun = RawClient::upgraded(&relay).await;
    begun.write(&[0x82, 0xD5, 1, 2]).await;
    assert_eq!(readiness(&relay).await, 200);

    relay.begin_shutdown();
    for peer in &mut peers {
        assert_eq!(peer.message().await, close());
    }
    for peer in peers {
        peer.ends_silently().await;
    }
    for other in [silent, half, unauthenticated, begun] {
        other.ends_silently().await;
    }
    let addr = relay.addr;
    assert_eq!(relay.relay.peers().len(), 0);
    // The last of it is the linger for answers to operators.
    until("nothing waits but a linger", || {
        relay.has_stopped() || relay.relay.is_draining()
    })
    .await;
    clock.advance(Duration::from_millis(250)).await;
    relay.stopped().await;
    takes_nobody(addr).await;
}

#[tokio::test]
async fn from_its_first_moment_the_relay_is_not_ready_and_takes_nobody_new() {
    let mut relay = TestRelay::with(|builder| builder.peer_queue_bytes(128 * 1024));
    let clock = FrozenClock::freeze();
    let mut sender = RawClient::connected(&relay, "sender").await;
    let mut stalled = RawClient::connected_narrowly(&relay, "stalled").await;
    // So much waits for it that it never comes to its *close*: it holds the shutdown for as long as it may.
    let message = binary(&transport(&peer("stalled"), &[0; 1280])).repeat(20);
    while relay.dropped(DropReason::QueueFull) == 0 {
        sender.write(&message).await;
        assert!(sender.sync(&peer("sender")).await.is_empty());
    }
    assert_eq!(readiness(&relay).await, 200);
    relay.begin_shutdown();
    assert_eq!(sender.message().await, close());
    sender.ends_silently().await;
    assert_eq!(readiness(&relay).await, 503);
    let get = "GET /health HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
    assert_eq!(request(relay.health, get).await.unwrap().status, 503);
    let get = "GET /healthz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
    assert_eq!(request(relay.health, get).await.unwrap().status, 200);
    takes_nobody(relay.addr).await;

    clock.advance(Duration::from_millis(2900)).await;
    assert!(!relay.has_stopped());
    // The 3 s are over: it is cut off, and a second later nobody reads on for its sake.
    clock.advance(Duration::from_millis(200)).await;
    clock.advance(Duration::from_millis(1100)).await;
    clock.advance(Duration::from_millis(300)).await;
    until("the server returns", || relay.has_stopped()).await;
    while stalled.frame().await.is_some() {}
    assert!(relay.dropped(DropReason::ReceiverClosed) > 0);
    assert_eq!(relay.relay.peers().len(), 0);
}

#[tokio::test]
async fn what_is_queued_goes_before_close() {
    let mut relay = TestRelay::start();
    let mut sender = RawClient::connected(&relay, "sender").await;
    let mut receiver = RawClient::connected_narrowly(&relay, "receiver").await;
    let message = binary(&transport(&peer("receiver"), &[7; 1280]));
    for _ in 0..10 {
        sender.write(&message.repeat(20)).await;
    }
    sender.sync(&peer("sender")).await;
    relay.begin_shutdown();
    let mut delivered = 0;
    loop {
        let message = receiver.message().await;
        if message == close() {
            break;
        }
        assert_eq!(message.len(), 38 + 1280);
        delivered += 1;
    }
    receiver.ends_silently().await;
    assert_eq!(delivered, 200);
    relay.stopped().await;
}

#[tokio::test]
async fn a_peer_that_answers_close_with_its_own_ends_like_any_other() {
    let mut relay = TestRelay::start();
    let mut one = RawClient::connected(&relay, "one").await;
    let mut two = RawClient::connected(&relay, "two").await;
    relay.begin_shutdown();
    assert_eq!(one.message().await, close());
    one.try_write(&binary(&close())).await;
    one.ends_silently().await;
    assert_eq!(two.message().await, close());
    two.try_write(&frame(true, 0x8, &[0x03, 0xE8])).await;
    two.ends_silently().await;
    relay.stopped().await;
}

#[tokio::test]
async fn with_other_pods_the_closes_are_spread_and_messages_go_on() {
    let mut relay = TestRelay::served(
        |builder| builder,
        |server| server.drain(Duration::from_secs(2), Duration::from_secs(10)),
    );
    let clock = FrozenClock::freeze();
    let mut peers = Vec::new();
    for name in ["a", "b", "c", "d"] {
        peers.push(RawClient::connected(&relay, name).await);
    }
    relay.begin_shutdown();
    until("it is not ready", || relay.relay.peers().len() == 4).await;
    while readiness(&relay).await != 503 {}
    // The endpoints have not caught up: who is sent here is served.
    let mut late = RawClient::connected(&relay, "e").await;
    assert!(late.sync(&peer("e")).await.is_empty());
    clock.advance(Duration::from_millis(1_900)).await;
    assert_eq!(relay.relay.peers().len(), 5);
    clock.advance(Duration::from_millis(200)).await;
    until("the first is closed", || relay.relay.peers().len() == 4).await;
    takes_nobody(relay.addr).await;
    // Its turn came when the clock had jumped: the turns of the others are counted from there.
    clock.advance(Duration::from_millis(100)).await;
    // One each two seconds; the others go on talking.
    for left in (0..4).rev() {
        clock.advance(Duration::from_millis(1_500)).await;
        assert_eq!(relay.relay.peers().len(), left + 1);
        let ids = relay.relay.peers().ids();
        for (name, client) in ["a", "b", "c", "d"].iter().zip(&mut peers) {
            if ids.contains(&peer(name)) {
                assert!(client.sync(&peer(name)).await.is_empty());
            }
        }
        clock.advance(Duration::from_millis(500)).await;
        until("the next is closed", || relay.relay.peers().len() == left).await;
    }
    peers.push(late);
    for mut client in peers {
        assert_eq!(client.message().await, close());
        client.ends_silently().await;
    }
    clock.advance(Duration::from_millis(1_100)).await;
    clock.advance(Duration::from_millis(300)).await;
    relay.stopped().await;
}
