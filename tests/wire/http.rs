//! What the listeners answer to HTTP (peer-protocol.md, *Handshake*; operations.md, *Metrics* and *Health*).

use crate::support::{
    Answer, RawClient, TestRelay, UPGRADE_REQUEST, close, peer, request, transport,
};

/// The stock clients' request with one line put in another's place.
fn with(line: &str, instead_of: &str) -> String {
    assert!(UPGRADE_REQUEST.contains(instead_of), "{instead_of}");
    UPGRADE_REQUEST.replace(instead_of, line)
}

fn with_header(header: &str) -> String {
    with(
        &format!("{header}\r\nUpgrade: websocket\r\n"),
        "Upgrade: websocket\r\n",
    )
}

async fn refused(relay: &TestRelay, request_text: &str) -> Answer {
    // Answered, and the connection is ended: otherwise this would wait in vain.
    request(relay.addr, request_text).await.expect("an answer")
}

#[tokio::test]
async fn what_is_no_upgrade_is_told_what_is_wrong_and_closed() {
    let relay = TestRelay::start();
    let plain = "GET /relay HTTP/1.1\r\nHost: relay\r\n\r\n";
    for (text, status) in [
        (plain.to_owned(), 426),
        (with("GET /relay HTTP/1.0", "GET /relay HTTP/1.1"), 426),
        (with("Upgrade: h2c", "Upgrade: websocket"), 426),
        (with("Connection: keep-alive", "Connection: Upgrade"), 426),
        (with("POST /relay", "GET /relay"), 405),
        (with("HEAD /relay", "GET /relay"), 405),
        (
            with("Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 13"),
            426,
        ),
        (with("X: y", "Sec-WebSocket-Version: 13"), 426),
        (
            with("X: y", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
            400,
        ),
        (with("Key: c2hvcnQ=", "Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
        (
            with(
                "Key: dGhlIHNhbXBsZSBub25jZQ",
                "Key: dGhlIHNhbXBsZSBub25jZQ==",
            ),
            400,
        ),
        (with("GET /other", "GET /relay"), 404),
        (with("GET /relay/", "GET /relay"), 404),
        (with("GET /", "GET /relay"), 404),
        (with("GET /metrics", "GET /relay"), 404),
    ] {
        let answer = refused(&relay, &text).await;
        let name = text.lines().next().unwrap_or_default();
        assert_eq!(answer.status, status, "{text}");
        assert!(answer.values("sec-websocket-accept").is_empty(), "{name}");
        match status {
            426 if text.contains("Version: 8") || text.contains("X: y") => {
                assert_eq!(answer.values("sec-websocket-version"), ["13"], "{text}");
            }
            405 => assert_eq!(answer.values("allow"), ["GET"]),
            _ => {}
        }
    }
    assert_eq!(relay.relay.peers().len(), 0);
}

#[tokio::test]
async fn the_upgrade_is_answered_with_what_stock_clients_check_and_no_more() {
    let relay = TestRelay::start();
    let extensions = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";
    for text in [
        UPGRADE_REQUEST.to_owned(),
        // What a browser and a proxy make of it.
        with("Connection: keep-alive, upgrade", "Connection: Upgrade"),
        with("Upgrade: WebSocket", "Upgrade: websocket"),
        with("GET /relay?x=y", "GET /relay"),
        with_header("Origin: https://somewhere.else.example"),
        with_header(extensions),
        with_header("Sec-WebSocket-Protocol: relay, chat"),
        with_header(&format!("X-Long: {}", "a".repeat(8000))),
    ] {
        let mut client = RawClient::tcp(relay.addr).await;
        client.write(text.as_bytes()).await;
        let answer = client.expect_upgrade().await;
        assert_eq!(answer.values("connection"), ["Upgrade"], "{text}");
        assert_eq!(answer.values("upgrade"), ["websocket"], "{text}");
        for none in [
            "sec-websocket-extensions",
            "sec-websocket-protocol",
            "content-length",
            "transfer-encoding",
        ] {
            assert!(answer.values(none).is_empty(), "{none}: {text}");
        }
        client.authenticate("x").await;
        client.send(&close()).await;
        client.ends_silently().await;
    }
}

#[tokio::test]
async fn a_request_that_never_ends_is_refused() {
    let relay = TestRelay::start();
    let long = with_header(&format!("X-Long: {}", "a".repeat(100_000)));
    let answer = request(relay.addr, &long).await;
    assert!(
        answer.as_ref().is_none_or(|answer| answer.status == 431),
        "{answer:?}"
    );
    for nonsense in [
        "\x16\x03\x01\x02\0\x01\0",
        "nonsense\r\n\r\n",
        "GET  /relay\r\n\r\n",
    ] {
        let mut client = RawClient::tcp(relay.addr).await;
        client.write(nonsense.as_bytes()).await;
        client.finish().await;
        let answer = client.http_head().await;
        assert!(
            answer.as_ref().is_none_or(|answer| answer.status == 400),
            "{answer:?}"
        );
    }
    RawClient::connected(&relay, "x").await;
}

#[tokio::test]
async fn the_relay_is_where_it_was_put() {
    let relay = TestRelay::with(|builder| builder.path("/left/by/the/ingress"));
    assert_eq!(refused(&relay, UPGRADE_REQUEST).await.status, 404);
    let mut client = RawClient::tcp(relay.addr).await;
    let text = with("GET /left/by/the/ingress", "GET /relay");
    client.write(text.as_bytes()).await;
    client.expect_upgrade().await;
    client.authenticate("x").await;
}

#[tokio::test]
async fn health_is_told_to_probes() {
    let relay = TestRelay::start();
    let get = async |path: &str| {
        let text = format!("GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n");
        request(relay.health, text).await.unwrap()
    };
    // Bound is not yet serving: the first answer is the moment from which it is.
    assert_eq!(get("/healthz").await.status, 200);
    assert_eq!(get("/readyz").await.status, 200);
    assert_eq!(get("/relay").await.status, 404);
    let answer = get("/health").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.values("content-type"), ["application/json"]);
    let health: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["listeners"], serde_json::json!(["ws"]));
    let timestamp = health["timestamp"].as_str().unwrap();
    let format = |template: &str| {
        timestamp.len() == template.len()
            && timestamp
                .bytes()
                .zip(template.bytes())
                .all(|(is, like)| match like {
                    b'0' => is.is_ascii_digit(),
                    other => is == other,
                })
    };
    assert!(format("0000-00-00T00:00:00Z"), "{timestamp}");
    assert!(
        health
            .as_object()
            .unwrap()
            .contains_key("certificate_valid")
    );
}

#[tokio::test]
async fn metrics_have_the_names_that_dashboards_ask_for() {
    let relay = TestRelay::start();
    let mut client = RawClient::connected(&relay, "x").await;
    // One of everything, as a counter shows only when it has counted.
    client.send(&transport(&peer("nobody"), b"lost")).await;
    client.sync(&peer("x")).await;
    let mut again = RawClient::connected(&relay, "x").await;
    again.sync(&peer("x")).await;
    let mut refused = RawClient::upgraded(&relay).await;
    refused.send(&crate::support::auth_message("y")[..60]).await;
    refused.ends_silently().await;

    let metrics = relay.read_metrics().await;
    for (name, labels) in [
        ("relay_peers", &["transport"][..]),
        ("relay_peers_active", &[]),
        ("relay_peers_idle", &[]),
        ("relay_transfer_sent_bytes_total", &[]),
        ("relay_transfer_received_bytes_total", &[]),
        ("relay_peer_reconnections_total", &[]),
        (
            "relay_peer_authentication_time_milliseconds_bucket",
            &["le"],
        ),
        ("relay_peer_authentication_time_milliseconds_sum", &[]),
        ("relay_peer_authentication_time_milliseconds_count", &[]),
        ("relay_peer_store_time_milliseconds_bucket", &["le"]),
        ("relay_transport_queue_drops_total", &["reason"]),
        ("relay_messages_dropped_total", &["reason"]),
        ("relay_messages_total", &["type", "direction"]),
        ("relay_authentication_failures_total", &["reason"]),
        ("relay_takeovers_total", &["scope"]),
        ("relay_queue_bytes", &[]),
        ("relay_queue_budget_bytes", &[]),
        ("relay_build_info", &["version"]),
    ] {
        assert!(metrics.has(name, labels), "{name}{labels:?}");
    }
    let bounds = [
        "0.1", "0.5", "1", "5", "10", "50", "100", "500", "1000", "5000", "10000", "+Inf",
    ];
    for name in [
        "relay_peer_authentication_time_milliseconds_bucket",
        "relay_peer_store_time_milliseconds_bucket",
    ] {
        let mut found = metrics.label_values(name, "le");
        found.sort_by(|a, b| a.parse::<f64>().unwrap().total_cmp(&b.parse().unwrap()));
        assert_eq!(found, bounds, "{name}");
    }
    let count = |name| metrics.sum(name, &[]);
    // 38 + 4 to nobody, and twice a mark of 6 to itself.
    assert_eq!(count("relay_transfer_received_bytes_total"), 42 + 2 * 44);
    assert_eq!(count("relay_transfer_sent_bytes_total"), 2 * 44);
    assert_eq!(
        count("relay_peer_authentication_time_milliseconds_count"),
        2
    );
    assert_eq!(count("relay_peer_store_time_milliseconds_count"), 2);
    assert_eq!(count("relay_build_info"), 1);
    assert_eq!(
        metrics.label_values("relay_build_info", "version"),
        [env!("CARGO_PKG_VERSION")]
    );
    let lost = [("reason", "no_such_peer")];
    assert_eq!(metrics.sum("relay_messages_dropped_total", &lost), 1);
}
