//! QUIC on real sockets, with a client configured as stock ones are (peer-protocol.md, *QUIC*).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, TransportConfig, VarInt};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use trunkline::RelayBuilder;
use trunkline::auth::AllowAll;
use trunkline::client::{Client, Event};
use trunkline::telemetry::counters::DropReason;
use trunkline::transport::TransportKind;

use support::{
    FrozenClock, Pair, TestRelay, auth_message, close, fresh_dir, health_check, ids, payload_of,
    peer, real_pause, request, token, transport, until,
};

const NAME: &str = "relay.example.com";
const PATIENCE: Duration = Duration::from_secs(30);

/// A relay with TLS, and what its clients trust.
struct QuicRelay {
    relay: TestRelay,
    pair: Pair,
}

impl std::ops::Deref for QuicRelay {
    type Target = TestRelay;
    fn deref(&self) -> &TestRelay {
        &self.relay
    }
}

fn pair(test: &str) -> Pair {
    Pair::write(&fresh_dir(&format!("quic-{test}")), [NAME])
}

impl QuicRelay {
    fn start(test: &str) -> Self {
        Self::with(test, |relay| relay)
    }

    fn with(test: &str, change: impl FnOnce(RelayBuilder) -> RelayBuilder) -> Self {
        let pair = pair(test);
        Self {
            relay: TestRelay::served(
                |relay| change(relay.tls(true).exposed_address(support::URL)),
                |server| server.tls(pair.store()),
            ),
            pair,
        }
    }

    fn tls(&self, alpn: &[u8]) -> rustls::ClientConfig {
        let mut tls = rustls::ClientConfig::builder()
            .with_root_certificates(self.pair.roots())
            .with_no_client_auth();
        tls.alpn_protocols = vec![alpn.to_vec()];
        tls
    }

    /// What stock clients say of themselves: datagrams, 1452 bytes, keep-alive 30 s, idle 4 min.
    fn stock(&self) -> (ClientConfig, TransportConfig) {
        let mut transport = TransportConfig::default();
        transport
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .max_idle_timeout(Some(Duration::from_secs(240).try_into().unwrap()))
            .initial_mtu(1452);
        (self.config(b"nb-quic"), transport)
    }

    fn config(&self, alpn: &[u8]) -> ClientConfig {
        let tls = QuicClientConfig::try_from(self.tls(alpn)).unwrap();
        ClientConfig::new(Arc::new(tls))
    }

    async fn dial(
        &self,
        config: ClientConfig,
        path: SocketAddr,
    ) -> Result<QuicClient, ConnectionError> {
        let endpoint = Endpoint::client(SocketAddr::new(path.ip(), 0)).unwrap();
        let connecting = endpoint.connect_with(config, path, NAME).unwrap();
        let connection = timeout(PATIENCE, connecting).await.expect("an answer")?;
        Ok(QuicClient {
            endpoint,
            connection,
        })
    }

    async fn connect(&self, path: SocketAddr) -> QuicClient {
        let (mut config, transport) = self.stock();
        config.transport_config(Arc::new(transport));
        self.dial(config, path).await.unwrap()
    }

    /// A connected peer.
    async fn peer(&self, name: &str) -> QuicClient {
        self.peer_by(self.addr, name).await
    }

    /// A connected peer that knows the relay by another address.
    async fn peer_by(&self, path: SocketAddr, name: &str) -> QuicClient {
        let client = self.connect(path).await;
        client.send(auth_message(name));
        client.expect_auth_response().await;
        client
    }

    /// A connected peer on WebSocket.
    async fn websocket(&self, name: &str) -> Client {
        let tcp = TcpStream::connect(self.addr).await.unwrap();
        let tls = TlsConnector::from(Arc::new(self.tls(b"http/1.1")));
        let server = ServerName::try_from(NAME).unwrap();
        let stream = tls.connect(server, tcp).await.unwrap();
        Client::connect_over(stream, NAME, "/relay", peer(name), &token())
            .await
            .unwrap()
    }
}

/// A way to the relay that can be cut: bytes pass while the task runs.
async fn tunnel(relay: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let entry = near.local_addr().unwrap();
    (entry, tunnel_from(near, relay).await)
}

async fn tunnel_from(near: UdpSocket, relay: SocketAddr) -> JoinHandle<()> {
    let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    far.connect(relay).await.unwrap();
    tokio::spawn(async move {
        let (mut up, mut down) = ([0; 2048], [0; 2048]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((len, from)) = near.recv_from(&mut up) => {
                    client = Some(from);
                    far.send(&up[..len]).await.unwrap();
                }
                Ok(len) = far.recv(&mut down), if client.is_some() => {
                    near.send_to(&down[..len], client.unwrap()).await.unwrap();
                }
            }
        }
    })
}

struct QuicClient {
    endpoint: Endpoint,
    connection: Connection,
}

impl QuicClient {
    fn send(&self, message: impl Into<Bytes>) {
        self.connection.send_datagram(message.into()).unwrap();
    }

    async fn message(&self) -> Bytes {
        let read = timeout(PATIENCE, self.connection.read_datagram());
        read.await.expect("a message in time").expect("a message")
    }

    async fn expect_auth_response(&self) {
        let answer = self.message().await;
        assert_eq!(answer[..2], [1, 7]);
        assert_eq!(&answer[2..], support::URL.as_bytes());
    }

    /// Checks that the relay ends the connection with the code of a normal closure; returns the messages that came before.
    async fn ends(&self) -> Vec<Bytes> {
        let mut before = Vec::new();
        loop {
            let read = timeout(PATIENCE, self.connection.read_datagram()).await;
            match read.expect("the end in time") {
                Ok(message) => before.push(message),
                Err(ConnectionError::ApplicationClosed(close)) => {
                    assert_eq!(close.error_code, VarInt::from_u32(0));
                    return before;
                }
                Err(other) => panic!("ended otherwise: {other}"),
            }
        }
    }

    /// All that the relay had queued for this peer by now.
    async fn sync(&self, me: &str) -> Vec<Bytes> {
        self.send(transport(&peer(me), b"sync"));
        let mut before = Vec::new();
        loop {
            let message = self.message().await;
            if message[1] == 3 && &message[38..] == b"sync" {
                return before;
            }
            before.push(message);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_on_quic_and_a_peer_on_websocket_talk() {
    let relay = QuicRelay::start("both");
    let mut ws = relay.websocket("ws").await;
    let metrics = relay.read_metrics().await;
    for shown in ["relay_peers", "relay_peers_share"] {
        let transports = metrics.label_values(shown, "transport");
        assert!(transports.contains(&"quic"), "{shown}: {transports:?}");
        assert_eq!(metrics.sum(shown, &[("transport", "quic")]), 0, "{shown}");
    }
    let quic = relay.peer("quic").await;
    assert_eq!(
        relay
            .relay
            .relay
            .peers()
            .get(&peer("quic"))
            .unwrap()
            .transport(),
        TransportKind::Quic
    );
    quic.send(ids(8, &[peer("ws")]));
    assert_eq!(quic.message().await, ids(10, &[peer("ws")]));
    for round in 0..50_u8 {
        quic.send(transport(&peer("ws"), &[round; 1312]));
        match ws.recv().await {
            Event::Message { from, payload } => {
                assert_eq!(from, peer("quic"));
                assert_eq!(payload[..], [round; 1312]);
            }
            other => panic!("{other:?}"),
        }
        ws.send(&peer("quic"), &[round; 1100]).await.unwrap();
        let message = quic.message().await;
        assert_eq!(payload_of(&message, &peer("ws")), [round; 1100]);
    }
    let health = request(
        relay.health,
        "GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    )
    .await
    .unwrap();
    let health: serde_json::Value = serde_json::from_str(health.text()).unwrap();
    assert_eq!(health["listeners"], serde_json::json!(["ws", "quic"]));
    assert_eq!(health["peers"], serde_json::json!({"ws": 1, "quic": 1}));
    assert_eq!(health["certificate_valid"], true);
    // As rcgen makes them.
    assert_eq!(health["certificate_expires"], "4096-01-01T00:00:00Z");
    assert_eq!(
        health["shares"],
        serde_json::json!({"ws": 0.5, "quic": 0.5})
    );
    let metrics = relay.read_metrics().await;
    assert_eq!(metrics.sum("relay_peers", &[("transport", "quic")]), 1);
    let shown = metrics.label_values("relay_peers_share", "transport");
    assert!(shown.contains(&"quic"), "{shown:?}");

    quic.send(close());
    assert!(quic.ends().await.is_empty());
    relay.peers(1).await;
    ws.close().await;
    relay.conserved().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_packets_pass_both_ways_as_soon_as_the_path_is_known() {
    let relay = QuicRelay::start("discovery");
    let (quic, ws) = (relay.peer("quic").await, relay.websocket("ws").await);
    // 1280 bytes inside the tunnel, 32 of WireGuard; until discovery has found that they fit, they are dropped and counted.
    let mut sent = 0;
    loop {
        ws.send(&peer("quic"), &[3; 1312]).await.unwrap();
        sent += 1;
        let come = timeout(Duration::from_millis(50), quic.connection.read_datagram()).await;
        if let Ok(message) = come {
            assert_eq!(payload_of(&message.unwrap(), &peer("ws")), [3; 1312]);
            break;
        }
        assert!(sent < 1000, "discovery never got there");
    }
    let (received, delivered) = relay.conserved().await;
    assert_eq!((received, delivered), (sent, 1));
    assert_eq!(relay.dropped(DropReason::TooLargeForPath), sent - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_of_messages_pass_in_order_and_whole() {
    let relay = QuicRelay::start("windows");
    let (left, right) = (relay.peer("left").await, relay.peer("right").await);
    for _ in 0..20 {
        for number in 0..100_u32 {
            let mut payload = vec![7; 1100];
            payload[..4].copy_from_slice(&number.to_be_bytes());
            left.send(transport(&peer("right"), &payload));
        }
        for number in 0..100_u32 {
            let message = right.message().await;
            let payload = payload_of(&message, &peer("left"));
            assert_eq!(payload.len(), 1100);
            assert_eq!(payload[..4], number.to_be_bytes());
        }
    }
    assert_eq!(relay.conserved().await, (2000, 2000));
}

#[tokio::test]
async fn what_does_not_fit_the_path_is_dropped_and_counted_and_nobody_ends() {
    let relay = QuicRelay::start("oversize");
    let quic = relay.peer("quic").await;
    let ws = relay.websocket("ws").await;
    ws.send(&peer("quic"), &[1; 1500]).await.unwrap();
    ws.send(&peer("quic"), &[2; 8782]).await.unwrap();
    ws.send(&peer("quic"), b"fits").await.unwrap();
    assert_eq!(payload_of(&quic.message().await, &peer("ws")), b"fits");
    assert_eq!(relay.dropped(DropReason::TooLargeForPath), 2);
    assert_eq!(relay.conserved().await, (3, 1));
    let reason = [("reason", "too_large_for_path")];
    let metrics = relay.read_metrics().await;
    assert_eq!(metrics.sum("relay_messages_dropped_total", &reason), 2);
}

#[tokio::test]
async fn an_empty_datagram_ends_the_connection_and_an_empty_payload_does_not() {
    let relay = QuicRelay::start("empty");
    let (one, two) = (relay.peer("one").await, relay.peer("two").await);
    one.send(transport(&peer("two"), b""));
    assert_eq!(payload_of(&two.message().await, &peer("one")), b"");
    one.send(Bytes::new());
    assert!(one.ends().await.is_empty());
    relay.peers(1).await;
    // As the first message, too.
    let three = relay.connect(relay.addr).await;
    three.send(Bytes::new());
    assert!(three.ends().await.is_empty());
    relay.conserved().await;
}

#[tokio::test]
async fn a_bad_token_is_closed_without_an_answer() {
    let relay = QuicRelay::start("token");
    let client = relay.connect(relay.addr).await;
    let mut auth = auth_message("eve");
    let last = auth.len() - 20;
    auth[last] ^= 1;
    client.send(auth);
    assert!(client.ends().await.is_empty());
    let metrics = relay.read_metrics().await;
    assert_eq!(metrics.sum("relay_authentication_failures_total", &[]), 1);
}

#[tokio::test]
async fn clients_of_another_protocol_or_without_datagrams_are_refused_and_counted() {
    let relay = QuicRelay::start("foreign");
    let refused = relay.dial(relay.config(b"h3"), relay.addr).await;
    assert!(matches!(refused, Err(ConnectionError::ConnectionClosed(_))));
    let (mut config, mut without) = relay.stock();
    without.datagram_receive_buffer_size(None);
    config.transport_config(Arc::new(without));
    let client = relay.dial(config, relay.addr).await.unwrap();
    let end = timeout(PATIENCE, client.connection.closed()).await.unwrap();
    assert!(
        matches!(end, ConnectionError::ApplicationClosed(_)),
        "{end}"
    );
    let metrics = relay.read_metrics().await;
    let refusals = [("reason", "no_datagrams")];
    assert_eq!(metrics.sum("relay_handshake_refusals_total", &refusals), 1);
    let failures = [("reason", "incompatible")];
    assert_eq!(
        metrics.sum("relay_tls_handshake_failures_total", &failures),
        1
    );
}

#[tokio::test]
async fn a_list_of_peers_is_split_to_what_every_path_carries() {
    let relay = QuicRelay::start("lists");
    let others: Vec<_> = (0..70).map(|n| format!("other {n}")).collect();
    let mut connected = Vec::new();
    for name in &others {
        connected.push(relay.memory_peer(name).await);
    }
    let quic = relay.peer("quic").await;
    let all: Vec<_> = others.iter().map(|name| peer(name)).collect();
    for some in all.chunks(35) {
        quic.send(ids(8, some));
    }
    let mut told = Vec::new();
    for message in quic.sync("quic").await {
        assert_eq!(message[..2], [1, 10]);
        assert!(message.len() <= 1200, "{}", message.len());
        told.extend(message[2..].chunks(36).map(<[u8]>::to_vec));
    }
    told.sort();
    let mut expected: Vec<_> = all.iter().map(|id| id.as_bytes().to_vec()).collect();
    expected.sort();
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_says_close_last_and_the_code_is_0() {
    let relay = QuicRelay::start("shutdown");
    let quic = relay.peer("quic").await;
    let sender = relay.memory_peer("sender").await;
    for _ in 0..10 {
        assert!(sender.end.send(transport(&peer("quic"), b"before")).await);
    }
    let stopped = tokio::spawn(relay.relay.stopped());
    let mut messages = quic.ends().await;
    assert_eq!(messages.pop().unwrap(), close());
    assert!(messages.iter().all(|message| message[1] == 3));
    stopped.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_moves_to_another_address_stays_connected() {
    let relay = QuicRelay::start("migration");
    let (moving, other) = (relay.peer("moving").await, relay.peer("other").await);
    let elsewhere = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    moving.endpoint.rebind(elsewhere).unwrap();
    moving.send(transport(&peer("other"), b"from elsewhere"));
    let message = other.message().await;
    assert_eq!(payload_of(&message, &peer("moving")), b"from elsewhere");
    other.send(transport(&peer("moving"), b"to there"));
    let message = moving.message().await;
    assert_eq!(payload_of(&message, &peer("other")), b"to there");
    assert_eq!(relay.relay.relay.peers().len(), 2);
}

#[tokio::test]
async fn the_newer_connection_takes_over_across_transports() {
    let relay = QuicRelay::start("takeover");
    let old = relay.peer("same").await;
    let mut new = relay.websocket("same").await;
    assert!(old.ends().await.is_empty(), "no close message");
    let newest = relay.peer("same").await;
    assert!(matches!(new.recv().await, Event::Closed { .. }));
    newest.send(transport(&peer("same"), b"here"));
    assert_eq!(payload_of(&newest.message().await, &peer("same")), b"here");
    let metrics = relay.read_metrics().await;
    assert_eq!(metrics.sum("relay_peer_reconnections_total", &[]), 2);
}

#[tokio::test]
async fn silent_and_half_open_connections_end_in_time_and_hold_up_nobody() {
    let clock = FrozenClock::freeze();
    let relay = QuicRelay::start("slow");
    // One that shakes hands and says nothing; one whose handshake never goes on, as nothing comes back to it.
    let silent = relay.connect(relay.addr).await;
    let (config, _) = relay.stock();
    let hole = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let half = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let to_hole = hole.local_addr().unwrap();
    let _connecting = half.connect_with(config, to_hole, NAME).unwrap();
    let mut first = [0; 2048];
    let (len, _) = hole.recv_from(&mut first).await.unwrap();
    hole.send_to(&first[..len], relay.addr).await.unwrap();
    let quick = relay.peer("quick").await;
    clock.advance(Duration::from_secs(11)).await;
    assert!(silent.ends().await.is_empty());
    for _ in 0..1000 {
        let metrics = relay.read_metrics().await;
        if metrics.sum("relay_handshake_timeouts_total", &[]) == 2 {
            break;
        }
        real_pause().await;
    }
    let metrics = relay.read_metrics().await;
    for stage in ["auth", "tls"] {
        let stage = [("stage", stage)];
        assert_eq!(metrics.sum("relay_handshake_timeouts_total", &stage), 1);
    }
    assert!(quick.sync("quick").await.is_empty());
}

#[tokio::test]
async fn an_idle_peer_is_asked_and_one_that_is_gone_is_missed() {
    let clock = FrozenClock::freeze();
    let relay = QuicRelay::with("idle", |relay| relay.health_check_threshold(10));
    let here = relay.peer("here").await;
    let (path, tunnel) = tunnel(relay.addr).await;
    let gone = relay.peer_by(path, "gone").await;
    tunnel.abort();
    for _ in 0..100 {
        clock.advance(Duration::from_secs(1)).await;
        if relay.relay.relay.peers().len() == 1 {
            break;
        }
    }
    relay.peers(1).await;
    assert_eq!(here.message().await, health_check());
    here.send(health_check());
    let told = gone.connection.close_reason();
    assert!(
        matches!(told, None | Some(ConnectionError::TimedOut)),
        "{told:?}"
    );
}

#[tokio::test]
async fn without_tls_there_is_no_quic_and_it_can_be_switched_off() {
    let plain = TestRelay::start();
    let pair = pair("off");
    let off = TestRelay::served(
        |relay| relay.tls(true),
        |server| server.tls(pair.store()).quic(false),
    );
    for relay in [&plain, &off] {
        // The port is free for UDP, or somebody else's for a while.
        support::eventually("the port is free", || async {
            UdpSocket::bind(relay.addr).await.is_ok()
        })
        .await;
        let get = "GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let health = request(relay.health, get).await.unwrap();
        assert!(health.text().contains(r#""listeners":["ws"]"#));
    }
}

#[tokio::test]
async fn ipv4_and_ipv6_reach_one_listener() {
    let pair = pair("dual");
    let any: SocketAddr = "[::]:0".parse().unwrap();
    let relay = QuicRelay {
        relay: TestRelay::served(
            |relay| relay.tls(true),
            |server| server.tls(pair.store()).listen([any]),
        ),
        pair,
    };
    for (name, local) in [("four", "127.0.0.1:0"), ("six", "[::1]:0")] {
        let local: SocketAddr = local.parse().unwrap();
        let target = SocketAddr::new(local.ip(), relay.addr.port());
        let _client = relay.peer_by(target, name).await;
        let remote = relay.relay.relay.peers().get(&peer(name)).unwrap().remote();
        assert_eq!(remote.get().unwrap().ip(), local.ip());
    }
}

/// Our load generator keeps windows of messages in flight and loses none, and trusts whom it is told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_generator_speaks_quic() {
    let relay = QuicRelay::with("load", |relay| {
        // A busy machine may keep a message waiting for longer than the usual second.
        relay.validator(AllowAll).queue_max_age(PATIENCE)
    });
    let file = relay.pair.files.certificate.display().to_string();
    let address = relay.addr.to_string();
    let load = async |words: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_trunkline"));
        command.args(["load", words[0], "-s", "x"]);
        if !words.contains(&"--connect-to") {
            command.args(["-a", &address]);
        }
        command.args(["--quic", "--json", "--duration=0.3", "--warmup=0.1"]);
        command.args(&words[1..]).output().await.unwrap()
    };
    let flow = load(&["flow", "--pairs=2", "--batch=16", "--insecure"]).await;
    assert!(flow.status.success(), "{flow:?}");
    let report: serde_json::Value = serde_json::from_slice(&flow.stdout).unwrap();
    assert_eq!(report["lost"], 0, "{report}");
    // The name in the certificate is not the address that is dialled.
    let refused = load(&["flow", "--ca-file", &file]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(words.contains("--connect-to"), "{words}");
    // The cause says which names it is for.
    assert!(words.contains(NAME), "{words}");
    let named = format!("-a={NAME}:443");
    let named = load(&["flow", &named, "--connect-to", &address, "--ca-file", &file]).await;
    assert!(named.status.success(), "{named:?}");
    for words in [
        &["paced", "--pairs=2", "--insecure"][..],
        &["idle", "--peers=5", "--insecure"],
        &["churn", "--insecure"],
    ] {
        let done = load(words).await;
        assert!(done.status.success(), "{words:?}: {done:?}");
    }
    assert!(relay.conserved().await.1 > 100);
}

/// A load of one peer, for so many seconds.
fn idle_load(address: &str, seconds: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.args(["load", "idle", "--peers=1", "-s", "x"]);
    command.args(["--quic", "--insecure", "-a", address, "--duration", seconds]);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_generator_notices_that_a_relay_answers_no_more() {
    let relay = QuicRelay::with("load-cut", |relay| relay.validator(AllowAll));
    let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = near.local_addr().unwrap().to_string();
    let tunnel = tunnel_from(near, relay.addr).await;
    let load = idle_load(&address, "1")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while relay.relay.relay.peers().is_empty() {
        tokio::task::yield_now().await;
    }
    // From here on datagrams vanish, as those of a relay that was killed do.
    tunnel.abort();
    let load = load.wait_with_output().await.unwrap();
    assert_eq!(load.status.code(), Some(1), "{load:?}");
    let words = String::from_utf8_lossy(&load.stderr);
    // It may not have got the answer to its authentication yet.
    assert!(
        words.contains(&address) || words.contains("auth"),
        "{words}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_generator_ends_early_when_it_is_interrupted() {
    let relay = QuicRelay::with("load-interrupt", |relay| relay.validator(AllowAll));
    let mut load = idle_load(&relay.addr.to_string(), "100000")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while relay.relay.relay.peers().is_empty() {
        tokio::task::yield_now().await;
    }
    let pid = load.id().unwrap().to_string();
    let kill = tokio::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(kill.await.unwrap().success());
    assert_eq!(load.wait().await.unwrap().code(), Some(130));
}

#[tokio::test]
async fn the_probe_says_whether_quic_gets_through_and_warns_once() {
    let clock = FrozenClock::freeze();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    // The public address, before anything stands behind it.
    let public = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let via = public.local_addr().unwrap().to_string();
    let pair = pair("probe");
    let relay = TestRelay::served(
        |relay| relay.tls(true),
        |server| server.tls(pair.store()).probe_quic_via(via),
    );
    let tunnel = tunnel_from(public, relay.addr).await;
    let gauge = async |value| {
        for _ in 0..1000 {
            let metrics = relay.read_metrics().await;
            if metrics.has("relay_quic_reachable", &[])
                && metrics.sum("relay_quic_reachable", &[]) == value
            {
                return;
            }
            // A timer that is due fires with the next tick only.
            clock.advance(Duration::from_millis(1)).await;
        }
        panic!(
            "relay_quic_reachable never became {value}: {:#?}",
            log.lines()
        );
    };
    gauge(1).await;
    let metrics = relay.read_metrics().await;
    let failures = metrics.sum("relay_authentication_failures_total", &[]);
    assert_eq!(failures, 0, "a probe is no failure");
    tunnel.abort();
    for _ in 0..30 {
        clock.advance(Duration::from_secs(10)).await;
    }
    gauge(0).await;
    let lines = log.lines();
    let warnings: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("WARN") && line.contains("quic_probe"))
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("forwards TCP alone"), "{warnings:?}");
}

#[tokio::test]
async fn limits_of_connections_hold_for_quic() {
    let relay = QuicRelay::with("limits", |relay| relay.max_connections_per_address(1));
    let first = relay.peer("first").await;
    let second = relay.dial(relay.config(b"nb-quic"), relay.addr).await;
    assert!(matches!(second, Err(ConnectionError::ConnectionClosed(_))));
    let metrics = relay.read_metrics().await;
    let reason = [("reason", "max_connections_per_address")];
    assert_eq!(metrics.sum("relay_handshake_refusals_total", &reason), 1);
    first.send(close());
    assert!(first.ends().await.is_empty());
    until("the place is free", || {
        relay.relay.relay.admission().open() == 0
    })
    .await;
    relay.peer("third").await;
}

/// What was logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<parking_lot::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// As on TCP: one address has a sixteenth of the handshakes, 64 in any case, and nobody else waits for it.
#[tokio::test]
async fn one_address_cannot_take_the_handshakes_of_others() {
    const SHARE: usize = 64;
    let relay = QuicRelay::with("share", |relay| relay.max_handshakes(128));
    let established = relay.peer("established").await;
    let admission = relay.relay.relay.admission();
    until("it is no handshake any more", || {
        admission.handshakes() == 0
    })
    .await;
    // Handshakes that never go on, for at most a Retry comes back to who began them.
    let hole = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let to_hole = hole.local_addr().unwrap();
    let half = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let client = half.local_addr().unwrap();
    let mut begun = Vec::new();
    while admission.handshakes() < SHARE {
        // Whoever is not where it says it is sees no Retry, and gets half of the share of the address that it forges.
        let is_forged = begun.len() < SHARE;
        let (config, _) = relay.stock();
        begun.push(half.connect_with(config, to_hole, NAME).unwrap());
        let mut room = [0; 2048];
        for _ in 0..6 {
            let pause = std::time::Duration::from_millis(20);
            let Ok(come) = timeout(pause, hole.recv_from(&mut room)).await else {
                break;
            };
            let (len, from) = come.unwrap();
            let is_retry = room[0] & 0xf0 == 0xf0;
            if from.port() == client.port() {
                hole.send_to(&room[..len], relay.addr).await.unwrap();
            } else if is_retry && !is_forged {
                hole.send_to(&room[..len], client).await.unwrap();
            }
        }
        if is_forged {
            assert!(admission.handshakes() <= SHARE / 2, "taken by forgery");
        }
        assert!(begun.len() < 10_000, "handshakes are not counted");
    }
    let refused = relay.dial(relay.config(b"nb-quic"), relay.addr).await;
    let Err(ConnectionError::ConnectionClosed(close)) = refused.map(|_| ()) else {
        panic!("not refused");
    };
    assert_eq!(
        close.error_code,
        quinn::TransportErrorCode::CONNECTION_REFUSED
    );
    let metrics = relay.read_metrics().await;
    let share = [("reason", "handshakes_per_address")];
    assert!(metrics.sum("relay_handshake_refusals_total", &share) >= 1);
    // From another address, at once.
    let endpoint = Endpoint::client("127.0.0.2:0".parse().unwrap()).unwrap();
    let config = relay.config(b"nb-quic");
    let connecting = endpoint.connect_with(config, relay.addr, NAME).unwrap();
    let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
    let other = QuicClient {
        endpoint,
        connection,
    };
    other.send(auth_message("other"));
    other.expect_auth_response().await;
    other.send(transport(&peer("established"), b"undisturbed"));
    let message = established.message().await;
    assert_eq!(payload_of(&message, &peer("other")), b"undisturbed");
    assert_eq!(admission.handshakes(), SHARE);
}

/// What comes faster than anybody reads: only the kernel knows of it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_the_kernel_drops_is_counted() {
    let any = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let pair = pair("drops");
    let relay = TestRelay::served(
        |relay| relay.tls(true),
        |server| server.tls(pair.store()).stun([any]),
    );
    let drops = async |server: &'static str| {
        let labels = [("server", server), ("reason", "receive_buffer_full")];
        let metrics = relay.read_metrics().await;
        assert!(metrics.has("relay_udp_drops_total", &["server", "reason"]));
        metrics.sum("relay_udp_drops_total", &labels)
    };
    assert_eq!((drops("quic").await, drops("stun").await), (0, 0));
    // The relay shares this thread, and does not run meanwhile. Its buffer takes some 8,000 of them at most.
    let flood = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for _ in 0..20_000 {
        flood.send_to(&[0; 1200], relay.addr).unwrap();
    }
    assert!(drops("quic").await > 0);
    assert_eq!(drops("stun").await, 0);
}
