//! The relay behind real proxies, each with its file of `deploy/proxies/` (peer-protocol.md, *Behind a proxy*).
//!
//! A proxy that is not installed is skipped, and the output says so.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

#[path = "support/mod.rs"]
mod support;

#[path = "proxies/proxy.rs"]
mod proxy;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use trunkline::auth::{Secret, mint};
use trunkline::client::{Client, Event};

use self::proxy::{Kind, NAME, Proxy, Tls};
use self::support::{Program, fresh_dir, peer, until};

const PATIENCE: Duration = Duration::from_secs(30);
const SECRET: &str = "a-secret";
const EXPOSED: &str = "rels://relay.example.com:443";

/// Longer than the 30 s after which each proxy here gives up a silent connection, and than the 25 s of the health checks.
const IDLE: Duration = Duration::from_secs(35);

fn dir(name: &str) -> PathBuf {
    fresh_dir(&format!("proxies-{name}"))
}

/// A relay that believes the proxies of this machine.
async fn relay(dir: &Path, args: &[&str]) -> Program {
    let usual = ["-e", EXPOSED, "-s", SECRET, "--trusted-proxies=127.0.0.1"];
    Program::start(dir, &[&usual, args].concat()).await
}

/// Addresses of clients, which are not that of the proxies.
const CLIENTS: [[u8; 4]; 2] = [[127, 0, 0, 8], [127, 0, 0, 9]];

/// A connection from this address.
async fn connection(client: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((client, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// A peer that has connected through the proxy, and the address it has there.
async fn connect(
    client: [u8; 4],
    (to, tls): (SocketAddr, Option<&Tls>),
    name: &str,
) -> (Client, SocketAddr) {
    let stream = connection(client, to).await;
    let addr = stream.local_addr().unwrap();
    let token = mint(&Secret::new(SECRET), 4_000_000_000);
    let client = match tls {
        None => Client::connect_over(stream, NAME, "/relay", peer(name), &token).await,
        Some(tls) => {
            let stream = tls.handshake(stream).await;
            Client::connect_over(stream, NAME, "/relay", peer(name), &token).await
        }
    };
    let client = client.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(client.instance_url(), EXPOSED);
    (client, addr)
}

/// One payload there and one back; `false` if one of the two has been disconnected.
async fn exchange(one: &mut Client, other: &mut Client) -> bool {
    let ends = [*one.peer(), *other.peer()];
    for size in [1, 1280, 8000] {
        let payload = vec![size as u8; size];
        if one.send(&ends[1], &payload).await.is_err() {
            return false;
        }
        match timeout(PATIENCE, other.recv()).await.expect("a message") {
            Event::Message { from, payload: got } => {
                assert_eq!((from, &got[..]), (ends[0], &payload[..]));
            }
            Event::Closed(_) => return false,
            event => panic!("{event:?}"),
        }
    }
    true
}

async fn exchange_both_ways(one: &mut Client, other: &mut Client) -> bool {
    exchange(one, other).await && exchange(other, one).await
}

/// Connect, exchange, be silent for longer than the proxy waits, exchange, reload the proxy, exchange or come back.
async fn life_behind(mut proxy: Proxy, relay: &Program) {
    let name = proxy.name;
    let (one_name, two_name) = (format!("{name} plain"), format!("{name} tls"));
    let (mut one, one_addr) = connect(CLIENTS[0], proxy.plain(), &one_name).await;
    let (mut two, two_addr) = connect(CLIENTS[1], proxy.second(), &two_name).await;
    assert!(exchange_both_ways(&mut one, &mut two).await, "{name}");

    for addr in [one_addr, two_addr] {
        let told = proxy.kind.told(addr);
        let what = format!("{name}: {addr} is in the log");
        until(&what, || relay.lines(&told) > 0).await;
        let line = relay.line(&told).unwrap();
        assert_eq!(line["message"], "peer connected", "{name}: {line}");
        assert_eq!(line["client.address"], told, "{name}");
    }

    sleep(IDLE).await;
    let alive = exchange_both_ways(&mut one, &mut two).await;
    assert!(alive, "{name}: health checks keep a silent peer connected");

    proxy.reload().await;
    let alive = exchange_both_ways(&mut one, &mut two).await;
    assert_eq!(
        alive, proxy.kind.keeps_connections,
        "{name}: what its file says of a reload"
    );
    // Whoever was cut off comes back, and new ones come in.
    let (mut one, _) = connect(CLIENTS[0], proxy.plain(), &one_name).await;
    let (mut two, _) = connect(CLIENTS[1], proxy.second(), &two_name).await;
    assert!(exchange_both_ways(&mut one, &mut two).await, "{name}");
}

/// All of them at once: most of the time goes by with being silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_live_behind_every_proxy() {
    let mut lives = JoinSet::new();
    for kind in Kind::ALL {
        if !kind.is_installed() {
            println!("skipped: {} is not installed", kind.program);
            continue;
        }
        lives.spawn(async {
            let dir = dir(kind.name);
            let tls = Tls::new(&dir);
            let files = tls.files();
            let mut args = Vec::from(kind.relay_args);
            if kind.relay_has_tls {
                args.extend(["-c", &files[0], "-k", &files[1]]);
            }
            let relay = relay(&dir, &args).await;
            let proxy = Proxy::start(kind, &dir, tls, &relay, "30s").await;
            life_behind(proxy, &relay).await;
        });
    }
    while let Some(life) = lives.join_next().await {
        life.unwrap();
    }
}

/// The other side of it: a proxy that waits for less than the health checks' 25 s cuts its peers off, so it is those that keep
/// them. Caddy and Traefik wait for ever, so there is nothing to show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_waits_for_less_than_a_health_check_cuts_peers_off() {
    let kinds = Kind::ALL.iter().filter(|kind| kind.has_timeout);
    for kind in kinds.filter(|kind| kind.is_installed()) {
        let dir = dir(&format!("{}-impatient", kind.name));
        let tls = Tls::new(&dir);
        let files = tls.files();
        let mut args = Vec::from(kind.relay_args);
        if kind.relay_has_tls {
            args.extend(["-c", &files[0], "-k", &files[1]]);
        }
        let relay = relay(&dir, &args).await;
        let proxy = Proxy::start(kind, &dir, tls, &relay, "1s").await;
        let (mut client, _) = connect(CLIENTS[0], proxy.plain(), "x").await;
        let event = timeout(PATIENCE, client.recv()).await;
        let event = event.expect("the proxy ends the connection");
        assert!(
            matches!(event, Event::Closed(_)),
            "{}: {event:?}",
            kind.name
        );
        until("the relay sees it", || {
            relay.line("peer disconnected").is_some()
        })
        .await;
    }
}

/// A client cannot choose its address by writing the headers itself: each file sets or removes all of them, with TLS and without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_chooses_its_address() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let request = "GET /relay HTTP/1.1\r\nHost: relay.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Real-Ip: 192.0.2.66\r\n\
        X-Real-Port: 66\r\nForwarded: for=192.0.2.66\r\nX-Forwarded-For: 192.0.2.66\r\n\r\n";
    let kinds = Kind::ALL.iter().filter(|kind| !kind.relay_has_tls);
    for kind in kinds.filter(|kind| kind.is_installed()) {
        let dir = dir(&format!("{}-forged", kind.name));
        // So that each refusal is told, and not one in 10 s.
        let relay = relay(&dir, &[kind.relay_args, &["--log-level=debug"]].concat()).await;
        let proxy = Proxy::start(kind, &dir, Tls::new(&dir), &relay, "30s").await;
        for (client, (to, tls)) in CLIENTS.into_iter().zip([proxy.plain(), proxy.second()]) {
            let mut stream = connection(client, to).await;
            let addr = stream.local_addr().unwrap();
            let mut answer = [0; 12];
            if let Some(tls) = tls {
                let mut stream = tls.handshake(stream).await;
                stream.write_all(request.as_bytes()).await.unwrap();
                stream.read_exact(&mut answer).await.unwrap();
            } else {
                stream.write_all(request.as_bytes()).await.unwrap();
                stream.read_exact(&mut answer).await.unwrap();
                drop(stream);
            }
            assert_eq!(&answer, b"HTTP/1.1 101", "{}", kind.name);
            until("the relay says who has not authenticated", || {
                relay.line(&kind.told(addr)).is_some() || relay.line("192.0.2.66").is_some()
            })
            .await;
            assert!(relay.line("192.0.2.66").is_none(), "{}", kind.name);
            assert!(relay.line("names two different").is_none(), "{}", kind.name);
        }
    }
}
