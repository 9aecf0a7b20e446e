//! The queue alone: order, limits, and that nothing is lost without being counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;

use super::direct_tests::direct;
use super::*;
use crate::buffers::BUFFER_LEN;
use crate::telemetry::counters::{Counters, DropReason};
use crate::ticks::Ticks;

pub(super) struct Bench {
    pub(super) outbox: Arc<Outbox>,
    pub(super) policy: Arc<QueuePolicy>,
    pub(super) counters: Arc<Counters>,
}

pub(super) fn bench_with(
    peer_bytes: usize,
    max_age: Duration,
    budget: usize,
    ticks: Ticks,
) -> Bench {
    let counters = Arc::<Counters>::default();
    let policy = QueuePolicy::new(peer_bytes, max_age, budget, Arc::clone(&counters), ticks);
    Bench {
        outbox: Outbox::new(Framing::Length, &policy),
        policy,
        counters,
    }
}

pub(super) fn bench(peer_bytes: usize, budget: usize) -> Bench {
    bench_with(peer_bytes, Duration::from_secs(1), budget, Ticks::default())
}

impl Bench {
    pub(super) fn take(&self) -> Option<Taken> {
        match self
            .outbox
            .poll_take(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(taken) => Some(taken),
            Poll::Pending => None,
        }
    }

    pub(super) fn delivered(&self) -> u64 {
        self.counters
            .sent_count(crate::proto::peer::MessageType::Transport)
    }

    pub(super) fn dropped(&self) -> u64 {
        DropReason::ALL
            .iter()
            .map(|&reason| self.counters.dropped_count(reason))
            .sum()
    }
}

/// The messages in a run of length-framed bytes.
pub(super) fn unframe(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let [high, low, rest @ ..] = bytes {
        let (message, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        messages.push(message.to_vec());
        bytes = rest;
    }
    messages
}

#[test]
fn control_goes_first_then_data_in_order_then_the_farewell() {
    let bench = bench(1 << 20, 1 << 20);
    bench.outbox.push(b"one").unwrap();
    bench.outbox.push(b"two").unwrap();
    assert!(bench.outbox.push_control(b"check"));
    bench.outbox.finish(Some(b"close"), b"raw");
    assert_eq!(bench.outbox.push(b"late"), Err(DropReason::ReceiverClosed));
    assert!(!bench.outbox.push_control(b"late"));
    let Some(Taken::Control(bytes)) = bench.take() else {
        panic!("control first")
    };
    assert_eq!(unframe(&bytes), [b"check"]);
    let Some(Taken::Data(slab)) = bench.take() else {
        panic!("data next")
    };
    assert_eq!(unframe(slab.bytes()), [b"one", b"two"]);
    slab.delivered();
    let Some(Taken::Control(bytes)) = bench.take() else {
        panic!("the farewell last")
    };
    assert_eq!(bytes, b"\x00\x05closeraw");
    assert!(matches!(bench.take(), Some(Taken::Finished)));
    assert_eq!((bench.delivered(), bench.dropped()), (2, 0));
    assert_eq!(bench.policy.used(), 0);
}

#[test]
fn websocket_heads_have_the_shortest_form() {
    for (len, head) in [
        (0, &[0x82, 0][..]),
        (125, &[0x82, 125]),
        (126, &[0x82, 126, 0, 126]),
        (8820, &[0x82, 126, 0x22, 0x74]),
    ] {
        let (bytes, used) = Framing::WebSocket.head(len);
        assert_eq!(&bytes[..used], head);
    }
}

#[test]
fn a_full_queue_refuses_until_the_writer_is_done() {
    let bench = bench(BUFFER_LEN, 1 << 20);
    let message = [7; 1000];
    let mut accepted = 0;
    while bench.outbox.push(&message).is_ok() {
        accepted += 1;
    }
    // The last sixteenth is for handshakes.
    assert_eq!(accepted, BUFFER_LEN / 16 * 15 / 1002);
    assert_eq!(bench.outbox.push(&message), Err(DropReason::QueueFull));
    let Some(Taken::Data(slab)) = bench.take() else {
        panic!("data")
    };
    // In the writer's hands it still counts: the socket may not take it for a while.
    assert_eq!(bench.outbox.push(&message), Err(DropReason::QueueFull));
    slab.delivered();
    assert!(bench.take().is_none());
    assert_eq!(bench.outbox.push(&message), Ok(()));
}

#[test]
fn the_budget_bounds_all_queues_together() {
    let bench = bench(1 << 20, 2 * BUFFER_LEN);
    let other = Outbox::new(Framing::Length, &bench.policy);
    let third = Outbox::new(Framing::Length, &bench.policy);
    assert_eq!(bench.outbox.push(b"a"), Ok(()));
    assert_eq!(other.push(b"b"), Ok(()));
    assert_eq!(third.push(b"c"), Err(DropReason::OverBudget));
    assert_eq!(bench.policy.used(), 2 * BUFFER_LEN);
    other.abort();
    assert_eq!(third.push(b"c"), Ok(()));
}

#[test]
fn too_much_control_aborts_the_connection() {
    let bench = bench(1 << 20, 1 << 20);
    bench.outbox.push(b"data").unwrap();
    let notice = vec![1; 8000];
    let mut accepted = 0;
    while bench.outbox.push_control(&notice) {
        accepted += 1;
    }
    assert_eq!(accepted, CONTROL_HEADROOM / 8002);
    assert!(matches!(bench.take(), Some(Taken::Aborted)));
    assert_eq!(bench.counters.dropped_count(DropReason::ReceiverClosed), 1);
    assert!(!bench.outbox.is_open());
}

#[test]
fn an_abort_wakes_a_writer_that_waits_for_its_socket() {
    let bench = bench(1 << 20, 1 << 20);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(bench.outbox.poll_aborted(&mut cx).is_pending());
    let mut woken = flagged_waker();
    assert!(
        bench
            .outbox
            .poll_aborted(&mut Context::from_waker(&woken.1))
            .is_pending()
    );
    // Data does not wake it: it cannot do anything with that yet.
    bench.outbox.push(b"x").unwrap();
    bench.outbox.flush();
    assert!(!woken.0.take());
    bench.outbox.abort();
    assert!(woken.0.take());
    assert!(bench.outbox.poll_aborted(&mut cx).is_ready());
}

#[test]
fn data_wakes_an_idle_writer_once() {
    let bench = bench(1 << 20, 1 << 20);
    let mut woken = flagged_waker();
    let mut cx = Context::from_waker(&woken.1);
    assert!(bench.outbox.poll_take(&mut cx).is_pending());
    bench.outbox.push(b"x").unwrap();
    assert!(!woken.0.take(), "nobody asked to send it");
    bench.outbox.flush();
    assert!(woken.0.take());
    bench.outbox.push(b"y").unwrap();
    bench.outbox.flush();
    assert!(!woken.0.take(), "it is awake already");
}

/// A flag that a waker raises.
pub(super) struct Woken(Arc<std::sync::atomic::AtomicBool>);

impl Woken {
    pub(super) fn take(&mut self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

pub(super) fn flagged_waker() -> (Woken, Waker) {
    struct Raise(Arc<std::sync::atomic::AtomicBool>);
    impl std::task::Wake for Raise {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let flag = Arc::<std::sync::atomic::AtomicBool>::default();
    (Woken(Arc::clone(&flag)), Waker::from(Arc::new(Raise(flag))))
}

#[tokio::test(start_paused = true)]
async fn what_waited_too_long_goes_first_and_nothing_younger_goes() {
    let ticks = Ticks::default();
    ticks.start();
    let bench = bench_with(1 << 20, Duration::from_secs(1), 1 << 22, ticks.clone());
    let mut pushed = Vec::new();
    // Every 50 ms a message, for three seconds, and nobody writes.
    for number in 0..60_u32 {
        pushed.push(ticks.now());
        bench.outbox.push(&number.to_be_bytes()).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let now = ticks.now();
    let mut survivors = Vec::new();
    while let Some(Taken::Data(slab)) = bench.take() {
        survivors.extend(unframe(slab.bytes()));
        slab.delivered();
    }
    let first = u32::from_be_bytes(survivors[0][..].try_into().unwrap());
    assert_eq!(
        survivors.len(),
        60 - first as usize,
        "the youngest, in order"
    );
    for (number, at) in pushed.iter().enumerate() {
        let age = now - at;
        let survived = number >= first as usize;
        assert!(
            survived || age > 1000,
            "number {number}, {age} ms old, is gone"
        );
        assert!(
            !survived || age <= 1600,
            "number {number}, {age} ms old, is there"
        );
    }
    assert_eq!(
        bench.counters.dropped_count(DropReason::Expired),
        u64::from(first)
    );
    assert!(first > 0);
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Control(usize),
    Flush(Option<usize>),
    Deliver,
    Lose,
    Finish,
    Abort,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0usize..8820).prop_map(Step::Push),
        2 => (0usize..200).prop_map(Step::Control),
        8 => proptest::option::of(0usize..20_000).prop_map(Step::Flush),
        6 => Just(Step::Deliver),
        1 => Just(Step::Lose),
        1 => Just(Step::Finish),
        1 => Just(Step::Abort),
    ]
}

proptest! {
    #[test]
    fn everything_accepted_is_delivered_in_order_or_counted(
        steps in proptest::collection::vec(step(), 0..400)
    ) {
        let bench = bench(256 * 1024, 1 << 20);
        let socket = direct(&bench, []);
        // All data bytes in the order in which they would be on the wire.
        let mut wire = Vec::new();
        let mut accepted = 0;
        let mut number: u64 = 0;
        for step in steps {
            match step {
                Step::Push(len) => {
                    let mut message = vec![0; len.max(8)];
                    message[..8].copy_from_slice(&number.to_be_bytes());
                    if bench.outbox.push(&message).is_ok() {
                        accepted += 1;
                    }
                    number += 1;
                }
                Step::Control(len) => drop(bench.outbox.push_control(&vec![1; len])),
                Step::Flush(takes) => {
                    *socket.takes.lock() = takes.map(Ok).into_iter().collect();
                    bench.outbox.flush();
                    wire.append(&mut socket.taken.lock());
                }
                Step::Deliver | Step::Lose => {
                    if let Some(Taken::Data(slab)) = bench.take() {
                        if matches!(step, Step::Deliver) {
                            wire.extend_from_slice(slab.bytes());
                            slab.delivered();
                        } else {
                            // A writer that fails ends the connection.
                            drop(slab);
                            bench.outbox.abort();
                        }
                    }
                }
                Step::Finish => bench.outbox.finish(None, b"bye"),
                Step::Abort => bench.outbox.abort(),
            }
        }
        bench.outbox.abort();
        let mut last_seen = None;
        let mut seen_all = 0;
        let mut rest = &wire[..];
        while let [high, low, tail @ ..] = rest {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            // Only the last message may be cut: its connection was aborted.
            let Some((message, tail)) = tail.split_at_checked(len) else { break };
            let seen = u64::from_be_bytes(message[..8].try_into().unwrap());
            prop_assert!(last_seen < Some(seen));
            last_seen = Some(seen);
            seen_all += 1;
            rest = tail;
        }
        prop_assert!(seen_all >= bench.delivered());
        prop_assert_eq!(bench.delivered() + bench.dropped(), accepted);
        prop_assert_eq!(bench.policy.used(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_nothing_holds_no_more_slabs_than_are_young_enough() {
    let ticks = Ticks::default();
    ticks.start();
    let bench = bench_with(512 << 10, Duration::from_secs(1), 64 << 20, ticks);
    // A message every 100 ms for a minute: few bytes, but each quarter of a second opens a slab.
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.outbox.push(&[7; 38]).unwrap();
    }
    let slabs = bench.policy.used() / BUFFER_LEN;
    assert!(slabs <= 8, "{slabs} slabs for {} bytes", 600 * 40);
    assert!(bench.counters.dropped_count(DropReason::Expired) >= 580);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_makes_room_for_what_is_new() {
    let ticks = Ticks::default();
    ticks.start();
    let bench = bench_with(64 << 10, Duration::from_secs(1), 64 << 20, ticks);
    while bench.outbox.push(&[1; 1280]).is_ok() {}
    assert_eq!(bench.outbox.push(&[1; 1280]), Err(DropReason::QueueFull));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.outbox.push(&[2; 1280]), Ok(()));
    let Some(Taken::Data(slab)) = bench.take() else {
        panic!("the new message")
    };
    assert_eq!(unframe(slab.bytes()), [[2; 1280]]);
}

#[test]
fn an_age_of_weeks_is_no_overflow() {
    let weeks = Duration::from_millis(u64::from(u32::MAX) - 1);
    let bench = bench_with(1 << 20, weeks, 1 << 20, Ticks::default());
    bench.outbox.push(b"one").unwrap();
    assert!(matches!(bench.take(), Some(Taken::Data(_))));
}
