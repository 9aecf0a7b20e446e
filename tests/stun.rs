//! The STUN server on real sockets, with the questions of a real client (RFC 8489).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::process::Command;

use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use trunkline::auth::AllowAll;
use trunkline::telemetry::prometheus::PrometheusMetrics;
use trunkline::{Relay, Server};

use support::{FrozenClock, Metrics, eventually, real_pause};

const QUESTION: [u8; 20] = [
    0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
];

struct Stun {
    addr: SocketAddr,
    metrics: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Stun {
    fn start(addr: &str) -> Self {
        let prometheus = PrometheusMetrics::new().unwrap();
        let relay = Relay::builder()
            .exposed_address("localhost")
            .validator(AllowAll)
            .meter(prometheus.meter())
            .build()
            .unwrap();
        let any = [SocketAddr::from(([127, 0, 0, 1], 0))];
        let server = Server::builder(relay)
            .listen(any)
            .metrics(any, prometheus)
            .stun([addr.parse().unwrap()])
            .bind()
            .unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        Self {
            addr: server.stun_addrs()[0],
            metrics: server.metrics_addr().unwrap(),
            stop,
            running: tokio::spawn(server.run(async {
                let _ = stopped.await;
            })),
        }
    }

    async fn counted(&self, result: &str) -> u64 {
        let metrics = Metrics::scrape(self.metrics).await;
        metrics.sum("relay_stun_requests_total", &[("result", result)])
    }
}

async fn ask(socket: &UdpSocket, to: SocketAddr) -> Vec<u8> {
    let mut room = [0; 2048];
    // UDP may lose a datagram even on loopback, where a buffer is full.
    for _ in 0..10 {
        socket.send_to(&QUESTION, to).await.unwrap();
        let received = socket.recv_from(&mut room);
        if let Ok(received) = timeout(std::time::Duration::from_secs(3), received).await {
            let (length, from) = received.unwrap();
            assert_eq!(from, to, "the answer comes from where the question went");
            return room[..length].to_vec();
        }
    }
    panic!("no answer");
}

/// The address in an answer that holds nothing but it and a fingerprint.
fn mapped(answer: &[u8]) -> SocketAddr {
    assert_eq!(answer[..2], [1, 1]);
    assert_eq!(answer[4..20], QUESTION[4..20]);
    assert_eq!(answer[20..22], [0, 0x20]);
    let port = u16::from_be_bytes([answer[26], answer[27]]) ^ 0x2112;
    let xored = |length: usize| -> Vec<u8> {
        let bytes = answer[28..28 + length].iter().zip(&answer[4..20]);
        bytes.map(|(one, other)| one ^ other).collect()
    };
    match answer[25] {
        1 => (<[u8; 4]>::try_from(xored(4)).unwrap(), port).into(),
        _ => (<[u8; 16]>::try_from(xored(16)).unwrap(), port).into(),
    }
}

#[tokio::test]
async fn both_families_learn_their_address() {
    let mut hosts = vec![("127.0.0.1:0", "127.0.0.1:0")];
    if UdpSocket::bind("[::1]:0").await.is_ok() {
        hosts.push(("[::1]:0", "[::1]:0"));
        // One socket for both families shows IPv4 as IPv4.
        hosts.push(("[::]:0", "127.0.0.1:0"));
        hosts.push(("[::]:0", "[::1]:0"));
    } else {
        eprintln!(
            "skipped: the IPv6 part of both_families_learn_their_address: this machine has no IPv6"
        );
    }
    for (server, client) in hosts {
        let stun = Stun::start(server);
        let socket = UdpSocket::bind(client).await.unwrap();
        let me = socket.local_addr().unwrap();
        let answer = ask(&socket, SocketAddr::new(me.ip(), stun.addr.port())).await;
        assert_eq!(mapped(&answer), me, "{server} {client}");
        assert!(answer.len() <= QUESTION.len() + 32);
        assert!(stun.counted("answered").await >= 1);
    }
}

#[tokio::test]
async fn garbage_is_counted_and_has_no_answer() {
    let stun = Stun::start("127.0.0.1:0");
    for result in ["answered", "malformed", "limited"] {
        assert_eq!(stun.counted(result).await, 0);
    }
    assert!(
        Metrics::scrape(stun.metrics)
            .await
            .has("relay_stun_requests_total", &["result"])
    );
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let indication = [&[0, 0x11][..], &QUESTION[2..]].concat();
    let long = [0; 1200];
    for bad in [
        &b""[..],
        b"GET / HTTP/1.1\r\n",
        &QUESTION[..19],
        &indication,
        &long,
    ] {
        socket.send_to(bad, stun.addr).await.unwrap();
    }
    // Datagrams of one socket to another stay in order: had there been an answer to any of them, it would come first.
    assert_eq!(
        mapped(&ask(&socket, stun.addr).await),
        socket.local_addr().unwrap()
    );
    assert_eq!(stun.counted("malformed").await, 3);
    assert_eq!(stun.counted("unsupported").await, 1);
    assert_eq!(stun.counted("too_long").await, 1);
}

#[tokio::test]
async fn a_flood_is_limited_and_leaves_others_alone() {
    let clock = FrozenClock::freeze();
    let stun = Stun::start("0.0.0.0:0");
    let to = SocketAddr::from(([127, 0, 0, 1], stun.addr.port()));
    let flood = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..200 {
        flood.send_to(&QUESTION, to).await.unwrap();
        tokio::task::yield_now().await;
    }
    let other = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    other.send_to(&QUESTION, to).await.unwrap();
    let mut room = [0; 100];
    let (length, _) = other.recv_from(&mut room).await.unwrap();
    assert_eq!(mapped(&room[..length]), other.local_addr().unwrap());
    let answered = stun.counted("answered").await;
    let limited = stun.counted("limited").await;
    assert_eq!(answered, 65, "a burst, and the other one's");
    assert!(limited >= 1 && answered + limited <= 201, "{limited}");
    drop(clock);
}

#[tokio::test]
async fn a_shutdown_frees_the_port() {
    let stun = Stun::start("127.0.0.1:0");
    let addr = stun.addr;
    stun.stop.send(()).unwrap();
    timeout(std::time::Duration::from_secs(30), stun.running)
        .await
        .unwrap()
        .unwrap();
    // A program that another test is just starting has the old socket, too, until its `exec`.
    eventually("the port is free", || async {
        UdpSocket::bind(addr).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_client_learns_its_address() {
    const CLIENT: &str = "turnutils_stunclient";
    if Command::new(CLIENT).arg("-h").output().is_err() {
        eprintln!(
            "skipped: a_real_client_learns_its_address: {CLIENT} (Debian package coturn) is missing"
        );
        return;
    }
    let stun = Stun::start("127.0.0.1:0");
    let port = stun.addr.port().to_string();
    let output = tokio::task::spawn_blocking(move || {
        Command::new(CLIENT)
            .args(["-p", &port, "127.0.0.1"])
            .output()
    });
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("UDP reflexive addr: 127.0.0.1:"), "{text}");
    // The answer may be read before it is counted.
    while stun.counted("answered").await == 0 {
        real_pause().await;
    }
}
