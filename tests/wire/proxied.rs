//! Behind a proxy that tells who its client is: headers and the PROXY protocol (peer-protocol.md, *Behind a proxy*).

use std::time::Duration;

use trunkline::proxies::ProxyProtocol;

use crate::support::{FrozenClock, RawClient, TestRelay, UPGRADE_REQUEST, peer, until};

/// A relay that trusts these proxies.
fn trusting(proxies: &str, protocol: ProxyProtocol) -> TestRelay {
    TestRelay::served(
        |relay| relay.trusted_proxies(proxies.parse().unwrap()),
        |server| server.proxy_protocol(protocol),
    )
}

/// Connects with `before` in front of the request and `headers` in it; where the relay sees this peer, once it is connected.
async fn seen(relay: &TestRelay, before: &[u8], headers: &str) -> String {
    let mut client = RawClient::tcp(relay.addr).await;
    client.write(before).await;
    let (head, end) = UPGRADE_REQUEST.split_at(UPGRADE_REQUEST.len() - 2);
    client
        .write(format!("{head}{headers}{end}").as_bytes())
        .await;
    client.expect_upgrade().await;
    client.authenticate("x").await;
    let connected = relay.relay.peers().get(&peer("x")).unwrap();
    connected.remote().to_string()
}

const REAL: &str = "X-Real-Ip: 192.0.2.1\r\nX-Real-Port: 4000\r\n";
const V1: &[u8] = b"PROXY TCP4 192.0.2.2 10.0.0.1 4002 443\r\n";

#[tokio::test]
async fn headers_count_from_a_trusted_proxy_alone() {
    let believing = trusting("127.0.0.0/8", ProxyProtocol::Off);
    assert_eq!(seen(&believing, b"", REAL).await, "192.0.2.1:4000");
    let forwarded = "X-Forwarded-For: 198.51.100.1, 192.0.2.3\r\n";
    assert_eq!(seen(&believing, b"", forwarded).await, "192.0.2.3");
    let both = format!("{forwarded}Forwarded: for=\"[2001:db8::1]:5\"\r\n");
    assert_eq!(seen(&believing, b"", &both).await, "[2001:db8::1]:5");
    assert!(seen(&believing, b"", "").await.starts_with("127.0.0.1:"));

    for proxies in ["10.0.0.0/8", "127.0.0.2"] {
        let wary = trusting(proxies, ProxyProtocol::Off);
        for headers in [REAL, forwarded, &both] {
            let remote = seen(&wary, b"", headers).await;
            assert!(remote.starts_with("127.0.0.1:"), "{remote}");
        }
    }
}

#[tokio::test]
async fn a_proxy_header_counts_and_headers_of_the_proxy_before_it() {
    for protocol in [ProxyProtocol::Optional, ProxyProtocol::Required] {
        let relay = trusting("127.0.0.0/8", protocol);
        assert_eq!(seen(&relay, V1, "").await, "192.0.2.2:4002");
        // The client of the proxy is nobody whose headers are believed.
        assert_eq!(seen(&relay, V1, REAL).await, "192.0.2.2:4002");
        // A trusted proxy behind a trusted load balancer is.
        let balanced = b"PROXY TCP4 127.0.0.9 127.0.0.1 4002 443\r\n";
        assert_eq!(seen(&relay, balanced, REAL).await, "192.0.2.1:4000");
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        assert!(seen(&relay, local, "").await.starts_with("127.0.0.1:"));
    }
    let relay = trusting("127.0.0.0/8", ProxyProtocol::Optional);
    assert!(seen(&relay, b"", "").await.starts_with("127.0.0.1:"));
    assert_eq!(seen(&relay, b"", REAL).await, "192.0.2.1:4000");
}

/// Not one byte is answered, and the reason is counted.
async fn refused(relay: &TestRelay, bytes: &[u8], reason: &str) {
    let mut client = RawClient::tcp(relay.addr).await;
    client.write(bytes).await;
    client.ends_silently().await;
    let metrics = relay.read_metrics().await;
    let count = metrics.sum("relay_handshake_refusals_total", &[("reason", reason)]);
    assert_eq!(count, 1, "{reason}");
}

#[tokio::test]
async fn whoever_brings_no_header_where_one_is_required_is_refused() {
    let relay = trusting("127.0.0.0/8", ProxyProtocol::Required);
    let metrics = relay.read_metrics().await;
    let reasons = metrics.label_values("relay_handshake_refusals_total", "reason");
    assert!(reasons.contains(&"proxy_untrusted"), "{metrics:?}");
    refused(&relay, UPGRADE_REQUEST.as_bytes(), "proxy_header_missing").await;
    refused(
        &relay,
        b"PROXY TCP5 x\r\n\r\n\r\n",
        "proxy_header_malformed",
    )
    .await;
    let long = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".as_slice(), &[0; 99]].concat();
    refused(&relay, &long, "proxy_header_too_long").await;
    let strange = trusting("10.0.0.0/8", ProxyProtocol::Required);
    refused(&strange, V1, "proxy_untrusted").await;
}

/// From a stranger a PROXY header is what it is to any HTTP server: no request.
#[tokio::test]
async fn a_strangers_header_is_not_looked_for() {
    for (proxies, protocol) in [
        ("10.0.0.0/8", ProxyProtocol::Optional),
        ("127.0.0.0/8", ProxyProtocol::Off),
    ] {
        let relay = trusting(proxies, protocol);
        let mut client = RawClient::tcp(relay.addr).await;
        client.write(V1).await;
        client.write(UPGRADE_REQUEST.as_bytes()).await;
        assert_eq!(client.http_head().await.unwrap().status, 400);
    }
}

#[tokio::test]
async fn a_header_that_does_not_end_is_given_up_in_time() {
    let relay = trusting("127.0.0.0/8", ProxyProtocol::Required);
    let clock = FrozenClock::freeze();
    let mut client = RawClient::tcp(relay.addr).await;
    client.write(b"PROXY TCP4 192.0.2.1").await;
    // The relay has to have begun before its time passes.
    until("the relay has taken it", || {
        relay.relay.admission().open() == 1
    })
    .await;
    clock.advance(Duration::ZERO).await;
    clock.advance(Duration::from_secs(11)).await;
    client.ends_silently().await;
    let metrics = relay.read_metrics().await;
    assert_eq!(
        metrics.sum("relay_handshake_timeouts_total", &[("stage", "proxy")]),
        1
    );
}

/// The limits of an address are those of the client, and not those of the proxy that all of them come through.
#[tokio::test]
async fn limits_count_clients_and_not_their_proxy() {
    let relay = TestRelay::served(
        |relay| {
            relay
                .trusted_proxies("127.0.0.0/8".parse().unwrap())
                .max_connections_per_address(1)
        },
        |server| server.proxy_protocol(ProxyProtocol::Optional),
    );
    let connect = async |before: &str, header: &str| {
        let mut client = RawClient::tcp(relay.addr).await;
        client.write(before.as_bytes()).await;
        let (head, end) = UPGRADE_REQUEST.split_at(UPGRADE_REQUEST.len() - 2);
        client
            .write(format!("{head}{header}{end}").as_bytes())
            .await;
        let status = client.http_head().await.map(|answer| answer.status);
        (client, status)
    };
    let one = connect("", "X-Forwarded-For: 192.0.2.1\r\n").await;
    let other = connect("", "X-Forwarded-For: 192.0.2.2\r\n").await;
    assert_eq!((one.1, other.1), (Some(101), Some(101)));
    let again = connect("", "Forwarded: for=192.0.2.1\r\n").await;
    assert_eq!(again.1, Some(429));
    // With a PROXY header it is known before anything is answered.
    let header = "PROXY TCP4 192.0.2.2 127.0.0.1 1 2\r\n";
    assert_eq!(connect(header, "").await.1, None);
}
