//! From the first byte of a connection to the answer, or to its refusal (peer-protocol.md, *Handshake*).

use std::time::Duration;

use trunkline::auth::{Secret, mint};
use trunkline::proto::peer::encode_auth;
use trunkline::telemetry::counters::DropReason;

use crate::support::{
    FrozenClock, Metrics, NOW, PING, PONG, RawClient, SECRET, TEXT, TestRelay, UPGRADE_REQUEST,
    auth_message, binary, frame, ids, payload_of, peer, token, transport,
};

/// An *auth* message with this token.
fn auth_with(token: &[u8]) -> Vec<u8> {
    encode_auth(&peer("x"), token).unwrap()
}

fn minted(expiry: u64) -> Vec<u8> {
    mint(&Secret::new(SECRET), expiry)
}

#[tokio::test]
async fn a_bad_token_is_refused_without_a_byte_and_counted_by_its_reason() {
    let relay = TestRelay::start();
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("expired", minted(NOW - 1)),
        ("bad_signature", mint(&Secret::new("other"), NOW + 60)),
        ("too_short", Vec::new()),
        ("too_short", token()[..42].to_vec()),
        ("bad_signature", [token(), vec![b'0']].concat()),
    ];
    let mut other_algorithm = token();
    other_algorithm[0] = 2;
    cases.push(("algorithm", other_algorithm));
    let mut flipped = token();
    flipped[20] ^= 1;
    cases.push(("bad_signature", flipped));
    for (reason, token) in &cases {
        println!("{reason}");
        let mut client = RawClient::upgraded(&relay).await;
        client.send(&auth_with(token)).await;
        client.ends_silently().await;
    }
    let metrics = relay.read_metrics().await;
    let name = "relay_authentication_failures_total";
    for (reason, count) in [
        ("expired", 1),
        ("bad_signature", 3),
        ("too_short", 2),
        ("algorithm", 1),
    ] {
        assert_eq!(metrics.sum(name, &[("reason", reason)]), count, "{reason}");
    }
    assert_eq!(metrics.sum(name, &[]), cases.len() as u64);
    assert_eq!(relay.relay.peers().len(), 0);
}

#[tokio::test]
async fn a_token_is_good_in_its_last_second() {
    let relay = TestRelay::start();
    let mut client = RawClient::upgraded(&relay).await;
    client.send(&auth_with(&minted(NOW))).await;
    client.expect_auth_response().await;
}

#[tokio::test]
async fn only_auth_may_come_first() {
    let relay = TestRelay::start();
    let own = peer("x");
    for (reason, message) in [
        ("not_auth", transport(&own, b"payload")),
        ("not_auth", vec![1, 3]),
        ("not_auth", vec![1, 4]),
        ("not_auth", vec![1, 5]),
        ("not_auth", vec![1, 7, b'r']),
        ("not_auth", vec![1, 8]),
        ("not_auth", vec![1, 9, 0]),
        (
            "legacy_hello",
            [&[1, 1, 0x21, 0x12, 0xA4, 0x42], own.as_bytes().as_slice()].concat(),
        ),
    ] {
        let counted = |m: &Metrics| m.sum("relay_handshake_refusals_total", &[("reason", reason)]);
        let before = counted(&relay.read_metrics().await);
        let mut client = RawClient::upgraded(&relay).await;
        client.send(&message).await;
        client.ends_silently().await;
        let after = counted(&relay.read_metrics().await);
        assert_eq!(after, before + 1, "{message:?}");
    }
    let metrics = relay.read_metrics().await;
    assert_eq!(metrics.sum("relay_authentication_failures_total", &[]), 0);
}

#[tokio::test]
async fn what_is_no_binary_message_of_212_bytes_is_refused_by_the_websocket() {
    let relay = TestRelay::start();
    let too_long = [auth_message("x"), vec![b'0'; 213 - 85]].concat();
    assert_eq!(too_long.len(), 213);
    for (bytes, code) in [
        (frame(true, TEXT, &auth_message("x")), 1003),
        (binary(&too_long), 1009),
        // Not even its first byte is waited for.
        (vec![0x82, 0xFF, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4], 1009),
    ] {
        let mut client = RawClient::upgraded(&relay).await;
        client.write(&bytes).await;
        assert_eq!(client.ends_without_message().await, Some(code));
    }
    // An empty message is none, and there is nothing to say to it.
    let mut client = RawClient::upgraded(&relay).await;
    client.send(&[]).await;
    client.ends_silently().await;
    assert_eq!(relay.relay.peers().len(), 0);
}

#[tokio::test]
async fn the_health_probe_is_closed_and_is_no_failure() {
    let relay = TestRelay::start();
    let file = include_str!("../vectors/healthcheck-probe.json");
    let file: serde_json::Value = serde_json::from_str(file).unwrap();
    let hex = file["message_hex"].as_str().unwrap();
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let probe: Vec<u8> = (0..hex.len()).step_by(2).map(digits).collect();

    let mut client = RawClient::upgraded(&relay).await;
    client.send(&probe).await;
    client.ends_silently().await;
    let metrics = relay.read_metrics().await;
    assert_eq!(metrics.sum("relay_authentication_failures_total", &[]), 0);
    assert_eq!(metrics.sum("relay_handshake_refusals_total", &[]), 0);

    // The same token from anybody else is a failure.
    let mut client = RawClient::upgraded(&relay).await;
    client.send(&auth_with(&probe[42..])).await;
    client.ends_silently().await;
    let metrics = relay.read_metrics().await;
    assert_eq!(metrics.sum("relay_authentication_failures_total", &[]), 1);
}

#[tokio::test]
async fn every_configured_secret_lets_in_until_it_is_taken_away() {
    let relay = TestRelay::start();
    let (first, second) = (Secret::new(SECRET), Secret::new("the new one"));
    relay
        .secrets
        .set_secrets(vec![second.clone(), first.clone()]);
    for secret in [&first, &second] {
        let mut client = RawClient::upgraded(&relay).await;
        client.send(&auth_with(&mint(secret, NOW + 60))).await;
        client.expect_auth_response().await;
    }
    let mut stays = RawClient::connected(&relay, "stays").await;
    relay.secrets.set_secrets(vec![second.clone()]);
    let mut client = RawClient::upgraded(&relay).await;
    client.send(&auth_with(&mint(&first, NOW + 60))).await;
    client.ends_silently().await;
    assert!(stays.sync(&peer("stays")).await.is_empty());
}

#[tokio::test]
async fn a_token_says_nothing_of_the_peer() {
    let relay = TestRelay::start();
    let mut bob = RawClient::connected(&relay, "bob").await;
    for name in ["x", "y", ""] {
        let mut client = RawClient::upgraded(&relay).await;
        let message = encode_auth(&peer(name), &token()).unwrap();
        client.send(&message).await;
        client.expect_auth_response().await;
        client.send(&transport(&peer("bob"), name.as_bytes())).await;
        let seen = bob.message().await;
        assert_eq!(payload_of(&seen, &peer(name)), name.as_bytes());
    }
    relay.conserved().await;
}

/// On several threads, so that the sender's can run between the registration and the answer, whichever comes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_sees_the_answer_can_be_reached() {
    let relay = TestRelay::start();
    let mut sender = RawClient::connected(&relay, "sender").await;
    let mut watcher = RawClient::connected(&relay, "watcher").await;
    for turn in 0..300 {
        let name = format!("peer {turn}");
        let id = peer(&name);
        let mut client = RawClient::upgraded(&relay).await;
        client.send(&auth_message(&name)).await;
        client.expect_auth_response().await;
        sender.send(&transport(&id, name.as_bytes())).await;
        watcher.send(&ids(8, &[id])).await;
        let seen = client.message().await;
        assert_eq!(payload_of(&seen, &peer("sender")), name.as_bytes());
        // It may hear first that the last one has gone.
        let mut told = watcher.message().await;
        while told[1] == 11 {
            told = watcher.message().await;
        }
        assert_eq!(told, ids(10, &[id]));
    }
    assert_eq!(relay.dropped(DropReason::NoSuchPeer), 0);
    assert_eq!(relay.conserved().await, (300, 300));
}

#[tokio::test]
async fn nobody_takes_more_than_10_s_to_authenticate() {
    let relay = TestRelay::start();
    let clock = FrozenClock::freeze();
    let silent = RawClient::tcp(relay.addr).await;
    let mut half = RawClient::tcp(relay.addr).await;
    half.write(&UPGRADE_REQUEST.as_bytes()[..60]).await;
    let upgraded = RawClient::upgraded(&relay).await;
    let mut begun = RawClient::upgraded(&relay).await;
    let auth = binary(&auth_message("begun"));
    begun.write(&auth[..40]).await;
    let mut peer_of_old = RawClient::connected(&relay, "old").await;
    let mut pinging = RawClient::upgraded(&relay).await;

    // Neither bytes that come one by one nor pings buy more time.
    for tenth in 0..9 {
        clock.advance(Duration::from_millis(1100)).await;
        half.write(&UPGRADE_REQUEST.as_bytes()[60 + tenth..61 + tenth])
            .await;
        begun.write(&auth[40 + tenth..41 + tenth]).await;
        pinging.write(&frame(true, PING, b"?")).await;
        assert_eq!(pinging.frame().await.unwrap().first_byte, 0x80 | PONG);
    }
    let timeouts = |metrics: &Metrics, stage| {
        metrics.sum("relay_handshake_timeouts_total", &[("stage", stage)])
    };
    let metrics = relay.read_metrics().await;
    assert_eq!(timeouts(&metrics, "upgrade"), 0);
    assert_eq!(timeouts(&metrics, "auth"), 0);

    clock.advance(Duration::from_millis(200)).await;
    silent.ends_silently().await;
    half.ends_silently().await;
    upgraded.ends_silently().await;
    begun.ends_silently().await;
    pinging.ends_silently().await;
    let metrics = relay.read_metrics().await;
    assert_eq!(timeouts(&metrics, "upgrade"), 2, "{metrics:?}");
    assert_eq!(timeouts(&metrics, "auth"), 3);
    assert_eq!(metrics.sum("relay_authentication_failures_total", &[]), 0);
    // The limit is for the handshake, not for the peer.
    assert!(peer_of_old.sync(&peer("old")).await.is_empty());
}

#[tokio::test]
async fn too_many_handshakes_at_once_are_refused_and_peers_do_not_count() {
    let relay = TestRelay::with(|builder| builder.max_handshakes(2));
    let mut peers = Vec::new();
    for name in ["a", "b", "c"] {
        peers.push(RawClient::connected(&relay, name).await);
    }
    let mut first = RawClient::upgraded(&relay).await;
    let mut second = RawClient::upgraded(&relay).await;
    // Each holds its place once the relay has answered a ping from there.
    for client in [&mut first, &mut second] {
        client.write(&frame(true, PING, b"")).await;
        assert_eq!(client.frame().await.unwrap().first_byte, 0x80 | PONG);
    }
    // The third, who is somebody else, is ended with its first byte. One of the same address would wait for its turn.
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut third = RawClient::over(elsewhere.connect(relay.addr).await.unwrap());
    third.try_write(UPGRADE_REQUEST.as_bytes()).await;
    assert!(third.rest().await.is_empty());
    let metrics = relay.read_metrics().await;
    let overloaded = [("reason", "overloaded")];
    assert_eq!(
        metrics.sum("relay_handshake_refusals_total", &overloaded),
        1
    );
    drop(second);
    first.authenticate("first").await;
    RawClient::connected(&relay, "late").await;
}
