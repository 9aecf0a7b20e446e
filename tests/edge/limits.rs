//! Limits on connections and handshakes, in all and for each address.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};
use trunkline::Relay;
use trunkline::auth::AllowAll;

use crate::support::{RawClient, TestRelay, UPGRADE_REQUEST, peer, request, until};

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
async fn from(address: [u8; 4], relay: &TestRelay) -> RawClient {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((address, 0))).unwrap();
    RawClient::over(socket.connect(relay.addr).await.unwrap())
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
