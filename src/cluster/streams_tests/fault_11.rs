//! On the reference the dialer never learns who answered. Here the accepting side answers with a HELLO of its own, and a pod that
//! has not proven the secret carries no peers.

use super::*;

/// The stream that a pod with these options dials, its HELLO read.
async fn dialed(
    options: Options,
) -> (
    Pod,
    Raw<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>,
) {
    let network = Network::default();
    let there: SocketAddr = "10.0.0.2:7090".parse().unwrap();
    let mut accept = network.listen(there);
    let pod = network.pod("10.0.0.1:7090", options);
    pod.discovers(&[there]);
    let stream = within(accept.0.recv()).await.unwrap();
    let mut raw = Raw(tokio::io::join(stream.read, stream.write));
    raw.expect(FrameType::Hello).await;
    (pod, raw)
}

fn with_secret(allow_one_way: bool) -> Options {
    Options {
        secrets: vec!["new", "old"],
        allow_one_way,
        ..Options::default()
    }
}

#[tokio::test(start_paused = true)]
async fn fault_11_a_pod_that_proves_the_secret_carries_peers() {
    for secret in ["new", "old"] {
        let (mut pod, mut raw) = dialed(with_secret(false)).await;
        raw.hello("10.0.0.2:7090", secret).await;
        pod.until(is_ours).await;
        let link = pod.link().await;
        assert!(link.is_ours() && link.carries_peers());
    }
}

#[tokio::test(start_paused = true)]
async fn fault_11_a_pod_that_does_not_answer_carries_none_unless_it_is_allowed() {
    for (options, carries_peers) in [
        (with_secret(false), false),
        (with_secret(true), true),
        (Options::default(), true),
    ] {
        let (pod, _raw) = dialed(options).await;
        let link = pod.link().await;
        assert!(!link.is_ours());
        assert_eq!(link.carries_peers(), carries_peers);
        let counted = f64::from(u8::from(carries_peers));
        assert_eq!(pod.metric("relay_cluster_streams"), counted);
        assert_eq!(pod.metric("relay_cluster_stream_up"), counted);
    }
}

#[tokio::test(start_paused = true)]
async fn fault_11_a_late_answer_counts() {
    let (mut pod, mut raw) = dialed(with_secret(false)).await;
    assert!(!pod.link().await.carries_peers());
    raw.hello("10.0.0.2:7090", "new").await;
    pod.until(is_ours).await;
    assert!(pod.link().await.carries_peers());
    assert_eq!(pod.metric("relay_cluster_streams"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn fault_11_a_wrong_answer_is_refused_and_counted() {
    let (pod, mut raw) = dialed(with_secret(false)).await;
    raw.hello("10.0.0.2:7090", "wrong").await;
    while within(raw.frame()).await.is_some() {}
    assert_eq!(pod.rejects(HelloRefusal::HmacMismatch), 1.0);
    assert_eq!(pod.streams.links.len(), 0);
    let (pod, mut raw) = dialed(with_secret(false)).await;
    raw.hello("10.0.0.2:7090", "").await;
    while within(raw.frame()).await.is_some() {}
    assert_eq!(pod.rejects(HelloRefusal::UnsignedButRequired), 1.0);
    // Late, it is as wrong.
    let (mut pod, mut raw) = dialed(with_secret(true)).await;
    assert!(pod.link().await.carries_peers());
    raw.hello("10.0.0.2:7090", "wrong").await;
    pod.until(|told| matches!(told, Told::Down(_, false))).await;
    assert_eq!(pod.rejects(HelloRefusal::HmacMismatch), 1.0);
}

/// What we said ourselves proves nothing when it comes back.
#[tokio::test(start_paused = true)]
async fn fault_11_our_own_hello_is_no_proof() {
    let (pod, mut raw) = dialed(with_secret(false)).await;
    raw.hello("10.0.0.1:7090", "new").await;
    while within(raw.frame()).await.is_some() {}
    assert_eq!(pod.streams.links.len(), 0);
    // Neither does it late, or behind something else.
    for begins_with_ping in [false, true] {
        let (mut pod, mut raw) = dialed(with_secret(false)).await;
        if begins_with_ping {
            raw.send(&crate::proto::cluster::PING).await;
        }
        let link = pod.link().await;
        raw.hello("10.0.0.1:7090", "new").await;
        within(link.ended()).await;
        assert!(!link.carries_peers() && !link.is_ours());
        let told = pod.until(|told| matches!(told, Told::Ours(_) | Told::Down(..)));
        assert!(matches!(told.await, Told::Down(_, false)));
    }
}

/// Nothing could be sent to a stock pod that has proven itself, if the stream on which it does not had the place of the other.
#[tokio::test(start_paused = true)]
async fn fault_11_a_stream_that_carries_none_takes_no_place_from_one_that_does() {
    let network = Network::default();
    let there: SocketAddr = "10.0.0.2:7090".parse().unwrap();
    let mut accept = network.listen(there);
    let pod = network.pod("10.0.0.1:7090", with_secret(false));
    pod.discovers(&[there]);
    let stream = within(accept.0.recv()).await.unwrap();
    let mut silent = Raw(tokio::io::join(stream.read, stream.write));
    silent.expect(FrameType::Hello).await;
    let mut proven = Raw(network.dial(pod.address).unwrap());
    proven.hello("10.0.0.2:7090", "new").await;
    proven.expect(FrameType::Hello).await;
    let link = pod.link().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(link.carries_peers());
    assert_eq!(pod.link().await.number(), link.number());
    assert_eq!(pod.metric("relay_cluster_streams"), 1.0);
    drop(proven);
    within(link.ended()).await;
    assert_eq!(pod.metric("relay_cluster_streams"), 0.0);
}

#[tokio::test]
async fn fault_11_two_pods_know_each_other_whoever_dialed() {
    let mut one = Pod::tcp(with_secret(false)).await;
    let mut two = Pod::tcp(with_secret(false)).await;
    one.discovers(&[two.address]);
    one.until(is_ours).await;
    two.until(is_ours).await;
    for pod in [&one, &two] {
        let link = pod.link().await;
        assert!(link.is_ours() && link.carries_peers());
        assert_eq!(pod.metric("relay_cluster_streams"), 1.0);
    }
}

/// What the pod at an address announced is forgotten with its stream.
#[tokio::test]
async fn fault_11_an_address_that_comes_back_as_another_pod_is_dialed() {
    let announced: SocketAddr = "10.9.9.9:7090".parse().unwrap();
    let announcing = || Options {
        announces: Some(announced),
        ..Options::default()
    };
    let two = Pod::tcp(announcing()).await;
    let mut one = Pod::tcp(Options::default()).await;
    one.discovers(&[two.address]);
    one.until(is_ours).await;
    let address = two.address;
    two.streams.stop().await;
    one.until(|told| matches!(told, Told::Down(..))).await;
    // The pod itself is back, elsewhere ...
    let mut moved = Pod::tcp(announcing()).await;
    moved.discovers(&[one.address]);
    moved.until(is_ours).await;
    one.until(is_ours).await;
    // ... and where it was there is another one.
    drop(two);
    let listener = listens_again(address).await;
    let (stream, _) = within(listener.accept()).await.unwrap();
    let mut other = Raw(stream);
    other.expect(FrameType::Hello).await;
    other.hello(&address.to_string(), "").await;
    one.until(is_ours).await;
    assert_eq!(one.streams.links.len(), 2);
}

/// A pod is known by what it announces, and is not dialed a second time under another address.
#[tokio::test]
async fn fault_11_a_pod_is_known_by_the_address_that_it_announces() {
    let announced: SocketAddr = "10.9.9.9:7090".parse().unwrap();
    let two = Pod::tcp(Options {
        announces: Some(announced),
        ..Options::default()
    })
    .await;
    let mut one = Pod::tcp(Options::default()).await;
    one.discovers(&[two.address]);
    one.until(is_ours).await;
    assert_eq!(one.link().await.pod().0, announced.to_string());
    assert!(one.streams.links.is_linked(two.address));
    assert!(one.streams.links.is_linked(announced));
}
