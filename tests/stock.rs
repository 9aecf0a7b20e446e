//! The double of a stock pod behaves as the recorded bytes and the specification say, faults included: what it proves of our pods is
//! worth as much as its likeness.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use support::stock_pod::{Sent, StockPod, hello, verdict};
use support::{NOW, peer, until};
use tokio::time::Instant;

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn pod() -> StockPod {
    StockPod::start(any(), "cluster-secret", NOW).await
}

/// Two pods with one stream.
async fn pair() -> (StockPod, StockPod) {
    let (one, two) = (pod().await, pod().await);
    assert!(one.dial(two.addr()).await);
    until("a stream", || two.streams() == [one.addr().to_string()]).await;
    (one, two)
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn its_hello_is_the_recorded_one_and_its_verdicts_are_the_recorded_ones() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/cluster-hello.json")).unwrap();
    let now = vectors["now_unix"].as_u64().unwrap();
    for case in vectors["cases"].as_array().unwrap() {
        let secret = case["receiver_secret"].as_str().unwrap();
        let payload = bytes(&case["payload_hex"]);
        let accepted = verdict(&payload, now, secret);
        let expected = (case["verdict"] == "accept").then(|| bytes(&case["address_hex"]));
        assert_eq!(accepted, expected, "{}", case["case"]);
        if case["case"] == "signed, same secret"
            || case["case"] == "unsigned, receiver has no secret"
        {
            assert_eq!(hello("10.0.0.1:7090", now, secret), payload);
        }
    }
}

#[tokio::test]
async fn a_message_crosses_after_a_lookup_of_200_ms_and_then_at_once() {
    let (one, two) = pair().await;
    let alice = one.attach("alice");
    let mut bob = two.attach("bob");
    let start = Instant::now();
    for text in ["first", "second"] {
        let sent = one.send(&alice.id, &bob.id, text.as_bytes()).await;
        assert_eq!(sent, Sent::To(two.addr().to_string()));
        assert_eq!(bob.recv().await, (alice.id, text.as_bytes().to_vec()));
    }
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(two.seen(1).len(), 1, "one question");
    assert_eq!(
        one.send(&alice.id, &peer("nobody"), b"x").await,
        Sent::Nowhere
    );
}

#[tokio::test]
async fn a_peer_that_moves_is_lost_to_those_who_knew_it() {
    let (one, two) = pair().await;
    let three = pod().await;
    assert!(one.dial(three.addr()).await);
    until("a stream", || three.streams().len() == 1).await;
    let alice = one.attach("alice");
    let mut bob = two.attach("bob");
    let to_two = Sent::To(two.addr().to_string());
    assert_eq!(one.send(&alice.id, &bob.id, b"x").await, to_two);
    bob.recv().await;
    two.detach(&bob.id);
    let moved = three.attach("bob");
    assert_eq!(one.send(&alice.id, &bob.id, b"y").await, to_two);
    until("the message", || two.seen(0x14).len() == 2).await;
    assert_eq!((bob.waiting(), moved.waiting()), (0, 0));
}

#[tokio::test]
async fn two_that_dial_each_other_at_once_lose_both_streams() {
    let (one, two) = (pod().await, pod().await);
    StockPod::dial_each_other(&one, &two).await;
    assert_eq!((one.streams().len(), two.streams().len()), (1, 1));
    until("both are gone", || {
        one.streams().is_empty() && two.streams().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_pod_with_another_secret_gets_nothing() {
    let one = pod().await;
    let other = StockPod::start(any(), "another", NOW).await;
    assert!(other.dial(one.addr()).await);
    until("the stream is closed", || other.streams().is_empty()).await;
    assert!(one.streams().is_empty());
}
