//! Peers that move between pods (faults 6 and 7).

use super::*;
use crate::cluster::exchange::TOLD_WITHIN;
use crate::proto::cluster::encode_lost;

fn three() -> [Pod; 3] {
    ["a:7090", "b:7090", "c:7090"].map(Pod::new)
}

fn mesh(pods: &[Pod; 3], delay: Duration) -> [Wire; 3] {
    let [a, b, c] = pods;
    [
        Wire::new(a, b, delay),
        Wire::new(b, c, delay),
        Wire::new(a, c, delay),
    ]
}

#[tokio::test(start_paused = true)]
async fn fault_06_the_newer_registration_wins_whatever_the_clocks_say() {
    let pods = three();
    let _wires = mesh(&pods, Duration::from_millis(1));
    let [a, b, c] = &pods;
    // A clock that is far ahead, one that is right, and one that is behind.
    b.date.advance(100_000);
    c.date.set(TODAY - 100_000);
    let mut alice = a.connect("alice").await;
    let mut on_b = b.connect("bob").await;
    sleep(Duration::from_millis(10)).await;
    alice.send("bob", b"1").await;
    assert_eq!(on_b.recv().await, message("alice", b"1"));
    let mut on_c = c.connect("bob").await;
    sleep(Duration::from_millis(10)).await;
    assert!(on_b.is_ended().await, "a takeover, across pods");
    assert!(!on_c.is_ended().await);
    alice.send("bob", b"2").await;
    assert_eq!(on_c.recv().await, message("alice", b"2"));
    let mut on_a = a.connect("bob").await;
    sleep(Duration::from_millis(10)).await;
    assert!(on_c.is_ended().await);
    alice.send("bob", b"3").await;
    assert_eq!(on_a.recv().await, message("alice", b"3"));
    for pod in &pods {
        assert_eq!(pod.owners.len(), 2);
        pod.assert_balanced();
    }
}

#[tokio::test(start_paused = true)]
async fn fault_06_the_newer_registration_wins_when_pods_meet_afterwards() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let mut on_b = b.connect("bob").await;
    a.date.advance(10);
    let mut on_a = a.connect("bob").await;
    // The smaller address has the newer one.
    let _wire = Wire::new(&a, &b, Duration::from_millis(1));
    sleep(Duration::from_millis(100)).await;
    assert!(on_b.is_ended().await);
    assert!(!on_a.is_ended().await);
}

#[tokio::test(start_paused = true)]
async fn fault_06_of_two_stock_pods_the_one_that_answers_last_is_believed() {
    let a = Pod::new("a:7090");
    let [mut before, mut after] = ["t:7090", "s:7090"].map(|address| StockPod::new(&a, address));
    before.add("sam");
    after.add("sam");
    before.frame(&encode_i_have(&id("sam"), Seqno(900)));
    // Its counter has not come so far: it counts its own answers.
    after.frame(&encode_i_have(&id("sam"), Seqno(3)));
    let mut alice = a.connect("alice").await;
    alice.send("sam", b"hello").await;
    before.turn().await;
    after.turn().await;
    assert_eq!(after.payloads("sam"), [b"hello"]);
    assert_eq!(before.payloads("sam").len(), 0);
    a.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn of_two_at_once_the_larger_address_wins_on_every_pod() {
    let pods = three();
    let wires = mesh(&pods, Duration::from_millis(1));
    let [a, b, c] = &pods;
    // Neither pod knows of the other's when it numbers its own.
    let mut on_b = b.connect("bob").await;
    let mut on_c = c.connect("bob").await;
    sleep(Duration::from_millis(20)).await;
    assert!(on_b.is_ended().await);
    assert!(!on_c.is_ended().await);
    let mut alice = a.connect("alice").await;
    alice.send("bob", b"to the larger").await;
    assert_eq!(on_c.recv().await, message("alice", b"to the larger"));
    drop(wires);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_hears_nothing_of_a_move() {
    let pods = three();
    let _wires = mesh(&pods, Duration::from_millis(1));
    let [a, b, c] = &pods;
    let mut alice = a.connect("alice").await;
    alice.subscribe(&["bob"]).await;
    let _on_b = b.connect("bob").await;
    assert_eq!(alice.recv().await, Heard::Online(id("bob")));
    let on_c = c.connect("bob").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(alice.heard().await, []);
    drop(on_c);
    assert_eq!(alice.recv().await, Heard::Offline(id("bob")));
}

#[tokio::test(start_paused = true)]
async fn fault_07_what_was_under_way_to_the_old_pod_is_sent_on_once() {
    let pods = three();
    let [a, b, c] = &pods;
    let _wires = [
        Wire::new(a, b, Duration::from_millis(10)),
        Wire::new(b, c, Duration::from_millis(1)),
        // The word of the move is slow to come to the sender's pod.
        Wire::new(a, c, Duration::from_millis(500)),
    ];
    let mut alice = a.connect("alice").await;
    let _on_b = b.connect("bob").await;
    sleep(Duration::from_secs(2)).await;
    let mut on_c = c.connect("bob").await;
    sleep(Duration::from_millis(5)).await;
    let mut expected = Vec::new();
    for number in 0..50_u8 {
        alice.send("bob", &[number]).await;
        expected.push(message("alice", &[number]));
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_secs(2)).await;
    let mut heard = on_c.heard().await;
    // None is lost and none comes twice; the route was broken, so they may overtake.
    heard.sort_by_key(|heard| format!("{heard:?}"));
    expected.sort_by_key(|heard| format!("{heard:?}"));
    assert_eq!(heard, expected);
    for pod in &pods {
        pod.assert_balanced();
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_hop_is_never_a_third() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let link = a.link_to(&b.address);
    let mut sink = Arc::clone(&a.owners).link_up(&link);
    a.owners.use_link(&link);
    link.set_ours();
    sink.became_ours();
    // The other pod claims the peer, so that there would be somewhere to send it.
    sink.frame(Frame::IHave {
        peer: id("bob"),
        seqno: Seqno(TODAY as u32),
    });
    let mut message = Vec::new();
    peer::encode_transport(&id("alice"), b"x", &mut message).unwrap();
    sink.frame(Frame::Reforward {
        destination: id("bob"),
        message: &message,
    });
    sink.flush();
    settle().await;
    assert_eq!(a.dropped(DropReason::NoSuchPeer), 1);
    assert_eq!(a.relay.counters().forwarded_count(), 0);
    a.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn fault_07_a_pod_that_says_lost_gets_no_more_for_the_peer() {
    let a = Pod::new("a:7090");
    let [mut old, mut new] = ["b:7090", "c:7090"].map(|address| StockPod::new(&a, address));
    for pod in [&mut old, &mut new] {
        assert!(pod.link.set_ours());
        pod.sink().became_ours();
        pod.add("bob");
    }
    // From here on pods of ours are not asked: they have told.
    sleep(TOLD_WITHIN).await;
    old.frame(&encode_i_have(&id("bob"), Seqno(TODAY as u32)));
    let mut alice = a.connect("alice").await;
    alice.send("bob", b"1").await;
    old.turn().await;
    old.frame(&encode_lost(&id("bob"), Seqno(0)));
    alice.send("bob", b"2").await;
    old.turn().await;
    assert_eq!(old.payloads("bob"), [b"1"], "it is believed");
    new.frame(&encode_i_have(&id("bob"), Seqno(TODAY as u32 + 1)));
    new.turn().await;
    assert_eq!(new.payloads("bob"), [b"2"], "held until somebody has him");
    a.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn fault_07_a_message_for_a_peer_that_is_not_here_is_answered_with_lost_once_a_batch() {
    let a = Pod::new("a:7090");
    let mut sender = StockPod::new(&a, "b:7090");
    let mut message = Vec::new();
    peer::encode_transport(&id("alice"), b"x", &mut message).unwrap();
    for _ in 0..10 {
        sender.sink().frame(Frame::Forward {
            destination: id("bob"),
            message: &message,
        });
    }
    sender.sink().flush();
    sender.turn().await;
    assert_eq!(sender.unknown, 1, "LOST");
}

#[tokio::test(start_paused = true)]
async fn fault_07_the_second_hop_is_refwd_to_ours_and_fwd_to_a_stock_pod() {
    for to_ours in [true, false] {
        let a = Pod::new("a:7090");
        let mut from = StockPod::new(&a, "b:7090");
        let mut to = StockPod::new(&a, "c:7090");
        to.add("bob");
        let seqno = if to_ours {
            assert!(to.link.set_ours());
            to.sink().became_ours();
            Seqno(TODAY as u32)
        } else {
            Seqno(1)
        };
        to.frame(&encode_i_have(&id("bob"), seqno));
        let mut message = Vec::new();
        peer::encode_transport(&id("alice"), b"x", &mut message).unwrap();
        from.sink().frame(Frame::Forward {
            destination: id("bob"),
            message: &message,
        });
        from.sink().flush();
        to.turn().await;
        // A stock pod takes no REFWD.
        assert_eq!(to.unknown, usize::from(to_ours));
        assert_eq!(to.payloads("bob").len(), usize::from(!to_ours));
        a.assert_balanced();
    }
}
