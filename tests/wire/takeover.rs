//! The same ID again (peer-protocol.md, *A connected peer*).

use crate::support::{RawClient, TestRelay, close, ids, payload_of, peer, transport};

#[tokio::test]
async fn the_newer_connection_takes_the_place_and_the_older_ends_without_a_word() {
    let relay = TestRelay::start();
    let (x, y) = (peer("x"), peer("y"));
    let mut watcher = RawClient::connected(&relay, "y").await;
    let older = RawClient::connected(&relay, "x").await;
    watcher.send(&ids(8, &[x])).await;
    assert_eq!(watcher.message().await, ids(10, &[x]));

    let mut newer = RawClient::connected(&relay, "x").await;
    older.ends_silently().await;
    // Still armed, as the peer was online when it subscribed: told once. Never offline.
    assert_eq!(watcher.sync(&y).await, [ids(10, &[x])]);
    watcher.send(&transport(&x, b"to the newer")).await;
    let seen = newer.message().await;
    assert_eq!(payload_of(&seen, &y), b"to the newer");

    // The next takeover finds the notice used up.
    let mut newest = RawClient::connected(&relay, "x").await;
    newer.ends_silently().await;
    assert!(watcher.sync(&y).await.is_empty());
    newest.send(&transport(&y, b"from the newest")).await;
    assert_eq!(payload_of(&watcher.message().await, &x), b"from the newest");
    assert_eq!(relay.relay.peers().len(), 2);

    let metrics = relay.read_metrics().await;
    assert_eq!(metrics.sum("relay_peer_reconnections_total", &[]), 2);
    let local = [("scope", "local")];
    assert_eq!(metrics.sum("relay_takeovers_total", &local), 2);
    assert_eq!(metrics.sum("relay_peers", &[("transport", "ws")]), 2);

    // An end that is one is told.
    newest.send(&close()).await;
    newest.ends_silently().await;
    assert_eq!(watcher.message().await, ids(11, &[x]));
    relay.conserved().await;
}

#[tokio::test]
async fn a_first_connection_is_no_takeover() {
    let relay = TestRelay::start();
    let mut first = RawClient::connected(&relay, "x").await;
    first.send(&close()).await;
    first.ends_silently().await;
    let _second = RawClient::connected(&relay, "x").await;
    let metrics = relay.read_metrics().await;
    assert_eq!(metrics.sum("relay_peer_reconnections_total", &[]), 0);
    assert_eq!(metrics.sum("relay_takeovers_total", &[]), 0);
}

#[tokio::test]
async fn subscriptions_do_not_pass_to_the_newer_connection() {
    let relay = TestRelay::start();
    let x = peer("x");
    let mut older = RawClient::connected(&relay, "x").await;
    older.send(&ids(8, &[peer("z")])).await;
    assert!(older.sync(&x).await.is_empty());
    let mut newer = RawClient::connected(&relay, "x").await;
    older.ends_silently().await;
    let _z = RawClient::connected(&relay, "z").await;
    assert!(newer.sync(&x).await.is_empty());
}

/// Senders remember where their last messages went: after a takeover that must not be the older connection, and no message
/// may fall between the two.
#[tokio::test]
async fn a_flow_goes_over_to_the_newer_connection_without_loss() {
    let relay = TestRelay::start();
    let (x, y) = (peer("x"), peer("y"));
    let mut sender = RawClient::connected(&relay, "y").await;
    let mut receiver = RawClient::connected(&relay, "x").await;
    for turn in 0..50_u32 {
        for number in 0..10_u32 {
            let payload = (turn * 10 + number).to_be_bytes();
            sender.send(&transport(&x, &payload)).await;
            let seen = receiver.message().await;
            assert_eq!(payload_of(&seen, &y), payload);
        }
        let newer = RawClient::connected(&relay, "x").await;
        std::mem::replace(&mut receiver, newer)
            .ends_silently()
            .await;
    }
    assert_eq!(relay.conserved().await, (500, 500));
}

#[tokio::test]
async fn a_peer_that_takes_itself_over_in_its_own_message_is_one_peer() {
    let relay = TestRelay::start();
    let x = peer("x");
    let mut older = RawClient::connected(&relay, "x").await;
    // Watching itself: the older connection may just hear that it is online once more, the newer watches nobody.
    older.send(&ids(8, &[x])).await;
    assert_eq!(older.message().await, ids(10, &[x]));
    let mut newer = RawClient::connected(&relay, "x").await;
    while let Some(frame) = older.frame().await {
        assert_eq!(frame.into_message(), ids(10, &[x]));
    }
    assert!(newer.sync(&x).await.is_empty());
    relay.peers(1).await;
}
