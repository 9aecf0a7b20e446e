//! A stream that fails to dial, or drops, is never dialed again on the reference. Here it is, as long as DNS lists the pod.

use super::*;

#[tokio::test]
async fn fault_03_a_failed_dial_is_tried_again() {
    // An address that nobody listens on yet.
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let mut pod = Pod::tcp(Options::default()).await;
    pod.discovers(&[address]);
    let listener = loop {
        // Somebody else's dial may have borrowed the port for a moment.
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let (stream, _) = within(listener.accept()).await.unwrap();
    let mut raw = Raw(stream);
    raw.expect(FrameType::Hello).await;
    raw.hello(&address.to_string(), "").await;
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
