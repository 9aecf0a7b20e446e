//! The rule of the message path that a benchmark would only show as noise: no allocation for each message.
//!
//! Relay and clients share one thread and one allocator that counts; the sockets are real.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quinn::crypto::rustls::QuicClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trunkline::auth::AllowAll;
use trunkline::proto::PeerId;
use trunkline::proto::peer::MessageType;
use trunkline::proto::peer::{encode_auth, encode_transport};
use trunkline::tls::{AnyCertificate, CertificateFiles, Certificates};
use trunkline::transport::ws::frame::apply_mask;
use trunkline::transport::{RemoteAddr, memory};
use trunkline::{Relay, Server};

const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
const PAYLOAD: usize = 1280;
/// Two bytes, two of length, the relay's header, the payload.
const DELIVERED: usize = 4 + 38 + PAYLOAD;

fn masked(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | 126];
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend(MASK);
    let body = frame.len();
    frame.extend(message);
    apply_mask(&mut frame[body..], MASK);
    frame
}

async fn connect(address: std::net::SocketAddr, name: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = "GET /relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let auth = encode_auth(&PeerId::from_name(name.as_bytes()), &[0; 43]).unwrap();
    let mut frame = vec![0x82, 0x80 | 85];
    frame.extend(MASK);
    frame.extend(&auth);
    apply_mask(&mut frame[6..], MASK);
    stream.write_all(&frame).await.unwrap();
    let mut answer = [0; 2 + 2 + "rel://x".len()];
    stream.read_exact(&mut answer).await.unwrap();
    stream
}

#[test]
fn no_allocation_for_each_message() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut alice, mut bob) = runtime.block_on(async {
        let relay = Relay::builder()
            .exposed_address("x")
            .validator(AllowAll)
            .build()
            .unwrap();
        let server = Server::builder(relay)
            .listen(["127.0.0.1:0".parse().unwrap()])
            .bind()
            .unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(server.run(std::future::pending()));
        (
            connect(address, "alice").await,
            connect(address, "bob").await,
        )
    });
    for batch in [1, 16] {
        let mut message = Vec::new();
        encode_transport(&PeerId::from_name(b"bob"), &[7; PAYLOAD], &mut message).unwrap();
        let writes = masked(&message).repeat(batch);
        let mut delivered = vec![0; DELIVERED * batch];
        let mut exchange = |rounds: usize| {
            runtime.block_on(async {
                for _ in 0..rounds {
                    alice.write_all(&writes).await.unwrap();
                    bob.read_exact(&mut delivered).await.unwrap();
                }
            });
        };
        // The first messages fill the pool, the memo, the timer wheel.
        exchange(50);
        let allocated = allocation_counter::measure(|| exchange(500));
        assert!(delivered.ends_with(&[7; PAYLOAD]));
        assert_eq!(
            allocated.count_total,
            0,
            "{} messages in writes of {batch}",
            500 * batch
        );
    }
}

fn self_signed() -> Certificates {
    let place = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("allocations-quic");
    std::fs::create_dir_all(&place).unwrap();
    let made = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let files = CertificateFiles {
        certificate: place.join("tls.crt"),
        key: place.join("tls.key"),
    };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let certificates = Certificates::new();
    certificates.set(files.load().unwrap());
    certificates
}

/// A peer over QUIC on a thread of its own, which reads until `over` and then stops: nothing is acknowledged any more.
fn quic_receiver(
    address: std::net::SocketAddr,
    over: Arc<AtomicBool>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let verifier =
                AnyCertificate::new(rustls::crypto::aws_lc_rs::default_provider().into());
            let mut tls = rustls::ClientConfig::builder()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth();
            tls.alpn_protocols = vec![b"nb-quic".to_vec()];
            let tls = QuicClientConfig::try_from(tls).unwrap();
            let config = quinn::ClientConfig::new(Arc::new(tls));
            let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let connecting = endpoint.connect_with(config, address, "x").unwrap();
            let connection = connecting.await.unwrap();
            let auth = encode_auth(&PeerId::from_name(b"bob"), &[0; 43]).unwrap();
            connection.send_datagram(auth.into()).unwrap();
            while !over.load(Ordering::Relaxed) {
                connection.read_datagram().await.unwrap();
            }
            // Held, and never polled again, until the test is over.
            std::thread::park();
        });
    })
}

/// QUIC takes messages one by one, and often has room for one alone. What waits behind it must not be copied each time, and
/// must not be kept alive by it.
#[test]
fn a_saturated_quic_receiver_costs_a_copy_of_each_message_and_no_more() {
    const SIZE: usize = 1000;
    const DELIVERED: u64 = 4000;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (relay, address) = runtime.block_on(async {
        let relay = Relay::builder()
            .exposed_address("x")
            .tls(true)
            .validator(AllowAll)
            .build()
            .unwrap();
        let server = Server::builder(relay.clone())
            .listen(["127.0.0.1:0".parse().unwrap()])
            .tls(self_signed())
            .bind()
            .unwrap();
        let address = server.quic_addr().unwrap();
        tokio::spawn(server.run(std::future::pending()));
        (relay, address)
    });
    let over = Arc::<AtomicBool>::default();
    let receiver = quic_receiver(address, Arc::clone(&over));
    let bob = PeerId::from_name(b"bob");
    let mut message = Vec::new();
    encode_transport(&bob, &[7; SIZE], &mut message).unwrap();
    // Together they send more than the line takes: its queue is never empty.
    let sent = Arc::<AtomicU64>::default();
    let going = Arc::new(AtomicBool::new(true));
    let mut senders = Vec::new();
    runtime.block_on(async {
        while !relay.peers().contains(&bob) {
            tokio::task::yield_now().await;
        }
        for number in 0..8_u8 {
            let (sender, end) = memory::pair(64);
            let accepting = relay.clone();
            tokio::spawn(async move { accepting.accept(end, RemoteAddr::unknown()).await });
            let auth = encode_auth(&PeerId::from_name(&[number]), &[0; 43]).unwrap();
            assert!(sender.send(auth).await);
            let (message, sent, going) = (message.clone(), Arc::clone(&sent), Arc::clone(&going));
            senders.push(tokio::spawn(async move {
                while going.load(Ordering::Relaxed) {
                    assert!(sender.send(message.clone()).await);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                sender
            }));
        }
    });
    let delivered = || relay.counters().sent_count(MessageType::Transport);
    // Until so many more are delivered; how many were sent meanwhile.
    let flood = |count: u64| {
        let before = sent.load(Ordering::Relaxed);
        let goal = delivered() + count;
        runtime.block_on(async {
            while delivered() < goal {
                tokio::task::yield_now().await;
            }
        });
        sent.load(Ordering::Relaxed) - before
    };
    let held = allocation_counter::measure(|| {
        flood(1000);
        let mut during = 0;
        let allocated = allocation_counter::measure(|| during = flood(DELIVERED));
        assert!(during > DELIVERED, "the line takes all that is sent");
        // The test's own copies of what it sends are none of the relay's.
        let relayed = allocated.bytes_total - during * message.len() as u64;
        let each = relayed / DELIVERED;
        println!("{each} bytes allocated for each message delivered, {during} sent");
        assert!(
            each < 2 * message.len() as u64,
            "{each} bytes for each message"
        );
        over.store(true, Ordering::Relaxed);
        // What nobody takes any more: QUIC's buffer, the queue, and nothing that they keep alive besides.
        let goal = sent.load(Ordering::Relaxed) + 10_000;
        runtime.block_on(async {
            while sent.load(Ordering::Relaxed) < goal {
                tokio::task::yield_now().await;
            }
            going.store(false, Ordering::Relaxed);
        });
    });
    println!("{} bytes are held", held.bytes_current);
    assert!(held.bytes_current < 2 * 1024 * 1024, "{held:?}");
    receiver.thread().unpark();
}
