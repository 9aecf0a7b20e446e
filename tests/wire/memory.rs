//! The budget of all queues (operations.md, `--memory-limit`): who is large is cut first, and who is not here yet stays out.

use trunkline::proto::peer::MessageType;
use trunkline::telemetry::counters::DropReason;

use crate::support::{RawClient, TestRelay, UPGRADE_REQUEST, binary, peer, transport, until};

/// One slab, as the relay accounts for queues.
const SLAB: usize = 64 * 1024;

fn batch(to: &str, messages: usize) -> Vec<u8> {
    let message = binary(&transport(&peer(to), &[7; 1280]));
    message.repeat(messages)
}

#[tokio::test]
async fn no_peer_is_let_in_while_the_queues_hold_all_memory() {
    let relay = TestRelay::with(|builder| builder.memory_limit(8 * SLAB).peer_queue_bytes(SLAB));
    let mut sender = RawClient::connected(&relay, "sender").await;
    let mut stalled = Vec::new();
    for number in 0..8 {
        let name = format!("stalled-{number}");
        stalled.push(RawClient::connected_narrowly(&relay, &name).await);
    }
    // Whatever the kernel takes first: in the end each of them holds one slab, and there are no more. Nobody answers the sender
    // meanwhile, so the counters tell how far the relay is.
    let mut sent = 0;
    while relay.dropped(DropReason::OverBudget) == 0 {
        for number in 0..8 {
            sender.write(&batch(&format!("stalled-{number}"), 20)).await;
            sent += 20;
        }
        let received = || {
            relay
                .relay
                .counters()
                .received_count(MessageType::Transport)
        };
        until("all is read", || received() == sent).await;
        assert!(sent < 200_000, "nothing is ever refused");
    }
    let refused = || async {
        let metrics = relay.read_metrics().await;
        metrics.sum("relay_handshake_refusals_total", &[("reason", "no_memory")])
    };
    let mut early = RawClient::tcp(relay.addr).await;
    early.write(UPGRADE_REQUEST.as_bytes()).await;
    let answer = early.http_head().await.expect("an answer, not the end");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.values("retry-after"), ["5"]);
    assert_eq!(refused().await, 1);
    // Room for them is room for newcomers.
    stalled.clear();
    until("their places are free", || relay.relay.peers().len() == 1).await;
    RawClient::connected(&relay, "newcomer").await;
    assert_eq!(refused().await, 1);
}
