//! The client against a real relay on a free port: what it does itself, and what it says when things go wrong.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use trunkline::auth::{Secret, TokenValidator, mint};
use trunkline::client::{Client, ClientError, CloseReason, Event};
use trunkline::proto::PeerId;
use trunkline::proto::peer::MessageType;
use trunkline::time::Clock;
use trunkline::{Relay, Server};

/// Long enough for any machine: a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

const NOW: u64 = 1_790_000_000;

fn id(name: &str) -> PeerId {
    PeerId::from_name(name.as_bytes())
}

fn token() -> Vec<u8> {
    mint(&Secret::new("right"), NOW + 60)
}

/// A relay on a free port; it lives as long as the test's runtime.
fn relay() -> (Relay, String) {
    let validator = TokenValidator::new(vec![Secret::new("right")], Clock::fixed(NOW));
    let relay = Relay::builder()
        .exposed_address("rels://relay.example.com:443")
        .path("/some/relay")
        .validator(validator)
        // A busy machine may keep a message longer than the second that WireGuard wants.
        .queue_max_age(PATIENCE)
        .build()
        .unwrap();
    let server = Server::builder(relay.clone())
        .listen(["127.0.0.1:0".parse().unwrap()])
        .bind()
        .unwrap();
    let address = server.local_addr().unwrap().to_string();
    tokio::spawn(server.run(pending()));
    (relay, address)
}

async fn connect(address: &str, name: &str) -> Client {
    Client::connect(address, "/some/relay", id(name), &token())
        .await
        .unwrap()
}

async fn next(client: &mut Client) -> Event {
    timeout(PATIENCE, client.recv()).await.expect("an event")
}

/// Waits for what comes soon, but that nobody tells of.
async fn until(mut condition: impl FnMut() -> bool) {
    let come = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, come).await.expect("it comes");
}

#[tokio::test]
async fn connects_and_is_reachable_at_once() {
    let (relay, address) = relay();
    let alice = connect(&format!("rel://{address}"), "alice").await;
    assert_eq!(alice.instance_url(), "rels://relay.example.com:443");
    assert_eq!(alice.peer(), &id("alice"));
    assert!(relay.peers().contains(&id("alice")));
}

#[tokio::test]
async fn a_refused_token_is_a_refusal() {
    let (relay, address) = relay();
    let wrong = mint(&Secret::new("wrong"), NOW + 60);
    let expired = mint(&Secret::new("right"), NOW - 1);
    for token in [&wrong[..], &expired, b"", b"nonsense"] {
        let refused = Client::connect(&address, "/some/relay", id("mallory"), token).await;
        let error = refused.expect_err("the token is bad");
        assert!(matches!(error, ClientError::Refused), "{error:?}");
        assert!(error.is_temporary());
    }
    assert!(relay.peers().is_empty());
}

#[tokio::test]
async fn other_failures_are_told_apart() {
    let (_relay, address) = relay();
    let path = Client::connect(&address, "/relay", id("alice"), &token()).await;
    let path = path.expect_err("there is no such route");
    assert!(
        matches!(path, ClientError::Upgrade { status: 404 }),
        "{path:?}"
    );
    assert!(!path.is_temporary());

    let long = Client::connect(&address, "/some/relay", id("alice"), &[1; 171]).await;
    assert!(matches!(long, Err(ClientError::TooLong(_))));

    let tls = Client::connect("rels://example.com", "/relay", id("alice"), b"").await;
    assert!(matches!(tls, Err(ClientError::Tls(_))));

    // Bound and closed again: nothing listens there.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = free.local_addr().unwrap().to_string();
    drop(free);
    let nobody = Client::connect(&nobody, "/relay", id("alice"), b"").await;
    assert!(matches!(nobody, Err(ClientError::Connect(_))));
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_never_answers_is_given_up_after_ten_seconds() {
    let (ours, _silent) = tokio::io::duplex(4096);
    let start = tokio::time::Instant::now();
    let silent = Client::connect_over(ours, "example.com", "/relay", id("alice"), b"").await;
    assert!(matches!(silent, Err(ClientError::TimedOut)));
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_server_that_is_no_relay_is_not_taken_for_one() {
    let (ours, mut theirs) = tokio::io::duplex(4096);
    let server = tokio::spawn(async move {
        let mut request = [0; 1024];
        let _length = theirs.read(&mut request).await.unwrap();
        theirs
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
    });
    let page = Client::connect_over(ours, "example.com", "/", id("alice"), b"").await;
    assert!(matches!(page, Err(ClientError::Upgrade { status: 200 })));
    server.await.unwrap();
}

#[tokio::test]
async fn messages_arrive_whole_in_order_and_with_their_sender() {
    let (_relay, address) = relay();
    let mut alice = connect(&address, "alice").await;
    let mut bob = connect(&address, "bob").await;
    let payloads: Vec<Vec<u8>> = [0, 1, 1280, 8782]
        .into_iter()
        .map(|length| (0..length).map(|at| (at % 251) as u8).collect())
        .collect();
    for payload in &payloads {
        alice.send(&id("bob"), payload).await.unwrap();
    }
    for payload in &payloads {
        let expected = Event::Message {
            from: id("alice"),
            payload: Bytes::copy_from_slice(payload),
        };
        assert_eq!(next(&mut bob).await, expected);
    }
    // Another task sends while this one listens.
    let sender = bob.sender();
    let task = tokio::spawn(async move { sender.send(&id("alice"), b"back").await });
    assert_eq!(
        next(&mut alice).await,
        Event::Message {
            from: id("bob"),
            payload: Bytes::from_static(b"back")
        }
    );
    task.await.unwrap().unwrap();
    let long = alice.send(&id("bob"), &[0; 8783]).await;
    assert!(matches!(long, Err(ClientError::TooLong(_))));
}

#[tokio::test]
async fn presence_is_told_until_unsubscribed() {
    let (relay, address) = relay();
    let mut alice = connect(&address, "alice").await;
    alice.subscribe(&[id("bob"), id("carol")]).await.unwrap();
    let bob = connect(&address, "bob").await;
    assert_eq!(next(&mut alice).await, Event::Online(vec![id("bob")]));
    bob.close().await;
    assert_eq!(next(&mut alice).await, Event::Offline(vec![id("bob")]));

    alice.unsubscribe(&[id("bob")]).await.unwrap();
    let unsubscribed = || relay.counters().received_count(MessageType::Unsubscribe) == 1;
    until(unsubscribed).await;
    let _bob = connect(&address, "bob").await;
    let _carol = connect(&address, "carol").await;
    assert_eq!(next(&mut alice).await, Event::Online(vec![id("carol")]));
}

#[tokio::test]
async fn long_lists_of_peers_are_split_both_ways() {
    let (relay, address) = relay();
    let mut alice = connect(&address, "alice").await;
    let mut ids: Vec<PeerId> = (0..600).map(|n| id(&format!("peer {n}"))).collect();
    let (first, last) = (
        connect(&address, "peer 0").await,
        connect(&address, "peer 599").await,
    );
    alice.subscribe(&ids).await.unwrap();
    assert_eq!(next(&mut alice).await, Event::Online(vec![id("peer 0")]));
    assert_eq!(next(&mut alice).await, Event::Online(vec![id("peer 599")]));
    // 600 = 244 + 244 + 112.
    let received = relay.counters().received_count(MessageType::Subscribe);
    assert_eq!(received, 3);
    drop((first, last));

    // Answered at once, in as many messages as it takes.
    let mut bob = connect(&address, "bob").await;
    let mut online = Vec::new();
    ids.truncate(250);
    for peer in &ids {
        online.push(
            Client::connect(&address, "/some/relay", *peer, &token())
                .await
                .unwrap(),
        );
    }
    bob.subscribe(&ids).await.unwrap();
    let mut told = Vec::new();
    while told.len() < ids.len() {
        let Event::Online(some) = next(&mut bob).await else {
            panic!("not a list of those online");
        };
        assert!(some.len() <= 244);
        told.extend(some);
    }
    told.sort();
    ids.sort();
    assert_eq!(told, ids);
}

#[tokio::test]
async fn a_takeover_ends_the_older_client() {
    let (relay, address) = relay();
    let mut old = connect(&address, "alice").await;
    let mut new = connect(&address, "alice").await;
    assert_eq!(next(&mut old).await, Event::Closed(CloseReason::Lost));
    assert_eq!(next(&mut old).await, Event::Closed(CloseReason::Lost));
    assert!(matches!(
        old.send(&id("bob"), b"").await,
        Err(ClientError::Closed)
    ));
    assert!(relay.peers().contains(&id("alice")));
    let bob = connect(&address, "bob").await;
    bob.send(&id("alice"), b"to the newer").await.unwrap();
    assert!(matches!(next(&mut new).await, Event::Message { .. }));
}

#[tokio::test]
async fn a_shutdown_of_the_relay_is_told() {
    let (relay, address) = relay();
    let mut alice = connect(&address, "alice").await;
    assert_eq!(relay.shutdown().await, 0);
    assert_eq!(next(&mut alice).await, Event::Closed(CloseReason::ByRelay));
}

#[tokio::test]
async fn close_writes_what_is_queued_and_drop_ends_the_connection() {
    let (relay, address) = relay();
    let mut bob = connect(&address, "bob").await;
    let alice = connect(&address, "alice").await;
    for n in 0..100_u8 {
        alice.send(&id("bob"), &[n]).await.unwrap();
    }
    alice.close().await;
    assert!(!relay.peers().contains(&id("alice")));
    for n in 0..100_u8 {
        let Event::Message { payload, .. } = next(&mut bob).await else {
            panic!("message {n} is missing");
        };
        assert_eq!(payload[..], [n]);
    }
    let sender = bob.sender();
    drop(bob);
    until(|| relay.peers().is_empty()).await;
    assert!(matches!(
        sender.send(&id("bob"), b"").await,
        Err(ClientError::Closed)
    ));
}

/// A relay of a few lines, to see what the client answers.
#[tokio::test]
async fn health_checks_are_answered_without_anybody_listening() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;

    let (ours, theirs) = tokio::io::duplex(4096);
    let relay = tokio::spawn(async move {
        let mut socket = tokio_tungstenite::accept_async(theirs).await.unwrap();
        let auth = socket.next().await.unwrap().unwrap().into_data();
        assert_eq!(auth[..6], [1, 6, 0x21, 0x12, 0xA4, 0x42]);
        assert_eq!(auth[42..], *b"token");
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        socket.send(binary(b"\x01\x07rel://here")).await.unwrap();
        for _ in 0..3 {
            socket.send(binary(b"\x01\x05")).await.unwrap();
            let answer = socket.next().await.unwrap().unwrap();
            assert_eq!(answer, binary(b"\x01\x05"));
        }
        // A pong comes as well, and what is no message for a client ends it.
        socket.send(Message::Ping(Bytes::new())).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap().is_pong());
        socket.send(binary(b"\x01\x63")).await.unwrap();
        assert!(socket.next().await.is_none_or(|end| end.is_err()));
    });
    let mut client = Client::connect_over(ours, "here", "/relay", id("alice"), b"token")
        .await
        .unwrap();
    assert_eq!(client.instance_url(), "rel://here");
    timeout(PATIENCE, relay).await.unwrap().unwrap();
    assert_eq!(
        next(&mut client).await,
        Event::Closed(CloseReason::Violation)
    );
}
