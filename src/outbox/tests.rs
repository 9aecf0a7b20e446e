//! The queue alone: order, limits, and that nothing is lost without being counted.

use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::buffers::BUFFER_LEN;
use crate::telemetry::counters::Counters;
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

/// A writer that has found nothing to write and waits; the flag says whether it has been woken since.
fn idle_writer(bench: &Bench) -> (Woken, Waker) {
    let (woken, waker) = flagged_waker();
    let mut cx = Context::from_waker(&waker);
    assert!(bench.outbox.poll_take(&mut cx).is_pending());
    (woken, waker)
}

/// A socket that takes so many bytes a call, and then none.
#[derive(Default)]
struct Socket {
    takes: Mutex<VecDeque<io::Result<usize>>>,
    taken: Mutex<Vec<u8>>,
}

impl TryWrite for Socket {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let next = self.takes.lock().pop_front();
        let len = next
            .unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))?
            .min(bytes.len());
        self.taken.lock().extend_from_slice(&bytes[..len]);
        Ok(len)
    }
}

fn direct(bench: &Bench, takes: impl IntoIterator<Item = io::Result<usize>>) -> Arc<Socket> {
    let socket = Arc::new(Socket {
        takes: Mutex::new(takes.into_iter().collect()),
        taken: Mutex::default(),
    });
    bench
        .outbox
        .set_direct(Arc::clone(&socket) as Arc<dyn TryWrite>);
    socket
}

#[test]
fn a_producer_writes_itself_while_the_writer_is_idle() {
    let bench = bench(1 << 20, 1 << 20);
    let socket = direct(&bench, [Ok(usize::MAX), Ok(usize::MAX)]);
    bench.outbox.push(b"early").unwrap();
    bench.outbox.flush();
    assert!(socket.taken.lock().is_empty(), "no writer runs yet");
    let Some(Taken::Data(early)) = bench.take() else {
        panic!("data")
    };
    early.delivered();
    let (mut woken, waker) = flagged_waker();
    let mut cx = Context::from_waker(&waker);
    assert!(bench.outbox.poll_take(&mut cx).is_pending());
    bench.outbox.push(b"one").unwrap();
    bench.outbox.push(b"two").unwrap();
    bench.outbox.flush();
    assert_eq!(unframe(&socket.taken.lock()), [b"one", b"two"]);
    assert!(!woken.take());
    assert_eq!(bench.delivered(), 3);
    // Control is the writer's, and data may not overtake it.
    assert!(bench.outbox.push_control(b"check"));
    bench.outbox.push(b"three").unwrap();
    bench.outbox.flush();
    assert!(woken.take());
    assert_eq!(unframe(&socket.taken.lock()).len(), 2);
    assert_eq!(bench.policy.used(), BUFFER_LEN + 7, "and its control");
}

#[test]
fn what_the_socket_does_not_take_is_the_writers_and_finished_before_control() {
    let bench = bench(1 << 20, 1 << 20);
    let socket = direct(&bench, [Ok(4)]);
    let (mut woken, _waker) = idle_writer(&bench);
    bench.outbox.push(b"message").unwrap();
    bench.outbox.flush();
    assert!(woken.take());
    assert!(bench.outbox.push_control(b"check"));
    let Some(Taken::Data(rest)) = bench.take() else {
        panic!("the begun slab first")
    };
    let mut all = socket.taken.lock().clone();
    all.extend_from_slice(rest.bytes());
    assert_eq!(unframe(&all), [b"message"]);
    rest.delivered();
    assert!(matches!(bench.take(), Some(Taken::Control(_))));
    assert_eq!((bench.delivered(), bench.dropped()), (1, 0));
}

#[test]
fn an_end_that_comes_while_a_producer_writes_is_not_forgotten() {
    /// Finishes the outbox from within the write, and lets the writer look.
    struct Finishing(Mutex<Option<Arc<Outbox>>>, Waker);
    impl TryWrite for Finishing {
        fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(outbox) = self.0.lock().take() {
                outbox.finish(None, b"bye");
                let mut cx = Context::from_waker(&self.1);
                assert!(outbox.poll_take(&mut cx).is_pending());
            }
            Ok(bytes.len())
        }
    }
    let bench = bench(1 << 20, 1 << 20);
    let (mut woken, waker) = idle_writer(&bench);
    let socket = Finishing(Mutex::new(Some(Arc::clone(&bench.outbox))), waker);
    bench.outbox.set_direct(Arc::new(socket));
    bench.outbox.push(b"message").unwrap();
    // The end itself wakes the writer, too early; the flush does it again.
    bench.outbox.flush();
    assert!(woken.take());
    assert!(matches!(bench.take(), Some(Taken::Control(bytes)) if bytes == b"bye"));
    assert!(matches!(bench.take(), Some(Taken::Finished)));
}

#[test]
fn a_lost_socket_aborts_and_is_let_go() {
    let bench = bench(1 << 20, 1 << 20);
    let socket = direct(&bench, [Err(io::ErrorKind::ConnectionReset.into())]);
    let (mut woken, _waker) = idle_writer(&bench);
    bench.outbox.push(b"message").unwrap();
    bench.outbox.flush();
    assert!(woken.take());
    assert!(matches!(bench.take(), Some(Taken::Aborted)));
    assert_eq!(
        Arc::strong_count(&socket),
        1,
        "nothing holds the socket open"
    );
    assert_eq!(bench.counters.dropped_count(DropReason::ReceiverClosed), 1);
}

/// A flag that a waker raises.
struct Woken(Arc<std::sync::atomic::AtomicBool>);

impl Woken {
    fn take(&mut self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

fn flagged_waker() -> (Woken, Waker) {
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

/// A socket that takes everything and remembers it.
#[derive(Default)]
struct Sink(Mutex<Vec<u8>>);

impl TryWrite for Sink {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

#[test]
fn a_writer_that_was_woken_for_nothing_is_not_overtaken() {
    let bench = bench(1 << 20, 1 << 20);
    let socket = Arc::<Sink>::default();
    bench.outbox.set_direct(Arc::clone(&socket) as _);
    assert!(bench.take().is_none(), "nothing to write: the writer waits");
    bench.outbox.push(b"first").unwrap();
    // A socket that becomes writable wakes its task also when nobody waits for that any more.
    let Some(Taken::Data(first)) = bench.take() else {
        panic!("the writer finds what nobody has flushed yet")
    };
    bench.outbox.push(b"second").unwrap();
    bench.outbox.flush();
    assert!(
        socket.0.lock().is_empty(),
        "the writer has a slab in its hands: nobody else may write"
    );
    assert_eq!(unframe(first.bytes()), [b"first"]);
    first.delivered();
    let Some(Taken::Data(second)) = bench.take() else {
        panic!("what came meanwhile is next")
    };
    assert_eq!(unframe(second.bytes()), [b"second"]);
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
