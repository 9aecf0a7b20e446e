//! Who is refused before it is a pod, and under which name that is counted.

use super::*;

async fn refused(pod: &Pod, secret: &str, bytes: &[u8], refusal: HelloRefusal) {
    let before = pod.rejects(refusal);
    let mut raw = Raw(tokio::net::TcpStream::connect(pod.address).await.unwrap());
    if bytes.is_empty() {
        raw.hello("10.0.0.2:7090", secret).await;
    } else {
        raw.send(bytes).await;
        raw.0.shutdown().await.unwrap();
    }
    assert!(within(raw.frame()).await.is_none(), "{refusal:?}");
    within(async {
        while pod.rejects(refusal) != before + 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn refusals_are_counted_by_reason() {
    use HelloRefusal::*;
    let pod = Pod::tcp(Options {
        secrets: vec!["right"],
        ..Options::default()
    })
    .await;
    refused(&pod, "wrong", &[], HmacMismatch).await;
    refused(&pod, "", &[], UnsignedButRequired).await;
    refused(&pod, "", b"GET / HTTP/1.1\r\n\r\n", FirstFrameNotHello).await;
    refused(&pod, "", &[0x16, 3, 1, 0, 5], FirstFrameNotHello).await;
    refused(&pod, "", &[0x00, 0x00], Malformed).await;
    refused(&pod, "", &[0x00, 0xff, 0xff, 2], Malformed).await;
    let right = ClusterSecret::new("right");
    let stale = encode_hello("10.0.0.2:7090", NOW - 301, right.as_ref()).unwrap();
    refused(&pod, "", &stale, StaleTimestamp).await;
    let open = Pod::tcp(Options::default()).await;
    refused(&open, "right", &[], SignedButUnsupported).await;
    assert_eq!(pod.streams.links.len() + open.streams.links.len(), 0);
}

/// By our answer it sees what is wrong, too.
#[tokio::test]
async fn a_pod_that_announces_our_address_is_refused() {
    let pod = Pod::tcp(Options::default()).await;
    let own = pod.address.to_string();
    let mut raw = Raw(tokio::net::TcpStream::connect(pod.address).await.unwrap());
    raw.hello(&own, "").await;
    let answer = raw.expect(FrameType::Hello).await;
    let verdict = crate::proto::cluster::hello::check_hello(&answer, &[], NOW);
    assert_eq!(verdict, Ok(&*own));
    assert!(within(raw.frame()).await.is_none());
    within(async {
        while pod.rejects(HelloRefusal::OwnAddress) != 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(pod.streams.links.len(), 0);
}

/// As where a list names a pod by another address than it announces: nobody is to blame.
#[tokio::test]
async fn a_pod_that_dials_itself_notices_and_counts_nothing() {
    let pod = Pod::tcp(Options {
        announces: Some("10.0.0.1:7090".parse().unwrap()),
        ..Options::default()
    })
    .await;
    let stream = tokio::net::TcpStream::connect(pod.address).await.unwrap();
    let stream = PodStream::tcp(stream).unwrap();
    let Err(error) = within(pod.streams.dialed(pod.address, stream)).await else {
        panic!("a link to itself");
    };
    assert!(matches!(error, GreetError::Ourselves), "{error}");
    assert_eq!(pod.rejects(HelloRefusal::OwnAddress), 0.0);
    assert_eq!(pod.streams.links.len(), 0);
}

#[tokio::test]
async fn a_probe_without_a_word_is_not_counted() {
    let pod = Pod::tcp(Options::default()).await;
    for _ in 0..3 {
        let mut probe = tokio::net::TcpStream::connect(pod.address).await.unwrap();
        probe.shutdown().await.unwrap();
        assert_eq!(within(probe.read(&mut [0])).await.unwrap(), 0);
    }
    let refused: f64 = HelloRefusal::ALL
        .iter()
        .map(|refusal| pod.rejects(*refusal))
        .sum();
    assert_eq!(refused, 0.0);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_closed_after_ten_seconds() {
    let network = Network::default();
    let pod = network.pod("10.0.0.1:7090", Options::default());
    let since = tokio::time::Instant::now();
    let mut raw = Raw(network.dial(pod.address).unwrap());
    raw.send(&[0]).await;
    assert!(within(raw.frame()).await.is_none());
    assert_eq!(since.elapsed().as_secs(), 10);
    assert_eq!(pod.rejects(HelloRefusal::Timeout), 1.0);
}

/// One address cannot keep the others out.
#[tokio::test]
async fn streams_that_say_nothing_are_bounded_for_each_address() {
    let pod = Pod::tcp(Options::default()).await;
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(tokio::net::TcpStream::connect(pod.address).await.unwrap());
    }
    // All of them are accepted in order, so the next one finds no place.
    let mut refused = tokio::net::TcpStream::connect(pod.address).await.unwrap();
    assert!(matches!(
        within(refused.read(&mut [0])).await,
        Ok(0) | Err(_)
    ));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut raw = Raw(socket.connect(pod.address).await.unwrap());
    raw.hello("10.0.0.2:7090", "").await;
    raw.expect(FrameType::Hello).await;
}

#[tokio::test(start_paused = true)]
async fn wrong_frames_end_the_stream_and_unknown_ones_do_not() {
    let network = Network::default();
    let mut pod = network.pod("10.0.0.1:7090", Options::default());
    let dial = async |address: &str| {
        let mut raw = Raw(network.dial("10.0.0.1:7090".parse().unwrap()).unwrap());
        raw.hello(address, "").await;
        raw.expect(FrameType::Hello).await;
        raw.expect(FrameType::Ping).await;
        raw
    };
    let mut raw = dial("10.0.0.2:7090").await;
    raw.send(&[0xff, 0, 2, 1, 2]).await;
    raw.send(&[0x10, 0, 1, 9]).await;
    raw.send(&crate::proto::cluster::PING).await;
    raw.expect(FrameType::Pong).await;
    for wrong in [
        &[0x01, 0, 1, 9][..],
        &[0x02, 0, 0],
        &[0x03, 0, 0],
        &[0x14, 0, 1, 1],
        &[0x15, 0, 0],
    ] {
        let mut raw = dial("10.0.0.3:7090").await;
        raw.send(wrong).await;
        pod.until(|told| matches!(told, Told::Down(_, false))).await;
        while within(raw.frame()).await.is_some() {}
    }
}

#[tokio::test(start_paused = true)]
async fn secrets_are_replaced_while_it_runs() {
    let network = Network::default();
    let mut pod = network.pod(
        "10.0.0.1:7090",
        Options {
            secrets: vec!["old"],
            ..Options::default()
        },
    );
    let mut raw = Raw(network.dial(pod.address).unwrap());
    raw.hello("10.0.0.2:7090", "new").await;
    assert!(within(raw.frame()).await.is_none());
    pod.secrets.set_secrets(cluster_secrets(&["new", "old"]));
    let mut raw = Raw(network.dial(pod.address).unwrap());
    raw.hello("10.0.0.2:7090", "old").await;
    let answer = raw.expect(FrameType::Hello).await;
    let verdict =
        crate::proto::cluster::hello::check_hello(&answer, &cluster_secrets(&["new"]), NOW);
    assert_eq!(verdict, Ok("10.0.0.1:7090"), "the first secret signs");
    pod.until(|told| matches!(told, Told::Up(_))).await;
}
