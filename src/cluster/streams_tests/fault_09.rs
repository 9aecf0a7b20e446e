//! On the reference a slow receiver blocks the sender, a pod as well as a peer. Here a pod that does not read costs its own messages.

use super::*;
use crate::telemetry::counters::DropReason;

#[tokio::test]
async fn fault_09_a_pod_that_does_not_read_keeps_nobody_waiting() {
    const QUEUE: usize = 1 << 20;
    let pod = Pod::tcp(Options {
        queue_bytes: Some(QUEUE),
        ..Options::default()
    })
    .await;
    let mut raw = Raw(tokio::net::TcpStream::connect(pod.address).await.unwrap());
    raw.hello("10.0.0.2:7090", "").await;
    raw.expect(FrameType::Hello).await;
    let link = pod.link().await;
    let big = {
        let mut message = Vec::new();
        encode_transport(&PeerId::from_name(b"alice"), &[0; 8000], &mut message).unwrap();
        message
    };
    // The kernel takes some megabytes; then the queue fills, and then each message is refused at once.
    let mut accepted = 0_u64;
    let refusal = loop {
        match link.forward(FrameType::Forward, &bob(), &big) {
            Ok(()) => accepted += 1,
            Err(reason) => break reason,
        }
        link.flush();
        assert!(accepted < 100_000, "a queue without a bound");
        if accepted.is_multiple_of(64) {
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(refusal, DropReason::QueueFull);
    // A pod that reads again gets all that was accepted, in whole frames.
    let mut received = 0;
    while received < accepted {
        if within(raw.frame()).await.unwrap().0 == FrameType::Forward {
            received += 1;
        }
    }
    within(async {
        while pod.counters.forwarded_count() < accepted {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(pod.counters.forwarded_count(), accepted);
}
