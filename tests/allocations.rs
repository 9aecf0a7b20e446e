//! The rule of the message path that a benchmark would only show as noise: no allocation for each message.
//!
//! Relay and clients share one thread and one allocator that counts; the sockets are real.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trunkline::auth::AllowAll;
use trunkline::proto::PeerId;
use trunkline::proto::peer::{encode_auth, encode_transport};
use trunkline::transport::ws::frame::apply_mask;
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
