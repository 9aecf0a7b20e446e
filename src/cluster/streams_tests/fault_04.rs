//! Two pods of the reference that dial each other at once each drop the other's connection and lose both. Here the stream that the
//! pod with the smaller address dialed is kept, and nothing that was sent meanwhile is lost, doubled or overtaken.

use super::*;
use crate::proto::cluster::{PING, PONG, encode_forward, encode_who_has};

/// A pod and another one, either with the smaller address.
const EITHER_IS_SMALLER: [(&str, &str); 2] = [
    ("10.0.0.1:7090", "10.0.0.2:7090"),
    ("10.0.0.3:7090", "10.0.0.2:7090"),
];

/// No message.
const NONE: [u32; 0] = [];

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

/// The other end of a stream of either direction.
type RawEnd = Raw<
    tokio::io::Join<
        Box<dyn tokio::io::AsyncRead + Send + Unpin>,
        Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
    >,
>;

impl RawEnd {
    fn of(stream: PodStream) -> Self {
        Self(tokio::io::join(stream.read, stream.write))
    }

    /// Waits until all that was sent before has been read: PINGs are answered at once, whatever else waits.
    async fn is_read(&mut self) {
        self.send(&PING).await;
        while self.expect_any().await != FrameType::Pong {}
    }

    async fn send_number(&mut self, number: u32) {
        let frame = encode_forward(FrameType::Forward, &bob(), &message(number)).unwrap();
        self.send(&frame).await;
    }

    async fn wait_for_end(&mut self) {
        while self.frame().await.is_some() {}
    }
}

/// A pod that dials `other` and is dialed by it; the stream that it dialed, on which its HELLO is not answered yet; the other one, which
/// is up.
async fn both_dial_unanswered(own: &str, other: &str) -> (Pod, RawEnd, RawEnd) {
    let network = Network::default();
    let there: SocketAddr = other.parse().unwrap();
    let mut accept = network.listen(there);
    let mut pod = network.pod(own, Options::default());
    pod.discovers(&[there]);
    let mut dialed_by_pod = RawEnd::of(within(accept.0.recv()).await.unwrap());
    dialed_by_pod.expect(FrameType::Hello).await;
    dialed_by_pod.expect(FrameType::Ping).await;
    let dial = network.dial(pod.address).unwrap();
    let mut dialed_by_other = RawEnd::of(PodStream::new(dial, None));
    dialed_by_other.hello(other, "").await;
    dialed_by_other.expect(FrameType::Hello).await;
    dialed_by_other.is_read().await;
    pod.until(is_ours).await;
    (pod, dialed_by_pod, dialed_by_other)
}

/// A pod with a stream in either direction, before it is settled which is kept; the one that the rule keeps; the other one.
async fn both_dial_unsettled(own: &str, other: &str) -> (Pod, RawEnd, RawEnd) {
    let (mut pod, mut dialed_by_pod, dialed_by_other) = both_dial_unanswered(own, other).await;
    dialed_by_pod.hello(other, "").await;
    pod.until(is_ours).await;
    if own < other {
        (pod, dialed_by_pod, dialed_by_other)
    } else {
        (pod, dialed_by_other, dialed_by_pod)
    }
}

fn number_told(told: &Told) -> Option<u32> {
    match told {
        Told::Message(_, message) => Some(number_of(message)),
        _ => None,
    }
}

/// The number of the next message, once it has come.
async fn next_number(pod: &mut Pod) -> u32 {
    let told = pod.until(|told| number_told(told).is_some()).await;
    number_told(&told).unwrap()
}

/// The numbers of the messages that have come since this was asked last.
fn new_numbers(pod: &mut Pod) -> Vec<u32> {
    let told = std::iter::from_fn(|| pod.told.try_recv().ok());
    told.filter_map(|told| number_told(&told)).collect()
}

/// The case that the rule is for.
#[tokio::test(start_paused = true)]
async fn fault_04_the_stream_dialed_by_the_smaller_address_is_kept() {
    for (own, other) in EITHER_IS_SMALLER {
        let (pod, mut kept, mut closed) = both_dial_unsettled(own, other).await;
        // Nothing is closed before the kept one has answered a PING.
        let early = tokio::time::timeout(Duration::from_millis(500), closed.wait_for_end()).await;
        assert!(
            early.is_err(),
            "closed before the kept stream is known to be up"
        );
        kept.send(&PONG).await;
        // At once, and not because the wrong one was asked and gave no answer.
        let prompt = tokio::time::timeout(Duration::from_millis(500), closed.wait_for_end()).await;
        assert!(prompt.is_ok(), "the other stream is not closed");
        let link = pod.link().await;
        assert_eq!(link.dialer() == Dialer::Us, own < other);
    }
}

/// The other pod has sent on one stream, then on the one that is kept. What it sent last arrives first.
#[tokio::test(start_paused = true)]
async fn fault_04_what_the_closed_stream_still_brings_is_not_overtaken() {
    for (own, other) in EITHER_IS_SMALLER {
        let (mut pod, mut kept, mut closed) = both_dial_unsettled(own, other).await;
        kept.send_number(1).await;
        kept.expect(FrameType::Ping).await;
        kept.send(&PONG).await;
        within(closed.wait_for_end()).await;
        kept.send_number(2).await;
        kept.is_read().await;
        assert_eq!(new_numbers(&mut pod), NONE);
        closed.send_number(0).await;
        assert_eq!(next_number(&mut pod).await, 0);
        // More may be under way until it ends.
        kept.is_read().await;
        assert_eq!(new_numbers(&mut pod), NONE);
        closed.0.shutdown().await.unwrap();
        pod.until(|told| matches!(told, Told::Down(..))).await;
        // From here on nothing waits.
        kept.send_number(3).await;
        kept.is_read().await;
        assert_eq!(new_numbers(&mut pod), [1, 2, 3]);
    }
}

/// The other pod has answered our dial and sent behind its answer, then on the stream that it dialed. The answer arrives last.
#[tokio::test(start_paused = true)]
async fn fault_04_what_comes_behind_an_answer_is_not_overtaken() {
    let (own, other) = ("10.0.0.3:7090", "10.0.0.2:7090");
    let (mut pod, mut dialed_by_pod, mut kept) = both_dial_unanswered(own, other).await;
    kept.send_number(1).await;
    kept.is_read().await;
    assert_eq!(new_numbers(&mut pod), NONE);
    dialed_by_pod.hello(other, "").await;
    dialed_by_pod.send_number(0).await;
    // What the other stream waits for does not wait itself, although it is not settled yet which is kept.
    assert_eq!(next_number(&mut pod).await, 0);
    kept.is_read().await;
    assert_eq!(new_numbers(&mut pod), NONE);
    dialed_by_pod.0.shutdown().await.unwrap();
    pod.until(|told| matches!(told, Told::Down(..))).await;
    kept.is_read().await;
    assert_eq!(new_numbers(&mut pod), [1]);
}

/// A stream that is dead wins nothing, whatever the rule says.
#[tokio::test(start_paused = true)]
async fn fault_04_a_dead_stream_gives_way_to_a_live_one() {
    let network = Network::default();
    let there: SocketAddr = "10.0.0.2:7090".parse().unwrap();
    let mut accept = network.listen(there);
    let mut pod = network.pod("10.0.0.1:7090", Options::default());
    pod.discovers(&[there]);
    let mut dead = RawEnd::of(within(accept.0.recv()).await.unwrap());
    dead.expect(FrameType::Hello).await;
    dead.hello("10.0.0.2:7090", "").await;
    pod.until(is_ours).await;
    // The other pod has started anew, on the same address, and knows nothing of that stream.
    let mut live = Raw(network.dial(pod.address).unwrap());
    live.hello("10.0.0.2:7090", "").await;
    live.send(&PING).await;
    live.send(&encode_who_has(&bob())).await;
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
