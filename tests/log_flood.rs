//! A stranger, or a peer, decides how often it misbehaves; it must not decide how much is logged. A process of its own, for the log
//! is global.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

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

/// The log of this process, from its first use on.
static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    log
});

impl Log {
    /// The lines that hold this text.
    fn lines(&self, text: &str) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().clone()).unwrap();
        let lines = log.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }
}

/// One connection, whose first message is this one.
async fn attempt(relay: &Relay, first: &[u8]) {
    let (stranger, end) = memory::pair(16);
    assert!(stranger.send(first.to_vec()).await);
    drop(stranger);
    let refused = relay.accept(end, RemoteAddr::unknown()).await;
    refused.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn strangers_fill_no_log_and_none_of_them_is_forgotten() {
    let log = LOG.clone();
    let builder = Relay::builder().exposed_address("relay.example.com");
    let relay = builder.validator(AllowAll).build().unwrap();
    let no_auth = [&[1, 3][..], &[b'x'; 40]].concat();
    for _ in 0..300 {
        attempt(&relay, &no_auth).await;
    }
    let told = "first message is transport, expected auth";
    let lines = log.lines(told);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(r#"error.type="not_auth""#), "{lines:?}");
    assert!(!lines[0].contains("more="), "{lines:?}");
    // Another reason is news.
    attempt(&relay, &[9, 9]).await;
    assert_eq!(log.lines("first message: ").len(), 1);
    tokio::time::advance(Duration::from_secs(10)).await;
    for _ in 0..2 {
        attempt(&relay, &no_auth).await;
    }
    let lines = log.lines(told);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].contains("more=299"), "{lines:?}");
    tokio::time::advance(Duration::from_secs(10)).await;
    attempt(&relay, &no_auth).await;
    assert!(log.lines(told)[2].contains("more=1"));
}

#[tokio::test]
async fn a_peer_that_goes_on_misbehaving_is_told_of_once() {
    let log = LOG.clone();
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
    let told = |what: &str| log.lines(what).len();
    assert_eq!(told("peer disconnected"), 1);
    assert_eq!(told("message ignored") + told("subscriptions refused"), 1);
}
