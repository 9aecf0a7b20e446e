//! QUIC on paths of 1280, 1400 and 1500 bytes, in network namespaces of the test's own: the table behind `docs/adr/0035`. To see it:
//! `cargo test --test quic_mtu -- --nocapture`.
//!
//! A round trip takes 20 ms where there are taps and `python3`. Skipped by name where namespaces cannot be made (they need root and `ip`).

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_types, reason = "real sockets need real time")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, TransportConfig};
use rustls::RootCertStore;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use trunkline::telemetry::counters::DropReason;

use support::netns::{Far, FarCable, Namespace};
use support::{Pair, TestRelay, auth_message, fresh_dir, peer, transport};

const NAME: &str = "relay.example.com";

/// A transport message around a full WireGuard packet: 1280 bytes inside the tunnel, 32 of WireGuard, 38 of the relay.
const FULL: usize = 1280 + 32 + 38;

/// A client's, a router's and a relay's namespace in a row; the client's link carries packets of `mtu` bytes.
struct Path {
    client: Namespace,
    _router: Namespace,
    relay: Namespace,
    cables: Vec<FarCable>,
}

impl Path {
    fn make(mtu: u32) -> Result<Self, String> {
        let client = Namespace::make("client")?;
        let router = Namespace::make("router")?;
        let relay = Namespace::make("relay")?;
        let mut cables = Vec::new();
        // Each link: whose ends, the names and addresses of the ends.
        for (near, near_end, far_end, net) in [(&client, "c0", "r0", 1), (&relay, "s0", "r1", 2)] {
            // 10 ms each way, 5 on each link.
            let far = Far {
                delay: 5,
                jitter: 0,
                lost_percent: 0,
            };
            match near.far_cable(near_end, &router, far_end, far) {
                Ok(cable) => cables.push(cable),
                Err(why) => {
                    println!("no delay: {why}");
                    near.cable(near_end, &router, far_end)?;
                }
            }
            for (namespace, end, host) in [(near, near_end, 2), (&router, far_end, 1)] {
                namespace.ip(&format!("addr add 10.99.{net}.{host}/24 dev {end}"))?;
                namespace.ip(&format!("link set dev {end} up"))?;
            }
            near.ip(&format!("route add default via 10.99.{net}.1"))?;
        }
        let forward = router
            .command("sysctl")
            .args(["-qw", "net.ipv4.ip_forward=1"])
            .status();
        if !forward.is_ok_and(|status| status.success()) {
            return Err("sysctl does not switch forwarding on".to_owned());
        }
        // The ends know nothing of it: they see Ethernet.
        router.ip(&format!("link set dev r0 mtu {mtu}"))?;
        Ok(Self {
            client,
            _router: router,
            relay,
            cables,
        })
    }
}

/// A certificate as large as a chain from a public authority: its flight takes several datagrams.
fn certificate() -> Pair {
    let names = (0..100).map(|n| format!("relay-{n}.example.com"));
    Pair::write(&fresh_dir("quic-mtu"), names.chain([NAME.to_owned()]))
}

/// What a client finds on a path.
#[derive(Debug, Default, Clone, Copy)]
struct Found {
    /// From the first packet to the answer to *auth*; none: not within 20 s.
    connected: Option<Duration>,
    /// From that to the first full packet from the relay; none: not within 1 s, or 30 if it must come.
    full: Option<Duration>,
    /// The largest message that comes from the relay at the end.
    largest: usize,
}

/// What a client must find.
#[derive(Debug, Default, Clone, Copy)]
struct Expected {
    /// Whether full packets come.
    full: bool,
    /// The least that [`Found::largest`] may be.
    largest: usize,
}

/// How long a handshake may take: ten times what one with a lost first packet does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a busy machine is given another second.
const PATIENCE: u32 = 30;

impl Found {
    fn show(time: Option<Duration>) -> String {
        time.map_or("never".to_owned(), |time| {
            format!("{} ms", time.as_millis())
        })
    }
}

/// Looks once for what is only shown, and for what is `expected` as long as it takes.
async fn client(relay: SocketAddr, roots: RootCertStore, expected: Expected) -> Found {
    let mut tls = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"nb-quic".to_vec()];
    let tls = QuicClientConfig::try_from(tls).unwrap();
    let mut config = ClientConfig::new(Arc::new(tls));
    let mut settings = TransportConfig::default();
    // The client's own datagrams are its own affair: small ones pass everywhere.
    settings.initial_mtu(1200);
    config.transport_config(Arc::new(settings));
    let endpoint = Endpoint::client(SocketAddr::from(([0; 4], 0))).unwrap();
    let began = Instant::now();
    let mut found = Found::default();
    let connecting = async {
        let connection = endpoint
            .connect_with(config, relay, NAME)
            .unwrap()
            .await
            .ok()?;
        connection
            .send_datagram(auth_message("client").into())
            .unwrap();
        let answer = connection.read_datagram().await.ok()?;
        assert_eq!(answer[..2], [1, 7]);
        Some(connection)
    };
    let Ok(Some(connection)) = timeout(CONNECT_TIMEOUT, connecting).await else {
        return found;
    };
    found.connected = Some(began.elapsed());
    let began = Instant::now();
    // It asks for messages of a size by the first byte of what it sends: see `echo`.
    let tries = if expected.full { 50 * PATIENCE } else { 50 };
    if echoed(&connection, FULL, tries).await {
        found.full = Some(began.elapsed());
    }
    for _ in 0..PATIENCE {
        // By now discovery is over, if the machine has nothing else to do.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (mut carried, mut refused) = (1000, 1440);
        while refused - carried > 4 {
            let size = (carried + refused) / 2;
            if echoed(&connection, size, 2).await {
                carried = size;
            } else {
                refused = size;
            }
        }
        found.largest = carried;
        if carried >= expected.largest {
            break;
        }
    }
    found
}

/// Whether a message of this size comes back in one of so many tries, 20 ms apart.
async fn echoed(connection: &Connection, size: usize, tries: u32) -> bool {
    for _ in 0..tries {
        let mut ask = transport(&peer("echo"), &(size as u16).to_be_bytes());
        ask.truncate(40);
        connection.send_datagram(Bytes::from(ask)).unwrap();
        let deadline = Instant::now() + Duration::from_millis(if tries > 2 { 20 } else { 60 });
        while let Ok(Ok(message)) =
            tokio::time::timeout_at(deadline, connection.read_datagram()).await
        {
            if message.len() == size {
                return true;
            }
        }
    }
    false
}

/// Answers each request for a message of a size, over a transport that has no limit but the protocol's.
async fn echo(relay: &TestRelay) {
    let mut echo = relay.memory_peer("echo").await;
    tokio::spawn(async move {
        while let Some(message) = echo.end.recv().await {
            if let [1, 3, .., high, low] = message[..]
                && message.len() == 40
            {
                let size = usize::from(u16::from_be_bytes([high, low]));
                let answer = transport(&peer("client"), &vec![5; size - 38]);
                if !echo.end.send(answer).await {
                    return;
                }
            }
        }
    });
}

/// What a client finds on this path when the relay starts with this MTU, and how many messages were dropped as too large.
fn measure(path: &Path, initial_mtu: u16, expected: Expected) -> (Found, u64) {
    let pair = certificate();
    let (tell, told) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let relay = scope.spawn(|| {
            path.relay.within(async || {
                let relay = TestRelay::served(
                    |relay| relay.tls(true),
                    |server| {
                        server
                            .listen([SocketAddr::from(([10, 99, 2, 2], 0))])
                            .tls(pair.store())
                            .quic_initial_mtu(initial_mtu)
                    },
                );
                echo(&relay).await;
                tell.send(relay.addr).unwrap();
                let _ = stopped.await;
                relay.dropped(DropReason::TooLargeForPath)
            })
        });
        let addr = told.recv().unwrap();
        let found = path
            .client
            .within(async || client(addr, pair.roots(), expected).await);
        stop.send(()).unwrap();
        (found, relay.join().unwrap())
    })
}

#[test]
fn a_handshake_survives_each_path_and_discovery_finds_what_it_carries() {
    // UDP payload that the path carries without IPv4's head, and what of it is left for a message.
    const HEADS: usize = 20 + 8;
    println!("path  initial MTU  connected  first full packet  largest message  too large");
    for mtu in [1280, 1400, 1500] {
        let path = match Path::make(mtu) {
            Ok(path) => path,
            Err(why) => {
                println!(
                    "skipped: a_handshake_survives_each_path_and_discovery_finds_what_it_carries: no network namespaces ({why})"
                );
                return;
            }
        };
        for initial in [1200, 1232, 1252, 1452] {
            // Discovery stops within 20 bytes of the best, and at 1452.
            let carried = (mtu as usize - HEADS).min(1452);
            let is_ours = initial == trunkline::transport::quic::INITIAL_MTU;
            let expected = Expected {
                full: mtu >= 1400 + 10,
                largest: carried - 70,
            };
            let (found, too_large) = measure(
                &path,
                initial,
                if is_ours {
                    expected
                } else {
                    Expected::default()
                },
            );
            println!(
                "{mtu:4}  {initial:11}  {:>9}  {:>17}  {:15}  {too_large:9}",
                Found::show(found.connected),
                Found::show(found.full),
                found.largest,
            );
            if is_ours {
                assert!(found.connected.is_some(), "no handshake on {mtu}");
                assert_eq!(found.full.is_some(), expected.full, "{found:?}");
                assert!(found.largest >= expected.largest, "{found:?}: {expected:?}");
                assert!(found.largest < carried, "{found:?} of {carried}");
                assert!(too_large > 0 || mtu == 1500, "dropped, and counted");
            }
        }
        for way in path.cables.into_iter().flat_map(FarCable::end) {
            assert!(way.carried > 0 && way.shortest_ms >= 5, "no delay: {way:?}");
        }
    }
}
