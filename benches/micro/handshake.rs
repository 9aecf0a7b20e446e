//! A connection from its first message to its end, with a real token: in memory, and as a WebSocket over a duplex stream.
//!
//! The HTTP upgrade and the socket are not in it; `benches/compare` has them.

use criterion::Criterion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use trunkline::Relay;
use trunkline::auth::{Secret, TokenValidator, mint};
use trunkline::proto::peer::{encode_auth, encode_auth_response};
use trunkline::time::Clock;
use trunkline::transport::{RemoteAddr, memory, ws};

use crate::world::{id, masked};

/// The hour of the relay's clock, which stands still, and the end of the token.
const NOW: u64 = 1_800_000_000;
const EXPIRY: u64 = NOW + 3600;

pub(crate) fn benches(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without sockets starts anywhere");
    let secret = Secret::new("benchmark");
    let token = mint(&secret, EXPIRY);
    let relay = Relay::builder()
        .exposed_address("relay.example.com")
        .validator(TokenValidator::new(vec![secret], Clock::fixed(NOW)))
        .build()
        .expect("settings that are right");
    let auth = encode_auth(&id(1), &token).expect("the token is short enough");
    let answer = encode_auth_response(relay.instance_url().as_str()).expect("a short address");

    let mut group = criterion.benchmark_group("handshake");
    group.bench_function("in memory", |bencher| {
        bencher.iter(|| over_memory(&runtime, &relay, &auth, &answer));
    });
    let frame = masked(&auth);
    group.bench_function("WebSocket over a duplex stream", |bencher| {
        bencher.iter(|| over_duplex(&runtime, &relay, &frame, &answer));
    });
    group.finish();
    assert!(relay.peers().is_empty(), "all connections have ended");
}

fn over_memory(runtime: &Runtime, relay: &Relay, auth: &[u8], answer: &[u8]) {
    let (mut peer, end) = memory::pair(4);
    let client = async move {
        assert!(peer.send(auth.to_vec()).await, "the relay listens");
        assert_eq!(peer.recv().await.as_deref(), Some(answer));
    };
    let (closed, ()) =
        runtime.block_on(async { tokio::join!(relay.accept(end, RemoteAddr::unknown()), client) });
    closed.expect("the token is good");
}

fn over_duplex(runtime: &Runtime, relay: &Relay, frame: &[u8], answer: &[u8]) {
    let (mut peer, end) = tokio::io::duplex(1024);
    let client = async move {
        peer.write_all(frame).await.expect("the relay listens");
        // The head of a short frame from a server is two bytes.
        let mut read = vec![0; 2 + answer.len()];
        peer.read_exact(&mut read).await.expect("the relay answers");
        assert_eq!(&read[2..], answer);
    };
    let (closed, ()) = runtime.block_on(async {
        tokio::join!(relay.accept(ws::Stream(end), RemoteAddr::unknown()), client)
    });
    closed.expect("the token is good");
}
