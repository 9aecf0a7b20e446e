//! Producers that write to the socket themselves.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Waker};

use parking_lot::Mutex;

use super::tests::{Bench, Woken, bench, flagged_waker, unframe};
use super::*;
use crate::buffers::BUFFER_LEN;
use crate::telemetry::counters::DropReason;

/// A writer that has found nothing to write and waits; the flag says whether it has been woken since.
fn idle_writer(bench: &Bench) -> (Woken, Waker) {
    let (woken, waker) = flagged_waker();
    let mut cx = Context::from_waker(&waker);
    assert!(bench.outbox.poll_take(&mut cx).is_pending());
    (woken, waker)
}

/// A socket that takes so many bytes a call, and then none.
#[derive(Default)]
pub(super) struct Socket {
    pub(super) takes: Mutex<VecDeque<io::Result<usize>>>,
    pub(super) taken: Mutex<Vec<u8>>,
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

pub(super) fn direct(
    bench: &Bench,
    takes: impl IntoIterator<Item = io::Result<usize>>,
) -> Arc<Socket> {
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

#[test]
fn a_writer_that_was_woken_for_nothing_is_not_overtaken() {
    let bench = bench(1 << 20, 1 << 20);
    let socket = direct(&bench, [Ok(usize::MAX)]);
    assert!(bench.take().is_none(), "nothing to write: the writer waits");
    bench.outbox.push(b"first").unwrap();
    // A socket that becomes writable wakes its task also when nobody waits for that any more.
    let Some(Taken::Data(first)) = bench.take() else {
        panic!("the writer finds what nobody has flushed yet")
    };
    bench.outbox.push(b"second").unwrap();
    bench.outbox.flush();
    assert!(
        socket.taken.lock().is_empty(),
        "the writer has a slab in its hands: nobody else may write"
    );
    assert_eq!(unframe(first.bytes()), [b"first"]);
    first.delivered();
    let Some(Taken::Data(second)) = bench.take() else {
        panic!("what came meanwhile is next")
    };
    assert_eq!(unframe(second.bytes()), [b"second"]);
}
