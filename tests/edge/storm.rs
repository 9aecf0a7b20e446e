//! Peers that are there while strangers try to get in: our load generator, with real handshakes.

use serde_json::Value;
use trunkline::RelayBuilder;
use trunkline::auth::{Secret, TokenValidator};
use trunkline::time::Clock;

use crate::slow::with_tls;
use crate::support::{PATIENCE, SECRET, TestRelay};

/// How many handshakes are attempted: few where many tests run, more by hand (10,000 need some 15,000 open files).
fn strangers() -> u64 {
    let asked = std::env::var("TRUNKLINE_STORM_PEERS").ok();
    asked.map_or(300, |asked| asked.parse().unwrap())
}

async fn storm(relay: &TestRelay, options: &[&str]) {
    let address = relay.addr.to_string();
    let strangers = strangers();
    // A thousand a second, and one second at least.
    let duration = strangers.div_ceil(1000);
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .args(["load", "storm", "-a", &address, "-s", SECRET, "--json"])
        .args(["--pairs=4", "--warmup=0.2"])
        .arg(format!("--peers={strangers}"))
        .arg(format!("--duration={duration}"))
        .args(options)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // On a busy machine the strangers, who have the lowest priority, do not all get their turn.
    let attempted = report["storm"]["attempted"].as_u64().unwrap();
    let few = strangers / 10;
    assert!((few..=strangers).contains(&attempted), "{report}");
    if strangers > 1000 {
        println!("{report:#}");
    }
    assert_eq!(report["storm"]["unconnected"], 0, "{report}");
    assert_eq!(report["lost"], 0, "{report}");
    assert_eq!(report["ended"], 0, "{report}");
    for latency in ["latency", "latency_calm"] {
        assert!(report[latency]["samples"].as_u64().unwrap() > 0, "{report}");
    }
    let metrics = relay.read_metrics().await;
    let refused = metrics.sum(
        "relay_authentication_failures_total",
        &[("reason", "bad_signature")],
    );
    assert!(
        refused <= attempted / 3 + 1,
        "every third has a token of another secret, if it comes to that: {refused} of {attempted}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_cost_peers_no_message() {
    let validator = || TokenValidator::new(vec![Secret::new(SECRET)], Clock::system());
    // A busy machine may keep a message waiting for longer than the usual second.
    let patient = |builder: RelayBuilder| builder.validator(validator()).queue_max_age(PATIENCE);
    let relay = TestRelay::with(patient);
    storm(&relay, &[]).await;
    let relay = with_tls("storm", patient);
    storm(&relay, &["--tls", "--insecure"]).await;
}
