//! Peers that are there while strangers try to get in: our load generator, with real handshakes.

use serde_json::Value;

use crate::slow::with_tls;
use crate::support::{SECRET, TestRelay};

async fn storm(relay: &TestRelay, options: &[&str]) {
    let address = relay.addr.to_string();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .args(["load", "storm", "-a", &address, "-s", SECRET, "--json"])
        .args(["--pairs=4", "--peers=300", "--duration=1", "--warmup=0.2"])
        .args(options)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // On a busy machine the strangers, who have the lowest priority, do not all get their turn.
    let attempted = report["storm"]["attempted"].as_u64().unwrap();
    assert!((30..=300).contains(&attempted), "{report}");
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
        (1..=attempted / 3 + 1).contains(&refused),
        "every third has a token of another secret: {refused} of {attempted}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_cost_peers_no_message() {
    use trunkline::auth::{Secret, TokenValidator};
    use trunkline::time::Clock;
    let validator = || TokenValidator::new(vec![Secret::new(SECRET)], Clock::system());
    let relay = TestRelay::with(|builder| builder.validator(validator()));
    storm(&relay, &[]).await;
    let relay = with_tls("storm", |builder| builder.validator(validator()));
    storm(&relay, &["--tls", "--insecure"]).await;
}
