//! Two pods of the reference that dial each other at once each drop the other's connection and lose both. Here the stream that the
//! pod with the smaller address dialed is kept, and nothing that was sent meanwhile is lost, doubled or overtaken.

use super::*;

/// Sends numbered messages over whatever link is used, in batches of three, until `stop`; how many.
async fn send_numbers(recorder: Arc<Recorder>, mut stop: watch::Receiver<bool>) -> u32 {
    let mut used = recorder.used.subscribe();
    let mut number = 0;
    while !*stop.borrow_and_update() {
        let link = used
            .wait_for(|link| link.as_ref().is_some_and(|link| link.is_ours()))
            .await
            .unwrap()
            .clone()
            .unwrap();
        for _ in 0..3 {
            if link
                .forward(FrameType::Forward, &bob(), &message(number))
                .is_ok()
            {
                number += 1;
            }
        }
        link.flush();
        // Not a flood: it is the change that is tested.
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    number
}

async fn both_dial(one: &mut Pod, two: &mut Pod) {
    one.discovers(&[two.address]);
    two.discovers(&[one.address]);
    let stop = watch::Sender::new(false);
    let senders = [&*one, &*two]
        .map(|pod| tokio::spawn(send_numbers(Arc::clone(&pod.recorder), stop.subscribe())));
    for pod in [&*one, &*two] {
        let mut used = pod.recorder.used.subscribe();
        within(used.wait_for(|link| link.as_ref().is_some_and(|link| link.is_ours())))
            .await
            .unwrap();
    }
    agree(one, two).await;
    stop.send_replace(true);
    let [sent_by_one, sent_by_two] = senders;
    for (sent, receiver) in [
        (sent_by_one.await.unwrap(), &mut *two),
        (sent_by_two.await.unwrap(), &mut *one),
    ] {
        let mut expected = 0;
        while expected < sent {
            if let Told::Message(_, message) = receiver.next().await {
                assert_eq!(number_of(&message), expected, "of {sent}");
                expected += 1;
            }
        }
    }
    // A dial that was under way at the first time may have changed it once more.
    agree(one, two).await;
}

/// Waits until both have one stream, and the same, and use it.
async fn agree(one: &Pod, two: &Pod) {
    let agree = async {
        loop {
            let dialers = [one, two].map(|pod| {
                let used = pod.recorder.used.borrow().clone();
                let used = used.filter(|link| link.is_up()).map(|link| link.dialer());
                used.filter(|_| pod.streams.links.only_dialer() == used)
            });
            if let [Some(of_one), Some(of_two)] = dialers
                && of_one != of_two
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), agree)
        .await
        .is_err()
    {
        let used = [one, two].map(|pod| pod.recorder.used.borrow().clone());
        panic!("{:#?}\n{:#?}\n{used:#?}", one.streams, two.streams);
    }
}

#[tokio::test]
async fn fault_04_both_dial_and_one_stream_is_left() {
    for _ in 0..50 {
        let mut one = Pod::tcp(Options::default()).await;
        let mut two = Pod::tcp(Options::default()).await;
        both_dial(&mut one, &mut two).await;
        one.streams.stop().await;
        two.streams.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fault_04_both_dial_on_several_threads() {
    for _ in 0..50 {
        let mut one = Pod::tcp(Options::default()).await;
        let mut two = Pod::tcp(Options::default()).await;
        both_dial(&mut one, &mut two).await;
        one.streams.stop().await;
        two.streams.stop().await;
    }
}

/// Both streams are there before anything is settled: the case that the rule is for.
#[tokio::test(start_paused = true)]
async fn fault_04_the_stream_dialed_by_the_smaller_address_is_kept() {
    for (own, other) in [
        ("10.0.0.1:7090", "10.0.0.2:7090"),
        ("10.0.0.3:7090", "10.0.0.2:7090"),
    ] {
        let network = Network::default();
        let there: SocketAddr = other.parse().unwrap();
        let mut accept = network.listen(there);
        let mut pod = network.pod(own, Options::default());
        pod.discovers(&[there]);
        let stream = within(accept.0.recv()).await.unwrap();
        let mut dialed_by_pod = Raw(tokio::io::join(stream.read, stream.write));
        dialed_by_pod.expect(FrameType::Hello).await;
        // The other pod dials before it answers.
        let mut dialed_by_other = Raw(network.dial(pod.address).unwrap());
        dialed_by_other.hello(other, "").await;
        dialed_by_other.send(&crate::proto::cluster::PING).await;
        dialed_by_other.expect(FrameType::Hello).await;
        pod.until(is_ours).await;
        dialed_by_pod.hello(other, "").await;
        pod.until(is_ours).await;
        let (mut kept, mut closed) = if own < other {
            (
                Box::new(dialed_by_pod) as Box<dyn Other>,
                Box::new(dialed_by_other) as Box<dyn Other>,
            )
        } else {
            (Box::new(dialed_by_other) as _, Box::new(dialed_by_pod) as _)
        };
        // Nothing is closed before the kept one has answered a PING.
        let early = tokio::time::timeout(Duration::from_millis(500), closed.wait_for_end()).await;
        assert!(
            early.is_err(),
            "closed before the kept stream is known to be up"
        );
        kept.answer_pings();
        // At once, and not because the wrong one was asked and gave no answer.
        let prompt = tokio::time::timeout(Duration::from_millis(500), closed.wait_for_end()).await;
        assert!(prompt.is_ok(), "the other stream is not closed");
        let link = pod.link().await;
        assert_eq!(link.dialer() == Dialer::Us, own < other);
    }
}

/// A stream that is dead wins nothing, whatever the rule says.
#[tokio::test(start_paused = true)]
async fn fault_04_a_dead_stream_gives_way_to_a_live_one() {
    let network = Network::default();
    let there: SocketAddr = "10.0.0.2:7090".parse().unwrap();
    let mut accept = network.listen(there);
    let mut pod = network.pod("10.0.0.1:7090", Options::default());
    pod.discovers(&[there]);
    let stream = within(accept.0.recv()).await.unwrap();
    let mut dead = Raw(tokio::io::join(stream.read, stream.write));
    dead.expect(FrameType::Hello).await;
    dead.hello("10.0.0.2:7090", "").await;
    pod.until(is_ours).await;
    // The other pod has started anew, on the same address, and knows nothing of that stream.
    let mut live = Raw(network.dial(pod.address).unwrap());
    live.hello("10.0.0.2:7090", "").await;
    live.send(&crate::proto::cluster::PING).await;
    let who_has = crate::proto::cluster::encode_who_has(&bob());
    live.send(&who_has).await;
    let first = pod.until(is_ours).await;
    let Told::Ours(live_number) = first else {
        unreachable!()
    };
    // What it says counts once the old stream is known to be dead, not before.
    let lost = pod.next().await;
    assert!(
        matches!(lost, Told::Down(number, false) if number != live_number),
        "{lost:?}"
    );
    assert_eq!(pod.next().await, Told::Used(live_number));
    assert!(matches!(pod.next().await, Told::Frame(number, _) if number == live_number));
}

trait Other: Send {
    fn answer_pings(&mut self);
    fn wait_for_end(&mut self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static> Other for Raw<S>
where
    Self: Send,
{
    fn answer_pings(&mut self) {
        // The PING that asks has been sent: one PONG is enough.
        let mut pong = std::pin::pin!(self.0.write_all(&crate::proto::cluster::PONG));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(pong.as_mut().poll(&mut cx).is_ready(), "a pipe with room");
    }

    fn wait_for_end(&mut self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async { while self.frame().await.is_some() {} })
    }
}
