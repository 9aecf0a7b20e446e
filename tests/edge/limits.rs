//! Limits on connections and handshakes, in all and for each address.

use std::net::SocketAddr;

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use trunkline::Relay;
use trunkline::auth::AllowAll;
use trunkline::client::{Client, Event};
use trunkline::tls::AnyCertificate;

use crate::slow::{HALF_HELLO, with_tls};
use crate::support::{
    FrozenClock, RawClient, TestRelay, UPGRADE_REQUEST, peer, request, token, until,
};

async fn refused(relay: &TestRelay, reason: &str) -> u64 {
    let metrics = relay.read_metrics().await;
    metrics.sum("relay_handshake_refusals_total", &[("reason", reason)])
}

#[tokio::test]
async fn a_full_relay_ends_further_connections_and_keeps_its_peers() {
    let relay = TestRelay::with(|builder| builder.max_connections(3));
    let mut one = RawClient::connected(&relay, "one").await;
    let two = RawClient::connected(&relay, "two").await;
    // A connection that says nothing holds a place, too.
    let silent = RawClient::tcp(relay.addr).await;
    until("three hold a place", || relay.relay.admission().open() == 3).await;
    RawClient::tcp(relay.addr).await.ends_silently().await;
    assert_eq!(refused(&relay, "max_connections").await, 1);
    assert_eq!(relay.read_metrics().await.sum("relay_connections", &[]), 3);
    assert!(
        one.sync(&peer("one")).await.is_empty(),
        "peers are untouched"
    );
    drop(silent);
    until("the place is free", || relay.relay.admission().open() == 2).await;
    drop(two);
    until("a peer's is, too", || relay.relay.admission().open() == 1).await;
    RawClient::connected(&relay, "three").await;
    assert_eq!(refused(&relay, "max_connections").await, 1);
}

/// A connection from this address of the loopback network.
async fn tcp_from(address: [u8; 4], relay: &TestRelay) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((address, 0))).unwrap();
    socket.connect(relay.addr).await.unwrap()
}

async fn from(address: [u8; 4], relay: &TestRelay) -> RawClient {
    RawClient::over(tcp_from(address, relay).await)
}

/// A peer from this address, whatever the relay speaks.
async fn peer_from(address: [u8; 4], relay: &TestRelay, name: &str, tls: bool) -> Client {
    let tcp = tcp_from(address, relay).await;
    let (host, route) = ("relay.example.com", "/relay");
    if !tls {
        let connected = Client::connect_over(tcp, host, route, peer(name), &token()).await;
        return connected.unwrap();
    }
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(
            rustls::crypto::aws_lc_rs::default_provider().into(),
        )))
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name_of_server = ServerName::try_from(host).unwrap();
    let stream = connector.connect(name_of_server, tcp).await.unwrap();
    let connected = Client::connect_over(stream, host, route, peer(name), &token()).await;
    connected.unwrap()
}

/// One address begins more handshakes than its share (64 of 128), finishes none, and takes nobody's place.
async fn share(relay: &TestRelay, begun: &[u8], tls: bool) {
    const SHARE: usize = 64;
    let admission = relay.relay.admission();
    let clock = FrozenClock::freeze();
    let mut established = peer_from([127, 0, 0, 3], relay, "established", tls).await;
    until("it is no handshake any more", || {
        admission.handshakes() == 0
    })
    .await;
    // Who says nothing takes no place at all.
    let mut silent = Vec::new();
    for _ in 0..2 * SHARE {
        silent.push(from([127, 0, 0, 2], relay).await);
    }
    until("all are connected", || admission.open() == 1 + silent.len()).await;
    assert_eq!(admission.handshakes(), 0);
    let mut strangers = Vec::new();
    for _ in 0..SHARE + 20 {
        let mut stranger = from([127, 0, 0, 2], relay).await;
        stranger.write(begun).await;
        strangers.push(stranger);
    }
    until("the share is full", || admission.handshakes() == SHARE).await;
    until("the others wait", || admission.handshakes_waiting() == 20).await;
    assert_eq!(admission.handshakes(), SHARE);
    // Others connect, and a peer of that address does when one of its handshakes is done.
    let other = peer_from([127, 0, 0, 4], relay, "other", tls).await;
    let receiver = *established.peer();
    other.send(&receiver, b"undisturbed").await.unwrap();
    let Event::Message { payload, .. } = established.recv().await else {
        panic!("no message");
    };
    assert_eq!(&payload[..], b"undisturbed");
    let (late, ()) = tokio::join!(peer_from([127, 0, 0, 2], relay, "late", tls), async {
        // Those that began and those that wait before it.
        strangers.clear();
    });
    until("their places are free", || admission.handshakes() == 0).await;
    // Who waits for its turn in vain has as much time as all, and is counted.
    silent.clear();
    until("the silent ones are gone", || admission.open() == 3).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(from([127, 0, 0, 2], relay).await);
    }
    until("they are connected", || admission.open() == 6).await;
    clock.advance(Duration::from_secs(1)).await;
    for _ in 0..SHARE {
        let mut stranger = from([127, 0, 0, 2], relay).await;
        stranger.write(begun).await;
        strangers.push(stranger);
    }
    until("the share is full again", || {
        admission.handshakes() == SHARE
    })
    .await;
    for waits in &mut waiting {
        waits.write(begun).await;
    }
    until("three wait", || admission.handshakes_waiting() == 3).await;
    clock.advance(Duration::from_millis(9100)).await;
    until("they are gone", || admission.open() == 3 + SHARE).await;
    assert_eq!(refused(relay, "handshakes_per_address").await, 3);
    assert_eq!(refused(relay, "overloaded").await, 0);
    clock.advance(Duration::from_secs(1)).await;
    until("all are gone", || admission.open() == 3).await;
    drop((established, other, late));
}

#[tokio::test]
async fn one_address_cannot_take_the_handshakes_of_others() {
    let relay = TestRelay::with(|builder| builder.max_handshakes(128));
    share(&relay, &UPGRADE_REQUEST.as_bytes()[..80], false).await;
}

#[tokio::test]
async fn nor_those_of_tls() {
    let relay = with_tls("share", |builder| builder.max_handshakes(128));
    share(&relay, HALF_HELLO, true).await;
}

/// The places are those of connections that are no peers yet, also where TLS and upgrade are done.
#[tokio::test]
async fn upgraded_connections_that_never_authenticate_have_their_share_too() {
    let relay = TestRelay::with(|builder| builder.max_handshakes(128));
    let mut strangers = Vec::new();
    for _ in 0..64 {
        let mut stranger = from([127, 0, 0, 2], &relay).await;
        stranger.write(UPGRADE_REQUEST.as_bytes()).await;
        stranger.expect_upgrade().await;
        strangers.push(stranger);
    }
    assert_eq!(relay.relay.admission().handshakes(), 64);
    assert_eq!(relay.read_metrics().await.sum("relay_handshakes", &[]), 64);
    let mut waits = from([127, 0, 0, 2], &relay).await;
    waits.write(UPGRADE_REQUEST.as_bytes()).await;
    peer_from([127, 0, 0, 3], &relay, "other", false).await;
    strangers.pop();
    waits.expect_upgrade().await;
}

/// A relay that believes 127.0.0.2 who its clients are.
fn behind_a_proxy() -> TestRelay {
    TestRelay::with(|builder| {
        builder
            .max_handshakes(128)
            .trusted_proxies("127.0.0.2".parse().unwrap())
    })
}

/// A request of 192.0.2.1, as that proxy passes it on.
async fn proxied(relay: &TestRelay) -> RawClient {
    let headers = "X-Real-Ip: 192.0.2.1\r\nX-Real-Port: 1\r\nHost:";
    let mut client = from([127, 0, 0, 2], relay).await;
    let request = UPGRADE_REQUEST.replace("Host:", headers);
    client.write(request.as_bytes()).await;
    client
}

/// A proxy's connection turns out to be that of a client who has his share: it waits as well, and is refused in the end.
#[tokio::test]
async fn a_client_behind_a_trusted_proxy_waits_for_his_turn_too() {
    let relay = behind_a_proxy();
    let clock = FrozenClock::freeze();
    let mut strangers = Vec::new();
    for _ in 0..64 {
        let mut stranger = proxied(&relay).await;
        stranger.expect_upgrade().await;
        strangers.push(stranger);
    }
    let admission = relay.relay.admission();
    let mut waits = proxied(&relay).await;
    until("it waits", || admission.handshakes_waiting() == 1).await;
    assert_eq!(admission.handshakes(), 64);
    peer_from([127, 0, 0, 3], &relay, "other", false).await;
    strangers.pop();
    waits.expect_upgrade().await;
    let mut in_vain = proxied(&relay).await;
    until("it waits, too", || admission.handshakes_waiting() == 1).await;
    clock.advance(Duration::from_millis(5100)).await;
    let answer = in_vain.http_head().await.expect("an answer");
    assert_eq!(answer.status, 429);
    assert_eq!(refused(&relay, "handshakes_per_address").await, 1);
}

/// What waits there has said all it has to say and costs more than a socket: so no more of it waits than may go on, and none of it
/// when the relay goes.
#[tokio::test]
async fn behind_a_trusted_proxy_as_many_wait_as_may_go_on_and_until_the_shutdown_alone() {
    let mut relay = behind_a_proxy();
    let _clock = FrozenClock::freeze();
    let mut strangers = Vec::new();
    for number in 1..=128_usize {
        strangers.push(proxied(&relay).await);
        let admission = relay.relay.admission();
        until("it goes on, or waits", || {
            admission.handshakes() + admission.handshakes_waiting() == number
        })
        .await;
    }
    assert_eq!(relay.relay.admission().handshakes_waiting(), 64);
    let mut too_many = proxied(&relay).await;
    let answer = too_many.http_head().await.expect("an answer at once");
    assert_eq!(answer.status, 429);
    relay.begin_shutdown();
    let mut waits = strangers.pop().unwrap();
    let answer = waits.http_head().await.expect("an answer at once");
    assert_eq!(answer.status, 503);
}

#[tokio::test]
async fn one_address_cannot_take_the_places_of_others() {
    let relay = TestRelay::with(|builder| builder.max_connections_per_address(2));
    let mut places = vec![
        from([127, 0, 0, 2], &relay).await,
        from([127, 0, 0, 2], &relay).await,
    ];
    until("two hold a place", || relay.relay.admission().open() == 2).await;
    from([127, 0, 0, 2], &relay).await.ends_silently().await;
    assert_eq!(refused(&relay, "max_connections_per_address").await, 1);
    // Kept to the end of the peer, not of the handshake.
    let mut other = RawClient::connected(&relay, "other").await;
    RawClient::connected(&relay, "another").await;
    places.clear();
    until("the places are free", || {
        relay.relay.admission().open() <= 2
    })
    .await;
    places.push(from([127, 0, 0, 2], &relay).await);
    assert!(other.sync(&peer("other")).await.is_empty());
    assert_eq!(refused(&relay, "max_connections_per_address").await, 1);
}

#[tokio::test]
async fn an_address_that_hammers_has_its_burst_and_is_refused_then() {
    let relay = TestRelay::with(|builder| {
        builder
            .max_connections_per_address(3)
            .handshake_rate_per_address(1)
    });
    let mut got_through = 0;
    while refused(&relay, "handshake_rate").await == 0 {
        let mut client = from([127, 0, 0, 2], &relay).await;
        client.try_write(UPGRADE_REQUEST.as_bytes()).await;
        got_through += u32::from(client.http_head().await.is_some());
        drop(client);
        until("its place is free", || relay.relay.admission().open() == 0).await;
        assert!(got_through < 10_000, "there is no limit");
    }
    assert!(got_through >= 3);
    RawClient::connected(&relay, "somebody-else").await;
}

/// Under a server that is not ours nobody has asked before the route does.
#[tokio::test]
async fn the_limits_hold_under_a_foreign_server_that_says_where_peers_come_from() {
    let relay = Relay::builder()
        .exposed_address("relay.example.com")
        .validator(AllowAll)
        .max_connections_per_address(1)
        .build()
        .unwrap();
    let app = relay
        .router::<()>()
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    let mut first = RawClient::tcp(addr).await;
    first.write(UPGRADE_REQUEST.as_bytes()).await;
    first.expect_upgrade().await;
    let close = UPGRADE_REQUEST.replace("Host:", "X: y\r\nHost:");
    let mut second = RawClient::tcp(addr).await;
    second.write(close.as_bytes()).await;
    let answer = second.http_head().await.expect("an answer");
    assert_eq!(answer.status, 429);
    assert_eq!(answer.values("retry-after"), ["5"]);
    drop(first);
    until("the place is free", || relay.admission().open() == 0).await;
    let mut third = RawClient::tcp(addr).await;
    third.write(UPGRADE_REQUEST.as_bytes()).await;
    third.expect_upgrade().await;
    // What is no upgrade needs no place.
    let answer = request(
        addr,
        "GET /relay HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(answer.unwrap().status, 426);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_is_refused_says_what_it_most_likely_is() {
    for tls in [false, true] {
        let relay = match tls {
            false => TestRelay::with(|builder| builder.max_connections(1)),
            true => with_tls("load", |builder| builder.max_connections(1)),
        };
        let _held = RawClient::tcp(relay.addr).await;
        until("it holds the place", || relay.relay.admission().open() == 1).await;
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_trunkline"))
            .args(["load", "idle", "--peers=1", "--duration=1", "-s", "x", "-a"])
            .arg(relay.addr.to_string())
            .args(if tls {
                &["--tls", "--insecure"][..]
            } else {
                &[]
            })
            .output()
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("at one of its limits"), "{said}");
        assert!(said.contains("--max-connections-per-address 0"), "{said}");
    }
}
