//! Messages between pods: found at once, held in order, dropped and counted.

use super::*;
use crate::cluster::asker::FOR_A_PEER;
use crate::cluster::exchange::TOLD_WITHIN;
use crate::cluster::held::{HANDSHAKES, HOLD_MESSAGES};
use crate::cluster::owner_metrics::ForwardResult;

#[tokio::test(start_paused = true)]
async fn a_message_crosses_and_is_counted_on_both_pods() {
    let (a, b) = (Pod::new("10.0.0.1:7090"), Pod::new("10.0.0.2:7090"));
    let _wire = Wire::new(&a, &b, Duration::ZERO);
    let (mut alice, mut bob) = (a.connect("alice").await, b.connect("bob").await);
    settle().await;
    assert_eq!((a.owners.len(), b.owners.len()), (2, 2));
    for number in 0..100_u8 {
        alice.send("bob", &[number]).await;
        bob.send("alice", &[number]).await;
    }
    for number in 0..100_u8 {
        assert_eq!(bob.recv().await, message("alice", &[number]));
        assert_eq!(alice.recv().await, message("bob", &[number]));
    }
    settle().await;
    for pod in [&a, &b] {
        pod.assert_balanced();
        assert_eq!(pod.relay.counters().forwarded_count(), 100);
        assert_eq!(pod.relay.counters().received_from_pods_count(), 100);
        assert_eq!(pod.owners.metrics.forwarded_count(ForwardResult::Ok), 100);
        assert_eq!(pod.owners.lookups.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn peers_that_were_there_before_the_link_are_exchanged() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let mut alice = a.connect("alice").await;
    let mut peers = Vec::new();
    for number in 0..500 {
        peers.push(b.connect(&format!("peer {number}")).await);
    }
    assert_eq!(a.owners.len(), 1);
    let _wire = Wire::new(&a, &b, Duration::from_millis(2));
    sleep(Duration::from_secs(1)).await;
    assert_eq!((a.owners.len(), b.owners.len()), (501, 501));
    assert_eq!((a.owners.exchanges.len(), b.owners.exchanges.len()), (0, 0));
    alice.send("peer 321", b"hello").await;
    assert_eq!(peers[321].recv().await, message("alice", b"hello"));
}

#[tokio::test(start_paused = true)]
async fn fault_02_reading_goes_on_while_nobody_answers() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let _wire = Wire::new(&a, &b, Duration::from_millis(1));
    let mut alice = a.connect("alice").await;
    let mut carol = a.connect("carol").await;
    alice.send("nobody", b"1").await;
    alice.send("nobody", b"2").await;
    // Reading goes on: what is for others is there before the lookup has ended.
    alice.send("carol", b"meanwhile").await;
    assert_eq!(carol.recv().await, message("alice", b"meanwhile"));
    assert_eq!(a.dropped(DropReason::NoSuchPeer), 0);
    assert!(a.owners.holds.used() > 0);
    sleep(Duration::from_millis(199)).await;
    assert_eq!(a.dropped(DropReason::NoSuchPeer), 0);
    sleep(Duration::from_millis(2)).await;
    assert_eq!(a.dropped(DropReason::NoSuchPeer), 2);
    // Remembered: dropped at once, without a question.
    alice.send("nobody", b"3").await;
    settle().await;
    assert_eq!(a.dropped(DropReason::NoSuchPeer), 3);
    // And then asked for again.
    sleep(Duration::from_millis(1_000)).await;
    alice.send("nobody", b"4").await;
    settle().await;
    assert_eq!(a.dropped(DropReason::NoSuchPeer), 3);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(a.dropped(DropReason::NoSuchPeer), 4);
    assert_eq!(a.owners.holds.used(), 0);
    a.assert_balanced();
    assert_eq!(a.owners.timeline.len(), 0, "nothing is left behind");
}

#[tokio::test(start_paused = true)]
async fn a_burst_to_a_peer_that_is_coming_keeps_its_order_and_loses_nothing() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let _wire = Wire::new(&a, &b, Duration::from_millis(5));
    let mut alice = a.connect("alice").await;
    for number in 0..1_000_u32 {
        alice.send("bob", &number.to_be_bytes()).await;
    }
    settle().await;
    let mut bob = b.connect("bob").await;
    // More while the others leave.
    for number in 1_000..1_100_u32 {
        alice.send("bob", &number.to_be_bytes()).await;
        if number % 10 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    for number in 0..1_100_u32 {
        assert_eq!(bob.recv().await, message("alice", &number.to_be_bytes()));
    }
    settle().await;
    a.assert_balanced();
    assert_eq!(a.owners.holds.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_comes_here_gets_what_was_held_for_it() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let _wire = Wire::new(&a, &b, Duration::from_millis(5));
    let mut alice = a.connect("alice").await;
    for number in 0..10_u8 {
        alice.send("bob", &[number]).await;
    }
    settle().await;
    let mut bob = a.connect("bob").await;
    alice.send("bob", &[10]).await;
    for number in 0..=10_u8 {
        assert_eq!(bob.recv().await, message("alice", &[number]));
    }
    settle().await;
    a.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn no_more_is_held_than_may_be() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let _wire = Wire::new(&a, &b, Duration::from_millis(5));
    let mut alice = a.connect("alice").await;
    // The rest is for handshakes.
    let fit = HOLD_MESSAGES - HOLD_MESSAGES / HANDSHAKES;
    for _ in 0..fit + 10 {
        alice.send("nobody", b"").await;
    }
    sleep(Duration::from_millis(50)).await;
    assert_eq!(a.dropped(DropReason::HoldFull), 10);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(a.dropped(DropReason::NoSuchPeer), fit as u64);
    a.assert_balanced();
    assert_eq!(
        a.owners.metrics.forwarded_count(ForwardResult::SendError),
        10
    );
    assert_eq!(
        a.owners
            .metrics
            .forwarded_count(ForwardResult::PeerNotFound),
        fit as u64
    );
}

#[tokio::test(start_paused = true)]
async fn guessing_ids_is_shed() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let _wire = Wire::new(&a, &b, Duration::from_millis(5));
    let mut alice = a.connect("alice").await;
    for number in 0..5_000_u32 {
        alice.send(&format!("guess {number}"), b"").await;
    }
    settle().await;
    let guesses = FOR_A_PEER as u64;
    assert_eq!(a.dropped(DropReason::FabricOverloaded), 5_000 - guesses);
    // Others find whom they look for all the same.
    let mut carol = a.connect("carol").await;
    carol.send("bob", b"are you there?").await;
    settle().await;
    let mut bob = b.connect("bob").await;
    assert_eq!(bob.recv().await, message("carol", b"are you there?"));
    assert_eq!(a.owners.lookups.len(), FOR_A_PEER);
    // When her lookups have ended, alice may guess again.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(a.owners.lookups.len(), 0);
    alice.send("guess 5001", b"").await;
    settle().await;
    assert_eq!(a.dropped(DropReason::FabricOverloaded), 5_000 - guesses);
    sleep(Duration::from_secs(6)).await;
    a.assert_balanced();
    assert_eq!((a.owners.timeline.len(), a.owners.holds.used()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lookup_ends_with_its_answer_even_if_nothing_can_be_sent_there() {
    let a = Pod::new("a:7090");
    let mut stock = StockPod::new(&a, "s:7090");
    let mut alice = a.connect("alice").await;
    alice.send("sam", b"held").await;
    settle().await;
    assert_eq!(a.owners.lookups.len(), 1);
    // The link takes nothing any more, and what comes over it is still read.
    stock.link.outbox().abort();
    stock.frame(&encode_i_have(&id("sam"), Seqno(1)));
    assert_eq!(a.owners.lookups.len(), 0);
    sleep(Duration::from_secs(6)).await;
    a.assert_balanced();
    assert_eq!(a.owners.holds.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_crosses_when_memory_is_short_for_data() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let _wire = Wire::new(&a, &b, Duration::ZERO);
    let (mut alice, mut bob) = (a.connect("alice").await, b.connect("bob").await);
    settle().await;
    // All that data may use is used: a thirty-second is left.
    let budget = a.queues.budget();
    assert!(a.queues.reserve(budget / 32 * 31));
    alice.send("bob", &[0; 1_400]).await;
    let mut handshake = [0; 148];
    handshake[0] = 1;
    alice.send("bob", &handshake).await;
    assert_eq!(bob.recv().await, message("alice", &handshake));
    assert_eq!(a.dropped(DropReason::OverBudget), 1);
    a.queues.unreserve(budget / 32 * 31);
    alice.send("bob", b"data").await;
    assert_eq!(bob.recv().await, message("alice", b"data"));
    a.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn waiting_for_peers_of_a_lost_pod_takes_no_place_of_a_lookup() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let wire = Wire::new(&a, &b, Duration::ZERO);
    // Somebody must be there to be asked when the other pod is gone.
    let mut stock = StockPod::new(&a, "s:7090");
    stock.add("sam");
    let mut alice = a.connect("alice").await;
    let mut theirs = Vec::new();
    for number in 0..2 * FOR_A_PEER {
        theirs.push(b.connect(&format!("peer {number}")).await);
    }
    settle().await;
    wire.cut().await;
    for number in 0..2 * FOR_A_PEER {
        alice.send(&format!("peer {number}"), b"wait").await;
    }
    alice.send("sam", b"at once").await;
    stock.turn().await;
    stock.turn().await;
    assert_eq!(stock.payloads("sam"), [b"at once"]);
    assert_eq!(a.dropped(DropReason::FabricOverloaded), 0);
    let _wire = Wire::new(&a, &b, Duration::ZERO);
    for peer in &mut theirs {
        assert_eq!(peer.recv().await, message("alice", b"wait"));
    }
    settle().await;
    a.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_told_all_its_peers_is_not_asked() {
    let a = Pod::new("a:7090");
    let mut ours = StockPod::new(&a, "b:7090");
    let mut stock = StockPod::new(&a, "s:7090");
    assert!(ours.link.set_ours());
    ours.sink().became_ours();
    let mut alice = a.connect("alice").await;
    // It may still be telling.
    alice.send("early", b"").await;
    ours.turn().await;
    stock.turn().await;
    assert_eq!((ours.asked.len(), stock.asked.len()), (1, 1));
    sleep(TOLD_WITHIN).await;
    alice.send("late", b"held").await;
    ours.turn().await;
    stock.turn().await;
    assert_eq!((ours.asked.len(), stock.asked.len()), (1, 2));
    // Whoever comes there now is announced, and what was held leaves.
    ours.add("late");
    ours.frame(&encode_i_have(&id("late"), Seqno(TODAY as u32)));
    ours.turn().await;
    assert_eq!(ours.payloads("late"), [b"held"]);
    a.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn alone_nobody_is_asked() {
    let a = Pod::new("a:7090");
    let mut alice = a.connect("alice").await;
    alice.send("nobody", b"").await;
    settle().await;
    assert_eq!(a.dropped(DropReason::NoSuchPeer), 1);
    assert_eq!(a.owners.timeline.len(), 0);
    a.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn messages_wait_for_a_link_that_is_dialed_again() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let wire = Wire::new(&a, &b, Duration::ZERO);
    let (mut alice, mut bob) = (a.connect("alice").await, b.connect("bob").await);
    alice.send("bob", b"before").await;
    assert_eq!(bob.recv().await, message("alice", b"before"));
    wire.cut().await;
    for number in 0..5_u8 {
        alice.send("bob", &[number]).await;
    }
    sleep(Duration::from_secs(1)).await;
    let _wire = Wire::new(&a, &b, Duration::ZERO);
    alice.send("bob", &[5]).await;
    for number in 0..=5_u8 {
        assert_eq!(bob.recv().await, message("alice", &[number]));
    }
    settle().await;
    a.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn no_message_is_held_for_more_than_five_seconds() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let wire = Wire::new(&a, &b, Duration::ZERO);
    let mut alice = a.connect("alice").await;
    let _bob = b.connect("bob").await;
    settle().await;
    wire.cut().await;
    sleep(Duration::from_secs(3)).await;
    alice.send("bob", b"lost").await;
    sleep(Duration::from_millis(1_900)).await;
    assert_eq!(a.dropped(DropReason::HoldExpired), 0);
    sleep(Duration::from_millis(3_200)).await;
    assert_eq!(a.dropped(DropReason::HoldExpired), 1);
    a.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn an_unproven_pod_gets_and_gives_no_messages() {
    let a = Pod::new("a:7090");
    let link = Link::new(PodAddr("x:7090".to_owned()), &a.queues, false);
    let mut sink = Arc::clone(&a.owners).link_up(&link);
    a.owners.use_link(&link);
    let (mut alice, _bob) = (a.connect("alice").await, a.connect("bob").await);
    // It claims a peer, asks for another, and sends a third something.
    sink.frame(Frame::IHave {
        peer: id("victim"),
        seqno: Seqno(u32::MAX),
    });
    sink.frame(Frame::WhoHas(id("bob")));
    let mut forged = Vec::new();
    peer::encode_transport(&id("bob"), b"forged", &mut forged).unwrap();
    sink.frame(Frame::Forward {
        destination: id("alice"),
        message: &forged,
    });
    sink.flush();
    alice.send("victim", b"secret").await;
    assert_eq!(alice.heard().await, []);
    assert_eq!(a.dropped(DropReason::UnprovenPod), 1);
    assert_eq!(link.control_backlog(), 0, "it is told nothing");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(a.dropped(DropReason::NoSuchPeer), 1);
    a.assert_balanced();
}

#[tokio::test(start_paused = true)]
async fn fault_11_nothing_is_sent_to_a_pod_that_has_come_back_unproven() {
    let a = Pod::new("a:7090");
    let proven = a.link_to(&PodAddr("x:7090".to_owned()));
    let mut sink = Arc::clone(&a.owners).link_up(&proven);
    a.owners.use_link(&proven);
    sink.frame(Frame::IHave {
        peer: id("bob"),
        seqno: Seqno(TODAY as u32),
    });
    proven.outbox().abort();
    sink.down(false);
    // Whoever is at the address now has not shown that it is the same pod.
    let link = Link::new(PodAddr("x:7090".to_owned()), &a.queues, false);
    let _sink = Arc::clone(&a.owners).link_up(&link);
    a.owners.use_link(&link);
    let mut alice = a.connect("alice").await;
    alice.send("bob", b"secret").await;
    settle().await;
    let taken = timeout(
        Duration::from_secs(4),
        poll_fn(|cx| link.outbox().poll_take(cx)),
    );
    assert!(taken.await.is_err(), "it gets nothing");
    // Once it has proven the secret it does.
    link.set_carries_peers();
    a.owners.use_link(&link);
    assert!(matches!(
        poll_fn(|cx| link.outbox().poll_take(cx)).await,
        Taken::Data(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn fault_09_a_receiver_that_reads_nothing_holds_up_nobody() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let _wire = Wire::new(&a, &b, Duration::ZERO);
    let (mut alice, mut carol) = (a.connect("alice").await, b.connect("carol").await);
    let _stuck = b.connect_with("stuck", 1).await;
    settle().await;
    let began = Instant::now();
    for number in 0..2_000_u32 {
        alice.send("stuck", &[0; 1_280]).await;
        alice.send("carol", &number.to_be_bytes()).await;
        assert_eq!(
            carol.recv().await,
            message("alice", &number.to_be_bytes()),
            "in order"
        );
    }
    // The clock moves only while everybody waits.
    assert_eq!(began.elapsed(), Duration::ZERO, "at once");
    assert!(b.dropped(DropReason::QueueFull) > 1_000);
    assert_eq!(a.dropped(DropReason::QueueFull), 0, "the link is not full");
    a.assert_balanced();
}
