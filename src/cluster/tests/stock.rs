//! Stock pods in the same cluster: they answer, and say nothing else.

use super::*;

#[tokio::test(start_paused = true)]
async fn messages_reach_a_stock_pod_after_one_question() {
    let a = Pod::new("a:7090");
    let mut stock = StockPod::new(&a, "s:7090");
    stock.add("sam");
    let mut alice = a.connect("alice").await;
    for number in 0..10_u8 {
        alice.send("sam", &[number]).await;
    }
    stock.turn().await;
    stock.turn().await;
    alice.send("sam", &[10]).await;
    stock.turn().await;
    let payloads: Vec<Vec<u8>> = (0..=10).map(|number| vec![number]).collect();
    assert_eq!(stock.payloads("sam"), payloads);
    assert_eq!(stock.asked, [id("sam")]);
    assert_eq!(stock.unknown, 0);
    assert_eq!(stock.announced[0].0, id("alice"), "it is told of ours");
    a.assert_balanced();
    // After five minutes it is asked again.
    sleep(Duration::from_secs(301)).await;
    alice.send("sam", b"later").await;
    stock.turn().await;
    stock.turn().await;
    assert_eq!(stock.asked, [id("sam"), id("sam")]);
    assert_eq!(stock.payloads("sam").len(), 12);
}

#[tokio::test(start_paused = true)]
async fn a_watched_peer_is_found_when_it_comes_to_a_stock_pod_and_missed_when_it_leaves() {
    let a = Pod::new("a:7090");
    let mut stock = StockPod::new(&a, "s:7090");
    let mut alice = a.connect("alice").await;
    alice.subscribe(&["sam"]).await;
    stock.turn().await;
    assert_eq!(stock.asked, [id("sam")], "at once");
    assert_eq!(alice.heard().await, []);
    for _ in 0..10 {
        sleep(Duration::from_secs(1)).await;
        stock.turn().await;
    }
    assert!(
        (3..=6).contains(&stock.asked.len()),
        "{:?}",
        stock.asked.len()
    );
    stock.add("sam");
    for _ in 0..10 {
        sleep(Duration::from_secs(1)).await;
        stock.turn().await;
    }
    assert_eq!(alice.heard().await, [Heard::Online(id("sam"))]);
    // It stays, and that is verified now and then.
    for _ in 0..300 {
        sleep(Duration::from_secs(1)).await;
        stock.turn().await;
    }
    assert_eq!(alice.heard().await, []);
    stock.peers.clear();
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        stock.turn().await;
    }
    assert_eq!(alice.heard().await, [Heard::Offline(id("sam"))]);
    // Nobody cares any longer: no more questions.
    drop(alice);
    sleep(Duration::from_secs(60)).await;
    stock.turn().await;
    let asked = stock.asked.len();
    sleep(Duration::from_secs(600)).await;
    stock.turn().await;
    assert_eq!(stock.asked.len(), asked);
    assert_eq!((a.owners.asks.len(), a.owners.timeline.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_moves_from_a_stock_pod_to_ours_and_back_is_followed() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let _wire = Wire::new(&a, &b, Duration::from_millis(1));
    let mut stock = StockPod::new(&a, "s:7090");
    stock.add("sam");
    let mut alice = a.connect("alice").await;
    alice.send("sam", b"1").await;
    stock.turn().await;
    stock.turn().await;
    assert_eq!(stock.payloads("sam"), [b"1"]);
    // To ours: announced. The stock pod keeps its old connection, as they do.
    let mut sam = b.connect("sam").await;
    sleep(Duration::from_millis(5)).await;
    alice.send("sam", b"2").await;
    assert_eq!(sam.recv().await, message("alice", b"2"));
    // Back: it leaves ours, and the next message asks.
    drop(sam);
    sleep(Duration::from_millis(5)).await;
    alice.send("sam", b"3").await;
    stock.turn().await;
    stock.turn().await;
    assert_eq!(stock.payloads("sam"), [b"1", b"3"]);
    a.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn a_watched_peer_that_leaves_for_a_stock_pod_is_found_there() {
    let a = Pod::new("a:7090");
    let mut stock = StockPod::new(&a, "s:7090");
    let mut alice = a.connect("alice").await;
    let sam = a.connect("sam").await;
    alice.subscribe(&["sam"]).await;
    assert_eq!(alice.heard().await, [Heard::Online(id("sam"))]);
    stock.add("sam");
    drop(sam);
    assert_eq!(alice.recv().await, Heard::Offline(id("sam")));
    stock.turn().await;
    assert_eq!(stock.asked, [id("sam")], "at once, and nobody has to send");
    assert_eq!(alice.heard().await, [Heard::Online(id("sam"))]);
}

#[tokio::test(start_paused = true)]
async fn a_stock_pod_that_sends_to_the_wrong_pod_is_helped() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let _wire = Wire::new(&a, &b, Duration::from_millis(1));
    let mut stock = StockPod::new(&a, "s:7090");
    let mut bob = b.connect("bob").await;
    sleep(Duration::from_millis(5)).await;
    let mut message = Vec::new();
    peer::encode_transport(&id("sam"), b"stale", &mut message).unwrap();
    let frame = crate::proto::cluster::encode_forward(
        crate::proto::cluster::FrameType::Forward,
        &id("bob"),
        &message,
    )
    .unwrap();
    stock.frame(&frame);
    assert_eq!(bob.recv().await, super::message("sam", b"stale"));
    stock.turn().await;
    assert_eq!(stock.unknown, 1, "LOST, which it skips");
    settle().await;
    a.assert_balanced();
    b.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn a_stock_pod_that_is_linked_later_is_asked_for_those_who_are_watched() {
    let a = Pod::new("a:7090");
    let mut alice = a.connect("alice").await;
    alice.subscribe(&["sam"]).await;
    sleep(Duration::from_secs(10)).await;
    let mut stock = StockPod::new(&a, "s:7090");
    stock.add("sam");
    sleep(Duration::from_millis(1_100)).await;
    stock.turn().await;
    assert_eq!(alice.heard().await, [Heard::Online(id("sam"))]);
}

#[tokio::test(start_paused = true)]
async fn fault_01_a_lookup_ends_with_the_first_answer_and_is_shared() {
    let a = Pod::new("a:7090");
    let mut has_it = StockPod::new(&a, "s:7090");
    let mut has_it_not = StockPod::new(&a, "t:7090");
    has_it.add("sam");
    let mut senders = Vec::new();
    for name in ["alice", "bob", "carol"] {
        senders.push(a.connect(name).await);
    }
    let began = Instant::now();
    for sender in &mut senders {
        sender.send("sam", b"hello").await;
    }
    settle().await;
    sleep(Duration::from_millis(1)).await;
    has_it.turn().await;
    has_it.turn().await;
    assert_eq!(has_it.payloads("sam").len(), 3);
    assert_eq!(began.elapsed(), Duration::from_millis(1), "not 200 ms");
    has_it_not.turn().await;
    assert_eq!(
        [has_it.asked.len(), has_it_not.asked.len()],
        [1, 1],
        "one question for all three"
    );
    // A later answer is news, too: the peer is on the other pod by now.
    has_it_not.add("sam");
    has_it_not.frame(&encode_i_have(&id("sam"), Seqno(7)));
    senders[0].send("sam", b"again").await;
    has_it_not.turn().await;
    assert_eq!(has_it_not.payloads("sam"), [b"again"]);
    a.assert_balanced();
}
