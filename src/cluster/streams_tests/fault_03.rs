//! A stream that fails to dial, or drops, is never dialed again on the reference. Here it is, as long as DNS lists the pod.

use super::*;

#[tokio::test(start_paused = true)]
async fn fault_03_a_failed_dial_is_tried_again() {
    let network = Network::default();
    let there: SocketAddr = "10.0.0.2:7090".parse().unwrap();
    let mut pod = network.pod("10.0.0.1:7090", Options::default());
    pod.discovers(&[there]);
    // Nobody listens there for a minute.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(pod.streams.links.len(), 0);
    let mut accept = network.listen(there);
    let since = tokio::time::Instant::now();
    let stream = within(accept.0.recv()).await.unwrap();
    assert!(since.elapsed() <= Duration::from_secs(10), "{since:?}");
    let mut raw = Raw(tokio::io::join(stream.read, stream.write));
    raw.expect(FrameType::Hello).await;
    raw.hello("10.0.0.2:7090", "").await;
    pod.until(is_ours).await;
}

#[tokio::test(start_paused = true)]
async fn fault_03_a_dropped_stream_is_dialed_again_until_dns_forgets_the_pod() {
    let network = Network::default();
    let there: SocketAddr = "10.0.0.2:7090".parse().unwrap();
    let mut accept = network.listen(there);
    let mut pod = network.pod("10.0.0.1:7090", Options::default());
    pod.discovers(&[there]);
    for _ in 0..3 {
        let stream = within(accept.0.recv()).await.unwrap();
        let mut raw = Raw(tokio::io::join(stream.read, stream.write));
        raw.expect(FrameType::Hello).await;
        raw.hello("10.0.0.2:7090", "").await;
        pod.until(is_ours).await;
        drop(raw);
        pod.until(|told| matches!(told, Told::Down(_, false))).await;
    }
    let stream = within(accept.0.recv()).await.unwrap();
    let mut raw = Raw(tokio::io::join(stream.read, stream.write));
    raw.expect(FrameType::Hello).await;
    raw.hello("10.0.0.2:7090", "").await;
    pod.until(is_ours).await;
    // Its stream lives on; it is not dialed any more once that is gone.
    pod.discovers(&[]);
    raw.send(&crate::proto::cluster::PING).await;
    while raw.expect_any().await != FrameType::Pong {}
    drop(raw);
    pod.until(|told| matches!(told, Told::Down(_, false))).await;
    let again = tokio::time::timeout(Duration::from_secs(600), accept.0.recv()).await;
    assert!(again.is_err(), "dialed although nobody lists it");
}

/// Such as the port where peers connect, which answers with HTTP or with an alert of TLS.
#[tokio::test(start_paused = true)]
async fn fault_03_what_closes_after_a_word_that_is_no_frame_is_no_pod_and_dialed_ever_less() {
    let network = Network::default();
    let there: SocketAddr = "10.0.0.2:7090".parse().unwrap();
    let mut accept = network.listen(there);
    let mut pod = network.pod("10.0.0.1:7090", Options::default());
    pod.discovers(&[there]);
    let since = tokio::time::Instant::now();
    for round in 0..20 {
        let stream = within(accept.0.recv()).await.unwrap();
        let mut raw = Raw(tokio::io::join(stream.read, stream.write));
        raw.expect(FrameType::Hello).await;
        let words: &[u8] = match round % 2 {
            0 => b"HTTP/1.1 400 Bad Request\r\n\r\n",
            _ => &[0x15, 3, 3, 0, 2, 2, 70],
        };
        raw.send(words).await;
    }
    assert!(
        since.elapsed() >= Duration::from_secs(60),
        "the pauses grow"
    );
    assert!(pod.told.try_recv().is_err(), "the fabric knows of no pod");
    // A pod that is slow with its first frame is one.
    let stream = within(accept.0.recv()).await.unwrap();
    let mut raw = Raw(tokio::io::join(stream.read, stream.write));
    raw.expect(FrameType::Hello).await;
    raw.send(&crate::proto::cluster::PING[..1]).await;
    tokio::task::yield_now().await;
    raw.send(&crate::proto::cluster::PING[1..]).await;
    pod.until(is_ours).await;
}
