//! A peer decides how often it misbehaves; it must not decide how much is logged. A process of its own, for the log is global.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use trunkline::Relay;
use trunkline::auth::AllowAll;
use trunkline::proto::PeerId;
use trunkline::proto::peer::encode_auth;
use trunkline::telemetry::counters::DropReason;
use trunkline::transport::RemoteAddr;
use trunkline::transport::memory;

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_peer_that_goes_on_misbehaving_is_told_of_once() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .init();
    let builder = Relay::builder().exposed_address("relay.example.com");
    let relay = builder.validator(AllowAll).max_subscriptions(1).build();
    let relay = relay.unwrap();
    let (peer, end) = memory::pair(16);
    let connection = relay.accept(end, RemoteAddr::unknown());
    let auth = encode_auth(&PeerId::from_name(b"x"), b"any").unwrap();
    let two = [[1, 8].as_slice(), &[b'a'; 36], &[b'b'; 36]].concat();
    let misbehave = async {
        assert!(peer.send(auth.clone()).await);
        for _ in 0..100 {
            assert!(peer.send(auth.clone()).await);
            assert!(peer.send(two.clone()).await);
        }
        assert!(peer.send(vec![1, 4]).await);
        drop(peer);
    };
    let (closed, ()) = tokio::join!(connection, misbehave);
    closed.unwrap();
    assert_eq!(relay.counters().dropped_count(DropReason::Unexpected), 100);
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    let told = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(told("peer disconnected"), 1, "{log}");
    assert_eq!(
        told("message ignored") + told("subscriptions refused"),
        1,
        "{log}"
    );
}
