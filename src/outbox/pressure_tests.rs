//! The queue under pressure: fair shares, handshakes, the budget of all queues.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{Bench, bench, bench_with, unframe};
use super::*;
use crate::buffers::BUFFER_LEN;
use crate::proto::limits::TRANSPORT_HEADER_LEN;
use crate::telemetry::counters::DropReason;
use crate::ticks::Ticks;

const DATA: usize = 1280;

/// A transport message as the relay hands it on: the sender's ID, then a payload that starts with `kind` and a number.
fn message(sender: u16, kind: u8, number: u32, payload: usize) -> Vec<u8> {
    let mut message = vec![0; TRANSPORT_HEADER_LEN + payload];
    message[TRANSPORT_HEADER_LEN - 2..TRANSPORT_HEADER_LEN].copy_from_slice(&sender.to_be_bytes());
    message[TRANSPORT_HEADER_LEN] = kind;
    message[TRANSPORT_HEADER_LEN + 1..TRANSPORT_HEADER_LEN + 5]
        .copy_from_slice(&number.to_be_bytes());
    message
}

fn data(sender: u16, number: u32) -> Vec<u8> {
    message(sender, 4, number, DATA)
}

fn handshake(sender: u16, number: u32) -> Vec<u8> {
    message(sender, 1, number, 148)
}

/// Sender, kind and number of each message in length-framed bytes.
fn read(bytes: &[u8]) -> Vec<(u16, u8, u32)> {
    unframe(bytes)
        .iter()
        .map(|message| {
            let sender = &message[TRANSPORT_HEADER_LEN - 2..TRANSPORT_HEADER_LEN];
            let number = &message[TRANSPORT_HEADER_LEN + 1..TRANSPORT_HEADER_LEN + 5];
            (
                u16::from_be_bytes(sender.try_into().unwrap()),
                message[TRANSPORT_HEADER_LEN],
                u32::from_be_bytes(number.try_into().unwrap()),
            )
        })
        .collect()
}

/// Takes one slab, as a receiver does that reads slowly.
fn take_one(bench: &Bench) -> Vec<(u16, u8, u32)> {
    match bench.take() {
        Some(Taken::Data(slab)) => {
            let seen = read(slab.bytes());
            slab.delivered();
            seen
        }
        _ => Vec::new(),
    }
}

fn take_all(bench: &Bench) -> Vec<(u16, u8, u32)> {
    let mut all = Vec::new();
    loop {
        match take_one(bench) {
            seen if seen.is_empty() => return all,
            mut seen => all.append(&mut seen),
        }
    }
}

fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// One sender floods, fifty offer `each` messages a round; the receiver takes one slab (49 messages) a round.
fn flood(each: u32, rounds: u32) -> Vec<f64> {
    let bench = bench(512 << 10, 64 << 20);
    let mut delivered = vec![0_u32; 51];
    let mut number = 0;
    for round in 0..rounds {
        for _ in 0..each {
            for sender in 1..=50 {
                number += 1;
                let _ = bench.outbox.push(&data(sender, number));
                // Twenty times as fast as any of them, and not all at once.
                for _ in 0..20 {
                    number += 1;
                    let _ = bench.outbox.push(&data(0, number));
                }
            }
        }
        for (sender, ..) in take_one(&bench) {
            // What was queued before everybody had begun is not the question.
            if round > rounds / 4 {
                delivered[usize::from(sender)] += 1;
            }
        }
    }
    delivered.into_iter().map(f64::from).collect()
}

#[test]
fn a_flood_takes_no_more_than_a_share() {
    // Each modest sender asks for one message a round, the receiver takes 49: a little less than is asked for, flood apart.
    let delivered = flood(1, 400);
    assert!(
        jain(&delivered) >= 0.95,
        "{} {delivered:?}",
        jain(&delivered)
    );
    // All of them ask for more than a share.
    let delivered = flood(3, 400);
    assert!(
        jain(&delivered) >= 0.95,
        "{} {delivered:?}",
        jain(&delivered)
    );
}

#[test]
fn who_asks_for_less_than_a_share_loses_nothing() {
    let bench = bench(512 << 10, 64 << 20);
    let mut number = 0;
    let mut seen = 0;
    for round in 0..500 {
        for _ in 0..100 {
            number += 1;
            let _ = bench.outbox.push(&data(0, number));
        }
        if round >= 20 {
            for sender in 1..=10 {
                assert_eq!(bench.outbox.push(&data(sender, round)), Ok(()));
            }
        }
        seen += take_one(&bench).iter().filter(|seen| seen.0 > 0).count();
    }
    seen += take_all(&bench).iter().filter(|seen| seen.0 > 0).count();
    assert_eq!(seen, 480 * 10);
}

#[test]
fn a_calm_queue_charges_nobody() {
    let bench = bench(512 << 10, 64 << 20);
    while bench.outbox.state.lock().queued + DATA + 40 <= 256 << 10 {
        bench.outbox.push(&data(1, 0)).unwrap();
        assert!(bench.outbox.state.lock().pressure.is_none());
    }
    bench.outbox.push(&data(1, 0)).unwrap();
    assert!(bench.outbox.state.lock().pressure.is_some());
    take_all(&bench);
    assert!(bench.outbox.state.lock().pressure.is_none());
}

#[test]
fn handshakes_come_through_a_full_queue_in_their_order() {
    let bench = bench(512 << 10, 64 << 20);
    let mut number = 0;
    let mut pushed = Vec::new();
    let mut seen = Vec::new();
    let mut refused = 0;
    for round in 0..200 {
        for sender in 0..4 {
            // All of them flood, and each has a handshake now and then.
            for turn in 0..60 {
                number += 1;
                refused += u32::from(bench.outbox.push(&data(sender, number)).is_err());
                if turn == 30 && round % 5 == 0 {
                    number += 1;
                    bench.outbox.push(&handshake(sender, number)).unwrap();
                    pushed.push((sender, 1, number));
                }
            }
        }
        seen.append(&mut take_one(&bench));
    }
    seen.append(&mut take_all(&bench));
    assert!(refused > 1000);
    for sender in 0..4 {
        let of = |all: &[(u16, u8, u32)]| -> Vec<_> {
            all.iter()
                .copied()
                .filter(|seen| seen.0 == sender)
                .collect()
        };
        let in_order = of(&seen);
        assert!(
            in_order.is_sorted_by_key(|seen| seen.2),
            "nothing overtakes"
        );
        let handshakes: Vec<_> = in_order.into_iter().filter(|seen| seen.1 == 1).collect();
        assert_eq!(handshakes, of(&pushed));
    }
}

#[test]
fn a_flood_of_handshakes_leaves_room_for_other_peoples() {
    let bench = bench(512 << 10, 64 << 20);
    for number in 0..10_000 {
        let _ = bench.outbox.push(&data(1, number));
        let _ = bench.outbox.push(&handshake(2, number));
    }
    for sender in 10..30 {
        assert_eq!(bench.outbox.push(&handshake(sender, 0)), Ok(()), "{sender}");
    }
    assert!(bench.outbox.state.lock().queued <= 512 << 10);
}

#[tokio::test(start_paused = true)]
async fn handshakes_outlive_the_data_around_them() {
    let ticks = Ticks::default();
    ticks.start();
    let bench = bench_with(512 << 10, Duration::from_secs(1), 64 << 20, ticks);
    for number in 0..40 {
        bench.outbox.push(&data(1, number)).unwrap();
        if number % 20 == 0 {
            bench.outbox.push(&handshake(1, number)).unwrap();
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.outbox.push(&data(1, 100)).unwrap();
    bench.outbox.push(&handshake(1, 101)).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.outbox.push(&data(1, 200)).unwrap();
    assert_eq!(
        take_all(&bench),
        [(1, 1, 0), (1, 1, 20), (1, 1, 101), (1, 4, 200)]
    );
    assert_eq!(bench.counters.dropped_count(DropReason::Expired), 41);
    // For so long, and not for ever.
    bench.outbox.push(&handshake(1, 300)).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.outbox.release();
    assert_eq!(bench.counters.dropped_count(DropReason::Expired), 41);
    tokio::time::sleep(Duration::from_secs(4)).await;
    bench.outbox.release();
    assert_eq!(bench.counters.dropped_count(DropReason::Expired), 42);
    assert_eq!(bench.policy.used(), 0);
}

#[test]
fn near_the_budget_the_largest_queues_are_cut_first() {
    // 32 slabs for all.
    let large = bench(2 << 20, 2 << 20);
    let small = Outbox::new(Framing::Length, &large.policy);
    small.push(&data(7, 1)).unwrap();
    small.push(&data(7, 2)).unwrap();
    let mut number = 0;
    for _ in 0..5000 {
        number += 1;
        // It is cut again and again, and always has room for what is new.
        large
            .outbox
            .push(&data(number as u16 % 50, number))
            .unwrap();
        large.outbox.flush();
    }
    assert!(large.policy.used() < large.policy.budget());
    assert!(large.counters.dropped_count(DropReason::OverBudget) > 1000);
    let kept = take_all(&large);
    assert_eq!(
        kept.last().map(|seen| seen.2),
        Some(number),
        "the oldest went"
    );
    let Poll::Ready(Taken::Data(slab)) = small.poll_take(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("the small queue is untouched");
    };
    assert_eq!(read(slab.bytes()), [(7, 4, 1), (7, 4, 2)]);
}

#[test]
fn a_relay_of_small_queues_is_exhausted_and_says_so() {
    let bench = bench(512 << 10, 16 * BUFFER_LEN);
    let others: Vec<_> = (0..16)
        .map(|_| Outbox::new(Framing::Length, &bench.policy))
        .collect();
    for outbox in &others[..15] {
        outbox.push(&data(1, 1)).unwrap();
        outbox.flush();
    }
    assert!(!bench.policy.is_exhausted());
    others[15].push(&data(1, 1)).unwrap();
    others[15].flush();
    assert!(bench.policy.is_exhausted());
    assert_eq!(bench.outbox.push(&data(1, 1)), Err(DropReason::OverBudget));
    assert_eq!(
        bench.dropped(),
        0,
        "nothing was cut: no queue is larger than another"
    );
    others[3].abort();
    assert_eq!(bench.outbox.push(&data(1, 1)), Ok(()));
}

#[test]
fn what_is_left_of_a_websocket_slab_is_whole_frames() {
    let bench = bench(512 << 10, 64 << 20);
    let outbox = Outbox::new(Framing::WebSocket, &bench.policy);
    outbox.push(&data(1, 1)).unwrap();
    outbox.push(&message(1, 3, 2, 64)).unwrap();
    outbox.push(&data(1, 3)).unwrap();
    outbox.push(&handshake(1, 4)).unwrap();
    outbox.thin(0, DropReason::OverBudget);
    let Poll::Ready(Taken::Data(slab)) = outbox.poll_take(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("the handshakes are left");
    };
    let (first, second) = (message(1, 3, 2, 64), handshake(1, 4));
    let mut expected = vec![0x82, first.len() as u8];
    expected.extend_from_slice(&first);
    expected.extend_from_slice(&[0x82, 126, 0, second.len() as u8]);
    expected.extend_from_slice(&second);
    assert_eq!(slab.bytes(), expected);
    slab.delivered();
    assert_eq!((bench.delivered(), bench.dropped()), (2, 2));
}

#[derive(Debug, Clone)]
enum Step {
    Push { sender: u16, kind: u8 },
    Take,
    Thin(usize),
    Sleep(u64),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (0_u16..4, 1_u8..6).prop_map(|(sender, kind)| Step::Push { sender, kind }),
        3 => Just(Step::Take),
        1 => (0_usize..4).prop_map(Step::Thin),
        1 => (50_u64..900).prop_map(Step::Sleep),
        2 => Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn under_any_pressure_order_holds_and_the_sums_are_right(steps in proptest::collection::vec(step(), 0..1500)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let ticks = Ticks::default();
            ticks.start();
            let bench = bench_with(128 << 10, Duration::from_secs(1), 4 * BUFFER_LEN, ticks);
            let mut last: BTreeMap<u16, u32> = BTreeMap::new();
            let mut accepted = 0;
            let mut check = |seen: Vec<(u16, u8, u32)>| {
                for (sender, _, number) in seen {
                    let before = last.insert(sender, number);
                    assert!(before < Some(number), "sender {sender}: {before:?} then {number}");
                }
            };
            for (number, step) in (1..).zip(steps) {
                match step {
                    Step::Push { sender, kind } => {
                        let payload = match kind { 1 => 148, 2 => 92, 3 => 64, _ => DATA };
                        accepted += u64::from(bench.outbox.push(&message(sender, kind, number, payload)).is_ok());
                    }
                    Step::Take => check(take_one(&bench)),
                    Step::Thin(slabs) => bench.outbox.thin(slabs, DropReason::OverBudget),
                    Step::Sleep(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                    Step::Flush => bench.outbox.flush(),
                }
                assert!(bench.outbox.state.lock().queued <= 128 << 10);
            }
            check(take_all(&bench));
            assert_eq!(bench.delivered() + bench.dropped(), accepted);
            assert_eq!(bench.outbox.state.lock().queued, 0);
            assert_eq!(bench.policy.used(), 0);
        });
    }
}
