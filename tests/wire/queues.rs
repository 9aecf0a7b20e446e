//! Receivers that do not keep up (performance.md, *Rules of the message path*): bounded, counted, and nobody else's trouble.

use std::time::Duration;

use trunkline::telemetry::counters::DropReason;

use crate::support::{
    FrozenClock, RawClient, TestRelay, binary, close, ids, payload_of, peer, transport, until,
};

const QUEUE: usize = 128 * 1024;

/// A numbered payload of a WireGuard packet's size.
fn numbered(number: u32) -> Vec<u8> {
    let mut payload = vec![number as u8; 1280];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

fn number_of(payload: &[u8]) -> u32 {
    assert_eq!(payload.len(), 1280);
    let number = u32::from_be_bytes(payload[..4].try_into().unwrap());
    assert!(payload[4..].iter().all(|&byte| byte == number as u8));
    number
}

fn batch(to: &str, numbers: std::ops::Range<u32>) -> Vec<u8> {
    let message = |number| binary(&transport(&peer(to), &numbered(number)));
    numbers.flat_map(message).collect()
}

/// Sends to `to` until its queue has refused some, and returns how many were sent.
async fn stuff(relay: &TestRelay, sender: &mut RawClient, to: &str) -> u32 {
    let mut sent = 0;
    while relay.dropped(DropReason::QueueFull) < 100 {
        sender.write(&batch(to, sent..sent + 50)).await;
        sent += 50;
        assert!(sender.sync(&peer("sender")).await.is_empty());
        assert!(sent < 100_000, "nothing is ever refused");
    }
    sent
}

#[tokio::test]
async fn a_receiver_that_never_reads_costs_a_bounded_queue_and_no_one_else_a_message() {
    let relay = TestRelay::with(|builder| builder.peer_queue_bytes(QUEUE));
    let clock = FrozenClock::freeze();
    let mut sender = RawClient::connected(&relay, "sender").await;
    let stalled = RawClient::connected_narrowly(&relay, "stalled").await;
    let mut healthy = RawClient::connected(&relay, "healthy").await;
    for window in 0..150_u32 {
        let numbers = window * 20..(window + 1) * 20;
        let mut bytes = batch("stalled", numbers.clone());
        bytes.extend(batch("healthy", numbers.clone()));
        bytes.extend(batch("stalled", numbers.clone()));
        sender.write(&bytes).await;
        for number in numbers {
            let seen = healthy.message().await;
            assert_eq!(number_of(payload_of(&seen, &peer("sender"))), number);
        }
        let metrics = relay.read_metrics().await;
        let bytes = metrics.sum("relay_queue_bytes", &[]);
        // Its slabs are whole buffers, and one may be in its writer's hands.
        assert!(bytes <= (QUEUE + 3 * 64 * 1024) as u64, "{bytes}");
    }
    let (received, delivered) = {
        let counters = relay.relay.counters();
        let transport = trunkline::proto::peer::MessageType::Transport;
        (
            counters.received_count(transport),
            counters.sent_count(transport),
        )
    };
    assert_eq!(received, 9000);
    assert!(delivered >= 3000);
    let refused = relay.dropped(DropReason::QueueFull);
    assert!(refused > 3000, "{refused}");
    let metrics = relay.read_metrics().await;
    let name = "relay_transport_queue_drops_total";
    assert_eq!(metrics.sum(name, &[("reason", "queue_full")]), refused);

    // When it goes, what still waited for it is accounted for.
    drop(stalled);
    relay.peers(2).await;
    let (received, _) = relay.conserved().await;
    assert_eq!(received, 9000);
    assert!(relay.dropped(DropReason::ReceiverClosed) > 0);
    drop(clock);
}

#[tokio::test]
async fn a_receiver_that_resumes_gets_what_is_young_in_order_and_the_old_is_expired() {
    let relay = TestRelay::with(|builder| builder.peer_queue_bytes(QUEUE));
    let clock = FrozenClock::freeze();
    let mut sender = RawClient::connected(&relay, "sender").await;
    let mut stalled = RawClient::connected_narrowly(&relay, "stalled").await;
    let sent = stuff(&relay, &mut sender, "stalled").await;
    assert_eq!(relay.dropped(DropReason::Expired), 0);

    clock.advance(Duration::from_millis(1500)).await;
    let resumed = 1_000_000;
    stalled_reads_until(&mut stalled, &mut sender, resumed, sent).await;
    let expired = relay.dropped(DropReason::Expired);
    assert!(expired > 0);
    let metrics = relay.read_metrics().await;
    let name = "relay_transport_queue_drops_total";
    assert_eq!(metrics.sum(name, &[("reason", "expired")]), expired);
    // The old made room for more of the new than it has read.
    drop(stalled);
    let (received, delivered) = relay.conserved().await;
    // It did get something old: what the kernel and the writer had taken by then.
    assert!(received > delivered && delivered > 100);
}

/// Reads all that `stalled` gets, in order, until the messages that are sent now have come.
async fn stalled_reads_until(
    stalled: &mut RawClient,
    sender: &mut RawClient,
    first_new: u32,
    old: u32,
) {
    let (mut last, mut old_seen, mut new_seen) = (None, 0, 0);
    // The first of them may find the queue still full: they are sent one by one until some have arrived.
    let mut next = first_new;
    while new_seen < 20 {
        sender.write(&batch("stalled", next..next + 1)).await;
        next += 1;
        sender.sync(&peer("sender")).await;
        let seen = stalled.message().await;
        let number = number_of(payload_of(&seen, &peer("sender")));
        assert!(last < Some(number), "{number} after {last:?}");
        last = Some(number);
        if number >= first_new {
            new_seen += 1;
        } else {
            assert!(number < old);
            old_seen += 1;
        }
    }
    assert!(old_seen < old, "all of the old ones came");
}

#[tokio::test]
async fn young_messages_wait_for_a_receiver_that_pauses() {
    // Room for all of them: a pause shorter than the age limit costs nothing.
    let relay = TestRelay::with(|builder| builder.peer_queue_bytes(16 << 20));
    let clock = FrozenClock::freeze();
    let mut sender = RawClient::connected(&relay, "sender").await;
    let mut slow = RawClient::connected_narrowly(&relay, "slow").await;
    for turn in 0..5 {
        let numbers = turn * 1000..(turn + 1) * 1000;
        sender.write(&batch("slow", numbers.clone())).await;
        sender.sync(&peer("sender")).await;
        clock.advance(Duration::from_millis(900)).await;
        for number in numbers {
            let seen = slow.message().await;
            assert_eq!(number_of(payload_of(&seen, &peer("sender"))), number);
        }
    }
    assert_eq!(relay.conserved().await, (5005, 5005));
}

#[tokio::test]
async fn two_senders_keep_their_order_each() {
    let relay = TestRelay::start();
    let mut receiver = RawClient::connected(&relay, "receiver").await;
    let (one, two) = (peer("one"), peer("two"));
    let mut senders = [
        RawClient::connected(&relay, "one").await,
        RawClient::connected(&relay, "two").await,
    ];
    let mut next = [0, 0];
    for window in 0..100_u32 {
        for sender in &mut senders {
            let bytes = batch("receiver", window * 16..(window + 1) * 16);
            sender.write(&bytes).await;
        }
        for _ in 0..32 {
            let seen = receiver.message().await;
            let from = usize::from(seen[2..38] == *two.as_bytes());
            let number = number_of(payload_of(&seen, [&one, &two][from]));
            assert_eq!(number, next[from]);
            next[from] += 1;
        }
    }
    assert_eq!(next, [1600, 1600]);
    assert_eq!(relay.conserved().await, (3200, 3200));
}

#[tokio::test]
async fn a_subscriber_that_never_reads_is_disconnected_before_a_notice_is_lost() {
    let relay = TestRelay::start();
    let mut stalled = RawClient::connected_narrowly(&relay, "stalled").await;
    let mut watcher = RawClient::connected(&relay, "watcher").await;
    watcher.send(&ids(8, &[peer("stalled")])).await;
    assert_eq!(watcher.message().await, ids(10, &[peer("stalled")]));
    // Each is answered with as many IDs as it has: all online.
    let question = binary(&ids(8, &vec![peer("watcher"); 244]));
    let mut asked = 0;
    while stalled.try_write(&question).await {
        asked += 1;
        assert!(asked < 10_000, "the answers are queued without limit");
        tokio::task::yield_now().await;
    }
    // A MiB of answers, and what the kernel takes.
    assert!(asked > 119, "{asked}");
    relay.peers(1).await;
    assert_eq!(watcher.message().await, ids(11, &[peer("stalled")]));
    assert!(watcher.sync(&peer("watcher")).await.is_empty());
}

#[tokio::test]
async fn all_queues_together_keep_to_the_memory_limit() {
    const LIMIT: usize = 1 << 20;
    let relay = TestRelay::with(|builder| builder.memory_limit(LIMIT));
    let clock = FrozenClock::freeze();
    let mut sender = RawClient::connected(&relay, "sender").await;
    let mut stalled = Vec::new();
    for number in 0..6 {
        stalled.push(RawClient::connected_narrowly(&relay, &format!("s{number}")).await);
    }
    for turn in 0..120 {
        for number in 0..6 {
            let bytes = batch(&format!("s{number}"), turn * 10..(turn + 1) * 10);
            sender.write(&bytes).await;
        }
        // The sender's own memory counts, too: it may be refused its mark.
        let budget = relay.read_metrics().await;
        assert!(budget.sum("relay_queue_bytes", &[]) <= LIMIT as u64);
        assert_eq!(budget.sum("relay_queue_budget_bytes", &[]), LIMIT as u64);
    }
    let transport = trunkline::proto::peer::MessageType::Transport;
    until("all is received", || relay.received(transport) == 7200).await;
    assert!(relay.dropped(DropReason::OverBudget) > 0);
    drop(stalled);
    relay.peers(1).await;
    relay.conserved().await;
    assert_eq!(relay.read_metrics().await.sum("relay_queue_bytes", &[]), 0);
    drop(clock);
}

/// Its writer fails while the connection is being closed politely: what was queued must not stay uncounted for as long as some
/// sender remembers the connection.
#[tokio::test]
async fn a_receiver_that_closes_and_then_resets_leaves_nothing_uncounted() {
    let relay = TestRelay::with(|builder| builder.peer_queue_bytes(QUEUE));
    let clock = FrozenClock::freeze();
    let mut sender = RawClient::connected(&relay, "sender").await;
    let mut stalled = RawClient::connected_narrowly(&relay, "stalled").await;
    stuff(&relay, &mut sender, "stalled").await;
    stalled.send(&close()).await;
    relay.peers(1).await;
    stalled.reset();
    relay.conserved().await;
    assert!(relay.dropped(DropReason::ReceiverClosed) > 0);
    drop(clock);
}
