//! Requests that two readers could take for different ones (RFC 9112, section 11.2), and heads that are too large.
//!
//! The relay is never one of two readers: it answers one request on a connection, and what is not upgraded is closed.

use std::time::Duration;

use crate::support::{
    FrozenClock, RawClient, TestRelay, UPGRADE_REQUEST, auth_message, binary, peer, transport,
};

/// What comes behind the request: what a peer would say, so that it would show if anything took it.
fn smuggled() -> Vec<u8> {
    let mut bytes = binary(&auth_message("smuggler"));
    bytes.extend(binary(&transport(&peer("victim"), b"smuggled")));
    bytes
}

fn with(line: &str) -> String {
    UPGRADE_REQUEST.replace("User-Agent:", &format!("{line}\r\nUser-Agent:"))
}

/// All bytes that the relay says to this, to the end of the connection.
async fn said_to(relay: &TestRelay, request: &[u8]) -> String {
    let mut client = RawClient::tcp(relay.addr).await;
    client.try_write(request).await;
    client.try_write(&smuggled()).await;
    client.finish().await;
    String::from_utf8_lossy(&client.rest().await).into_owned()
}

async fn refused(relay: &TestRelay, reason: &str) -> u64 {
    let metrics = relay.read_metrics().await;
    metrics.sum("relay_handshake_refusals_total", &[("reason", reason)])
}

#[tokio::test]
async fn what_two_could_read_differently_gets_one_refusal_and_the_end() {
    let relay = TestRelay::start();
    let mut victim = RawClient::connected(&relay, "victim").await;
    let cases: Vec<(&str, String, &str, &str)> = vec![
        (
            "CL and TE",
            with("Content-Length: 4\r\nTransfer-Encoding: chunked"),
            "400",
            "http_body",
        ),
        (
            "TE and CL",
            with("Transfer-Encoding: chunked\r\nContent-Length: 4"),
            "400",
            "http_body",
        ),
        (
            "two lengths",
            with("Content-Length: 4\r\nContent-Length: 5"),
            "400",
            "http_malformed",
        ),
        (
            "a list of lengths",
            with("Content-Length: 4, 5"),
            "400",
            "http_malformed",
        ),
        (
            "a signed length",
            with("Content-Length: +4"),
            "400",
            "http_malformed",
        ),
        (
            "a length beyond all numbers",
            with("Content-Length: 99999999999999999999999"),
            "400",
            "http_malformed",
        ),
        (
            "a body on GET",
            with("Content-Length: 4"),
            "400",
            "http_body",
        ),
        (
            "chunks on GET",
            with("Transfer-Encoding: chunked"),
            "400",
            "http_body",
        ),
        (
            "chunked, but not at the end",
            with("Transfer-Encoding: chunked, identity"),
            "400",
            "http_malformed",
        ),
        (
            "a folded line",
            with("X-Folded: a\r\n Transfer-Encoding: chunked"),
            "400",
            "http_malformed",
        ),
        (
            "space before the colon",
            with("Transfer-Encoding : chunked"),
            "400",
            "http_malformed",
        ),
        ("NUL in a value", with("X: a\0b"), "400", "http_malformed"),
        ("bare CR", with("X: a\rHost: b"), "400", "http_malformed"),
        ("two hosts", with("Host: other"), "400", "http_host"),
        (
            "no host",
            UPGRADE_REQUEST.replace("Host: relay.example.com\r\n", ""),
            "400",
            "http_host",
        ),
        (
            "no version",
            UPGRADE_REQUEST.replace(" HTTP/1.1", ""),
            "400",
            "http_malformed",
        ),
        (
            "another version",
            UPGRADE_REQUEST.replace(" HTTP/1.1", " HTTP/1.9"),
            "400",
            "http_malformed",
        ),
        (
            "a space in the target",
            UPGRADE_REQUEST.replace("GET /relay", "GET /relay x"),
            "400",
            "http_malformed",
        ),
        (
            "a head of 20 KiB",
            with(&format!("X: {}", "x".repeat(20 * 1024))),
            "431",
            "http_head_too_large",
        ),
        (
            "a thousand headers",
            with("A: b\r\n".repeat(1000).trim_end()),
            "431",
            "http_head_too_large",
        ),
        (
            "a target of 70 KiB",
            UPGRADE_REQUEST.replace("/relay", &format!("/{}", "x".repeat(70 * 1024))),
            "4",
            "http_",
        ),
    ];
    for (name, request, status, reason) in &cases {
        let before = refused(&relay, reason).await;
        let said = said_to(&relay, request.as_bytes()).await;
        assert!(
            said.starts_with(&format!("HTTP/1.1 {status}")) || said.is_empty(),
            "{name}: {said}"
        );
        assert_eq!(
            said.matches("HTTP/1.1").count(),
            usize::from(!said.is_empty()),
            "{name}: {said}"
        );
        if *reason != "http_" {
            assert!(!said.is_empty(), "{name}: an answer");
            assert_eq!(
                refused(&relay, reason).await,
                before + 1,
                "{name}: {reason}"
            );
        }
    }
    assert!(!relay.relay.peers().contains(&peer("smuggler")));
    assert!(victim.sync(&peer("victim")).await.is_empty());
    assert_eq!(relay.relay.admission().open(), 1, "the victim's place");
}

/// What hyper may read as a line's end, or may not: in either case there is one reader and one answer.
#[tokio::test]
async fn bare_line_feeds_hide_no_second_request() {
    let relay = TestRelay::start();
    let mut victim = RawClient::connected(&relay, "victim").await;
    let hidden = "GET /relay HTTP/1.1\r\nHost: b\r\nX: y\nGET /relay HTTP/1.1\nHost: c\r\n\r\n";
    let request = format!("{hidden}{UPGRADE_REQUEST}");
    let said = said_to(&relay, request.as_bytes()).await;
    assert_eq!(said.matches("HTTP/1.1").count(), 1, "{said}");
    assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    assert!(!relay.relay.peers().contains(&peer("smuggler")));
    assert!(victim.sync(&peer("victim")).await.is_empty());
}

#[tokio::test]
async fn behind_a_refused_request_and_behind_an_upgrade_no_request_is_read() {
    let relay = TestRelay::start();
    let mut victim = RawClient::connected(&relay, "victim").await;
    // Behind a refusal: nobody reads on.
    let first = "GET /relay HTTP/1.1\r\nHost: a\r\n\r\n";
    let said = said_to(&relay, format!("{first}{UPGRADE_REQUEST}").as_bytes()).await;
    assert_eq!(said.matches("HTTP/1.1").count(), 1, "{said}");
    assert!(said.starts_with("HTTP/1.1 426"), "{said}");
    // Behind an upgrade: it is a frame, and a wrong one.
    let said = said_to(
        &relay,
        format!("{UPGRADE_REQUEST}{UPGRADE_REQUEST}").as_bytes(),
    )
    .await;
    assert_eq!(said.matches("HTTP/1.1").count(), 1, "{said}");
    assert!(said.starts_with("HTTP/1.1 101"), "{said}");
    assert!(!relay.relay.peers().contains(&peer("smuggler")));
    assert!(victim.sync(&peer("victim")).await.is_empty());
}

#[tokio::test]
async fn a_probe_is_answered_while_somebody_holds_all_connections_of_the_health_listener() {
    let relay = TestRelay::start();
    for listener in [relay.health, relay.metrics] {
        let mut held = Vec::new();
        for _ in 0..300 {
            let mut client = RawClient::tcp(listener).await;
            client.write(b"GET /heal").await;
            held.push(client);
        }
        let mut probe = RawClient::tcp(listener).await;
        probe
            .write(b"GET /none HTTP/1.1\r\nHost: pod\r\n\r\n")
            .await;
        assert_eq!(probe.http_head().await.expect("an answer").status, 404);
        // The oldest made room for the newest.
        held.remove(0).ends_silently().await;
    }
    assert_eq!(
        relay.relay.admission().open(),
        0,
        "peers' places are not touched"
    );
}

#[tokio::test]
async fn half_a_head_ends_with_the_time_for_it_on_the_health_listener() {
    let relay = TestRelay::start();
    let clock = FrozenClock::freeze();
    let mut half = RawClient::tcp(relay.health).await;
    half.write(b"GET /healthz HTTP/1.1\r\nHost: pod\r\n").await;
    let mut idle = RawClient::tcp(relay.health).await;
    idle.write(b"GET /healthz HTTP/1.1\r\nHost: pod\r\n\r\n")
        .await;
    assert_eq!(idle.http_head().await.expect("an answer").status, 200);
    for _ in 0..7 {
        clock.advance(Duration::from_secs(10)).await;
        half.try_write(b"X: y\r\n").await;
    }
    // Whatever hyper says to it, it is the end.
    half.rest().await;
    idle.rest().await;
}
