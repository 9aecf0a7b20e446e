//! The reader against random frames, cut anywhere.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;
use tokio::io::ReadBuf;

use super::*;
use crate::outbox::Taken;
use crate::telemetry::counters::Counters;
use crate::ticks::Ticks;

/// Brings one piece a read, then the end.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(space.remaining()));
            space.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn reader(already_read: &[u8], pieces: VecDeque<Vec<u8>>) -> (WsReader<Pieces>, Arc<Outbox>) {
    let policy = QueuePolicy::new(
        1 << 20,
        Duration::from_secs(1),
        1 << 20,
        Arc::<Counters>::default(),
        Ticks::default(),
    );
    let outbox = Outbox::new(Framing::WebSocket, &policy);
    (
        WsReader::new(Pieces(pieces), already_read, Arc::clone(&outbox)),
        outbox,
    )
}

/// All messages up to the end, and what ended it.
fn read_all(reader: &mut WsReader<Pieces>, limit: usize) -> (Vec<Vec<u8>>, ReadError) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut messages = Vec::new();
    loop {
        loop {
            match reader.next_message(limit) {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => break,
                Err(error) => return (messages, error),
            }
        }
        match reader.poll_fill(&mut cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return (messages, error),
            Poll::Pending => panic!("pieces are always ready"),
        }
    }
}

fn masked(fin: bool, opcode: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        len @ ..126 => bytes.push(0x80 | len as u8),
        len => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
    }
    bytes.extend(mask);
    let body = bytes.len();
    bytes.extend(payload);
    frame::apply_mask(&mut bytes[body..], mask);
    bytes
}

/// A message, where to break it, and a ping between the pieces.
type Sent = (Vec<u8>, Vec<usize>, Option<Vec<u8>>);

fn sent() -> impl Strategy<Value = Sent> {
    (
        proptest::collection::vec(any::<u8>(), 0..3000),
        proptest::collection::vec(0usize..3000, 0..4),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..125)),
    )
}

fn cut(mut bytes: Vec<u8>, sizes: &[usize]) -> VecDeque<Vec<u8>> {
    let mut pieces = VecDeque::new();
    let mut sizes = sizes.iter().cycle();
    while !bytes.is_empty() {
        let size = sizes
            .next()
            .map_or(bytes.len(), |size| (*size).min(bytes.len()));
        let rest = bytes.split_off(size);
        pieces.push_back(std::mem::replace(&mut bytes, rest));
    }
    pieces
}

proptest! {
    #[test]
    fn messages_come_out_as_they_went_in(
        messages in proptest::collection::vec(sent(), 0..12),
        mask: [u8; 4],
        sizes in proptest::collection::vec(1usize..5000, 1..8),
        early in 0usize..4000,
    ) {
        let mut bytes = Vec::new();
        let mut pings = Vec::new();
        for (payload, breaks, ping) in &messages {
            let mut breaks: Vec<usize> = breaks.iter().map(|at| at % (payload.len() + 1)).collect();
            breaks.sort_unstable();
            let mut from = 0;
            for (index, to) in breaks.iter().copied().chain([payload.len()]).enumerate() {
                let last = index == breaks.len();
                bytes.extend(masked(last, if index == 0 { 2 } else { 0 }, mask, &payload[from..to]));
                from = to;
                if index == 0 && let Some(ping) = ping {
                    bytes.extend(masked(true, 9, mask, ping));
                    pings.extend(frame::control(frame::Opcode::Pong, ping));
                }
            }
        }
        let rest = bytes.split_off(early.min(bytes.len()));
        let (mut reader, outbox) = reader(&bytes, cut(rest, &sizes));
        let (read, end) = read_all(&mut reader, 3000);
        let expected: Vec<Vec<u8>> = messages.into_iter().map(|(payload, ..)| payload).collect();
        prop_assert_eq!(read, expected);
        prop_assert!(matches!(end, ReadError::Ended));
        let pongs = match outbox.poll_take(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Taken::Control(bytes)) => bytes,
            _ => Vec::new(),
        };
        prop_assert_eq!(pongs, pings);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        sizes in proptest::collection::vec(1usize..100, 1..4),
    ) {
        let (mut reader, _outbox) = reader(&[], cut(bytes, &sizes));
        let (messages, _) = read_all(&mut reader, 200);
        prop_assert!(messages.iter().all(|message| message.len() <= 200));
    }
}

#[test]
fn a_quiet_reader_holds_nothing() {
    let message = masked(true, 2, [1; 4], &[5; 1000]);
    let (mut reader, _outbox) = reader(&[], cut(message.repeat(3), &[700]));
    let (messages, _) = read_all(&mut reader, 8820);
    assert_eq!(messages.len(), 3);
    reader.release();
    assert_eq!(reader.held(), 0);
}
