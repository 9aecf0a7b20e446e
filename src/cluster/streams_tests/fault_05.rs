//! PING and PONG are declared by the reference and never sent. Here a pod that answers them and falls silent is given up after 15 s.

use tokio::time::Instant;

use super::*;
use crate::proto::cluster::{PING, PONG};

async fn stream_of_a_pod() -> (Pod, Raw<tokio::io::DuplexStream>) {
    let network = Network::default();
    let mut pod = network.pod("10.0.0.1:7090", Options::default());
    let mut raw = Raw(network.dial(pod.address).unwrap());
    raw.hello("10.0.0.2:7090", "").await;
    raw.expect(FrameType::Hello).await;
    raw.expect(FrameType::Ping).await;
    pod.until(|told| matches!(told, Told::Up(_))).await;
    (pod, raw)
}

#[tokio::test(start_paused = true)]
async fn fault_05_a_silent_pod_of_ours_is_given_up_after_15_s() {
    let (mut pod, mut raw) = stream_of_a_pod().await;
    raw.send(&PONG).await;
    pod.until(is_ours).await;
    let silent_since = Instant::now();
    for _ in 0..2 {
        raw.expect(FrameType::Ping).await;
    }
    pod.until(|told| matches!(told, Told::Down(_, false))).await;
    let silence = silent_since.elapsed();
    assert_eq!(silence.as_secs(), 15, "{silence:?}");
    assert_eq!(pod.metric("relay_cluster_pings_lost_total"), 1.0);
    assert_eq!(pod.metric("relay_cluster_pings_sent_total"), 2.0);
    assert_eq!(pod.metric("relay_cluster_streams"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn fault_05_a_stock_pod_never_answers_and_is_kept() {
    let (mut pod, mut raw) = stream_of_a_pod().await;
    for _ in 0..100 {
        raw.expect(FrameType::Ping).await;
    }
    raw.send(&crate::proto::cluster::encode_who_has(&bob()))
        .await;
    let told = pod.until(|told| !matches!(told, Told::Used(_))).await;
    assert!(matches!(told, Told::Frame(..)), "{told:?}");
    assert_eq!(pod.metric("relay_cluster_pings_lost_total"), 0.0);
    assert_eq!(pod.metric("relay_cluster_streams"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn fault_05_a_ping_is_answered_at_once() {
    let (_pod, mut raw) = stream_of_a_pod().await;
    let asked = Instant::now();
    raw.send(&PING).await;
    raw.expect(FrameType::Pong).await;
    assert_eq!(asked.elapsed(), Duration::ZERO);
}
