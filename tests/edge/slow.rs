//! Who speaks slowly, half, or not at all: bounded in time and in memory.

use std::time::Duration;

use tokio::sync::Mutex;
use trunkline::RelayBuilder;

use crate::support::{
    FrozenClock, Pair, RawClient, TestRelay, UPGRADE_REQUEST, fresh_dir, peer, until,
};

/// The beginning of a TLS handshake that announces more than follows.
pub(crate) const HALF_HELLO: &[u8] = &[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];

/// Connections that are made and never finished.
const MANY: usize = 1500;

/// A relay with TLS; `change` has the last word on its settings.
pub(crate) fn with_tls(test: &str, change: impl FnOnce(RelayBuilder) -> RelayBuilder) -> TestRelay {
    let pair = Pair::write(&fresh_dir(&format!("edge-{test}")), ["relay.example.com"]);
    TestRelay::served(
        |relay| change(relay.tls(true)),
        |server| server.tls(pair.store()),
    )
}

async fn timed_out(relay: &TestRelay, stage: &str) -> u64 {
    let metrics = relay.read_metrics().await;
    metrics.sum("relay_handshake_timeouts_total", &[("stage", stage)])
}

/// This process may open as many files as `MANY` connections with both ends here need.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .unwrap();
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[tokio::test]
async fn tls_byte_by_byte_buys_no_time() {
    let relay = with_tls("slow", |builder| builder);
    let clock = FrozenClock::freeze();
    let silent = RawClient::tcp(relay.addr).await;
    let mut slow = RawClient::tcp(relay.addr).await;
    until("both have a place", || relay.relay.admission().open() == 2).await;
    for byte in HALF_HELLO.iter().take(9) {
        slow.write(&[*byte]).await;
        clock.advance(Duration::from_millis(1100)).await;
    }
    assert_eq!(timed_out(&relay, "tls").await, 0);
    clock.advance(Duration::from_millis(200)).await;
    silent.ends_silently().await;
    slow.ends_silently().await;
    until("the places are free", || {
        relay.relay.admission().open() == 0
    })
    .await;
    assert_eq!(timed_out(&relay, "tls").await, 2);
}

/// For those who look at what the whole process occupies.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Attackers of each kind hold places, little memory and no more than 10 s, and a peer does not notice.
async fn many(relay: &TestRelay, begin: &[&[u8]], stage: &str, peers: usize) {
    raise_file_limit();
    let _alone = ALONE.lock().await;
    let clock = FrozenClock::freeze();
    let before = resident();
    let mut strangers = Vec::new();
    for number in 0..MANY {
        let mut stranger = RawClient::tcp(relay.addr).await;
        stranger.write(begin[number % begin.len()]).await;
        strangers.push(stranger);
    }
    let open = || relay.relay.admission().open();
    until("all hold a place", || open() == MANY + peers).await;
    let each = resident().saturating_sub(before) / MANY;
    assert!(each < 40 * 1024, "{each} bytes for each that says nothing");
    clock.advance(Duration::from_millis(10_100)).await;
    until("all are gone", || open() == peers).await;
    for stranger in strangers {
        stranger.ends_silently().await;
    }
    assert_eq!(timed_out(relay, stage).await as usize, MANY);
}

#[tokio::test]
async fn many_that_never_finish_their_upgrade() {
    let relay = TestRelay::start();
    let mut victim = RawClient::connected(&relay, "victim").await;
    let begin: [&[u8]; 3] = [b"", b"G", &UPGRADE_REQUEST.as_bytes()[..80]];
    many(&relay, &begin, "upgrade", 1).await;
    assert!(relay.relay.peers().contains(&peer("victim")));
    assert!(victim.sync(&peer("victim")).await.is_empty());
}

#[tokio::test]
async fn many_that_never_finish_their_tls() {
    let begin: [&[u8]; 3] = [b"", &HALF_HELLO[..1], HALF_HELLO];
    many(&with_tls("many", |builder| builder), &begin, "tls", 0).await;
}
