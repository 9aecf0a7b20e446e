//! Who is told what, across pods (fault 8).

use super::*;

#[tokio::test(start_paused = true)]
async fn fault_08_a_watcher_hears_of_peers_on_other_pods() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let _wire = Wire::new(&a, &b, Duration::from_millis(1));
    let mut alice = a.connect("alice").await;
    alice.subscribe(&["bob"]).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(alice.heard().await, []);
    let bob = b.connect("bob").await;
    assert_eq!(alice.recv().await, Heard::Online(id("bob")));
    drop(bob);
    assert_eq!(alice.recv().await, Heard::Offline(id("bob")));
    // Online at subscribe time: told at once, from the table.
    let _bob = b.connect("bob").await;
    sleep(Duration::from_millis(5)).await;
    assert_eq!(alice.heard().await, [], "the first subscription is used up");
    alice.subscribe(&["bob"]).await;
    assert_eq!(alice.heard().await, [Heard::Online(id("bob"))]);
}

#[tokio::test(start_paused = true)]
async fn a_cut_that_heals_in_time_is_not_noticed() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let wire = Wire::new(&a, &b, Duration::from_millis(1));
    let mut alice = a.connect("alice").await;
    alice.subscribe(&["bob", "left"]).await;
    let _bob = b.connect("bob").await;
    let left = b.connect("left").await;
    sleep(Duration::from_millis(10)).await;
    assert_eq!(alice.heard().await.len(), 2);
    wire.cut().await;
    sleep(Duration::from_secs(2)).await;
    drop(left);
    sleep(Duration::from_secs(2)).await;
    let _wire = Wire::new(&a, &b, Duration::from_millis(1));
    sleep(Duration::from_secs(60)).await;
    // Whoever left meanwhile is not named again by its pod.
    assert_eq!(alice.heard().await, [Heard::Offline(id("left"))]);
}

#[tokio::test(start_paused = true)]
async fn the_peers_of_a_lost_pod_are_offline_after_five_seconds() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let wire = Wire::new(&a, &b, Duration::from_millis(1));
    let mut alice = a.connect("alice").await;
    alice.subscribe(&["bob", "carol"]).await;
    let _peers = (b.connect("bob").await, b.connect("carol").await);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(alice.heard().await.len(), 2);
    wire.cut().await;
    sleep(Duration::from_millis(2_000)).await;
    // One of them shows up here.
    let _carol = a.connect("carol").await;
    sleep(Duration::from_millis(2_900)).await;
    assert_eq!(alice.heard().await, []);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(alice.heard().await, [Heard::Offline(id("bob"))]);
    sleep(Duration::from_secs(120)).await;
    assert_eq!(a.owners.len(), 2);
    assert_eq!(a.owners.timeline.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_lost_twice_holds_peers_from_the_second_time_on() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let mut alice = a.connect("alice").await;
    let _bob = b.connect("bob").await;
    let wire = Wire::new(&a, &b, Duration::from_millis(1));
    sleep(Duration::from_millis(10)).await;
    alice.subscribe(&["bob"]).await;
    assert_eq!(alice.heard().await, [Heard::Online(id("bob"))]);
    wire.cut().await;
    sleep(Duration::from_millis(1_000)).await;
    let wire = Wire::new(&a, &b, Duration::from_millis(1));
    sleep(Duration::from_millis(3_000)).await;
    wire.cut().await;
    // The first five seconds end now.
    sleep(Duration::from_millis(4_900)).await;
    assert_eq!(alice.heard().await, [], "early");
    let wire = Wire::new(&a, &b, Duration::from_millis(1));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(alice.heard().await, []);
    wire.cut().await;
    sleep(Duration::from_millis(5_100)).await;
    assert_eq!(alice.heard().await, [Heard::Offline(id("bob"))]);
    assert_eq!(a.owners.len(), 1);
}

/// What a pod told over a new link may have been taken for what it told over the one that was lost then.
#[tokio::test(start_paused = true)]
async fn a_pod_that_is_linked_again_is_asked_before_its_peers_are_given_up() {
    let a = Pod::new("a:7090");
    let mut alice = a.connect("alice").await;
    let mut stock = StockPod::new(&a, "b:7090");
    stock.add("bob");
    alice.send("bob", b"one").await;
    stock.turn().await;
    stock.turn().await;
    assert_eq!(stock.payloads("bob"), [b"one"]);
    stock.sink.take().unwrap().down(false);
    let mut stock = StockPod::new(&a, "b:7090");
    stock.add("bob");
    sleep(Duration::from_millis(5_100)).await;
    stock.turn().await;
    assert_eq!(stock.asked, [id("bob")]);
    sleep(Duration::from_secs(5)).await;
    alice.send("bob", b"two").await;
    stock.turn().await;
    assert_eq!(stock.payloads("bob"), [b"two"]);
    assert_eq!(stock.asked, [id("bob")], "it has been found already");
}

/// A pod that had the peer before says nothing of it any more when it is gone, and need not be waited for.
#[tokio::test(start_paused = true)]
async fn a_peer_that_came_from_a_pod_that_is_gone_is_held_no_longer_than_others() {
    use crate::crosspod::Directory;
    for drained in [true, false] {
        let pods = ["a:7090", "b:7090", "c:7090"].map(Pod::new);
        let [a, b, c] = &pods;
        let [ab, bc, ac] = [(a, b), (b, c), (a, c)]
            .map(|(one, other)| Wire::new(one, other, Duration::from_millis(1)));
        let mut alice = a.connect("alice").await;
        alice.subscribe(&["bob"]).await;
        let on_c = c.connect("bob").await;
        assert_eq!(alice.recv().await, Heard::Online(id("bob")));
        if drained {
            c.owners.draining();
            drop(on_c);
        }
        sleep(Duration::from_millis(500)).await;
        if !drained {
            ac.cut().await;
            bc.cut().await;
            let _bob = b.connect("bob").await;
            sleep(Duration::from_secs(20)).await;
            ab.cut().await;
        } else {
            let _bob = b.connect("bob").await;
            sleep(Duration::from_millis(500)).await;
            ac.cut().await;
            bc.cut().await;
            sleep(Duration::from_secs(20)).await;
            ab.cut().await;
        }
        sleep(Duration::from_millis(4_900)).await;
        assert_eq!(alice.heard().await, []);
        sleep(Duration::from_millis(200)).await;
        assert_eq!(alice.heard().await, [Heard::Offline(id("bob"))]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_peers_of_a_silent_pod_are_offline_soon() {
    let (a, b) = (Pod::new("a:7090"), Pod::new("b:7090"));
    let wire = Wire::new(&a, &b, Duration::from_millis(1));
    let mut alice = a.connect("alice").await;
    alice.subscribe(&["bob"]).await;
    let _bob = b.connect("bob").await;
    sleep(Duration::from_millis(10)).await;
    assert_eq!(alice.heard().await, [Heard::Online(id("bob"))]);
    // Fifteen seconds have passed before a link is given up so.
    wire.ends.iter().for_each(|end| end.set_silent());
    wire.cut().await;
    sleep(Duration::from_millis(900)).await;
    assert_eq!(alice.heard().await, [Heard::Offline(id("bob"))]);
}

#[tokio::test(start_paused = true)]
async fn nobody_hears_of_a_drain_whose_peers_come_back() {
    use crate::crosspod::Directory;
    let pods = ["a:7090", "b:7090", "c:7090"].map(Pod::new);
    let [a, b, c] = &pods;
    let _wires = [
        Wire::new(a, b, Duration::from_millis(1)),
        Wire::new(b, c, Duration::from_millis(1)),
        Wire::new(a, c, Duration::from_millis(1)),
    ];
    let mut alice = a.connect("alice").await;
    let mut beside = b.connect("beside").await;
    for watcher in [&mut alice, &mut beside] {
        watcher.subscribe(&["bob", "gone"]).await;
    }
    let (bob, gone) = (b.connect("bob").await, b.connect("gone").await);
    sleep(Duration::from_millis(10)).await;
    for watcher in [&mut alice, &mut beside] {
        assert_eq!(watcher.heard().await.len(), 2);
    }
    b.owners.draining();
    drop((bob, gone));
    settle().await;
    // What is sent meanwhile waits, on this pod and on that.
    alice.send("bob", b"1").await;
    beside.send("bob", b"2").await;
    sleep(Duration::from_millis(1_500)).await;
    let mut bob = c.connect("bob").await;
    let mut heard = [bob.recv().await, bob.recv().await];
    heard.sort_by_key(|heard| format!("{heard:?}"));
    assert!(heard.contains(&message("alice", b"1")) && heard.contains(&message("beside", b"2")));
    sleep(Duration::from_millis(3_000)).await;
    for watcher in [&mut alice, &mut beside] {
        assert_eq!(watcher.heard().await, []);
    }
    // Who does not come back is offline then.
    sleep(Duration::from_millis(1_000)).await;
    for watcher in [&mut alice, &mut beside] {
        assert_eq!(watcher.heard().await, [Heard::Offline(id("gone"))]);
    }
    for pod in [a, b, c] {
        pod.assert_balanced();
    }
}
