//! Cuts frames out of what one read brought, in place.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use crate::buffers::{BUFFER_LEN, Buffer};
use crate::proto::cluster::{FRAME_HEADER_LEN, RawFrame, next_frame};

/// What one read brought, and how much of it has been cut up.
struct Batch {
    buffer: Buffer,
    start: usize,
    end: usize,
}

/// Reads the frames of one stream.
///
/// It holds a buffer only while a batch is being cut up; between batches it holds what is left of an unfinished frame.
pub(super) struct FrameReader<R> {
    io: R,
    batch: Option<Batch>,
    /// The beginning of a frame whose rest has not come yet.
    carry: Vec<u8>,
    /// What came behind the HELLO.
    early: Bytes,
    /// Bytes to come that belong to a frame which is done with.
    skip: usize,
    full: bool,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// `already_read` is what came behind the HELLO.
    pub(super) fn new(io: R, already_read: Vec<u8>) -> Self {
        Self {
            io,
            batch: None,
            carry: Vec::new(),
            early: already_read.into(),
            skip: 0,
            full: false,
        }
    }

    /// Reads what the stream has; false: it has ended. The only wait for each batch. Cancel-safe.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.batch.is_some() {
            return Poll::Ready(Ok(true));
        }
        let start = self.carry.len();
        let mut buffer = Buffer::take();
        let read = if self.early.is_empty() {
            let mut space = ReadBuf::new(&mut buffer[start..]);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut space))?;
            space.filled().len()
        } else {
            let early = self
                .early
                .split_to(self.early.len().min(BUFFER_LEN - start));
            buffer[start..start + early.len()].copy_from_slice(&early);
            early.len()
        };
        if read == 0 {
            return Poll::Ready(Ok(false));
        }
        buffer[..start].copy_from_slice(&self.carry);
        self.carry.clear();
        let end = start + read;
        self.full = end == BUFFER_LEN;
        // A frame that was cut short leaves nothing in `carry`, so what is skipped stands at the front.
        let skipped = self.skip.min(end);
        self.skip -= skipped;
        self.batch = Some(Batch {
            buffer,
            start: skipped,
            end,
        });
        Poll::Ready(Ok(true))
    }

    /// The head of the next frame of the batch that is there; none: fill again.
    pub(super) fn peek(&mut self) -> Option<RawFrame> {
        let batch = self.batch.as_ref()?;
        let unread = &batch.buffer[batch.start..batch.end];
        if let Some(raw) = next_frame(unread)
            && (raw.len() <= unread.len() || unread.len() == BUFFER_LEN)
        {
            return Some(raw);
        }
        self.carry.extend_from_slice(unread);
        self.batch = None;
        None
    }

    /// The payload of the frame that [`peek`](Self::peek) showed. One that is longer than a buffer comes cut short: no known frame
    /// is right at that length, and the rest is skipped.
    pub(super) fn take(&mut self, raw: RawFrame) -> &[u8] {
        let Some(batch) = &mut self.batch else {
            return &[];
        };
        let from = batch.start + FRAME_HEADER_LEN;
        let end = batch.start + raw.len();
        batch.start = end.min(batch.end);
        self.skip = end - batch.start;
        &batch.buffer[from..batch.start]
    }

    /// Whether the last read found so much that there is likely more: a fair reader yields before it reads again.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::proto::cluster::encode_data;

    /// All frames that come of these bytes, sent in pieces of these sizes.
    fn read_all(mut bytes: Vec<u8>, pieces: &[usize]) -> Vec<(u8, Vec<u8>)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut write, read) = tokio::io::duplex(1 << 20);
            let pieces = pieces.to_vec();
            // The first piece came with the HELLO.
            let rest = bytes.split_off(pieces[0].min(bytes.len()));
            let early = std::mem::replace(&mut bytes, rest);
            let writing = async move {
                let mut rest = &bytes[..];
                for piece in pieces.into_iter().cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    let (now, later) = rest.split_at(piece.min(rest.len()));
                    write.write_all(now).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = later;
                }
            };
            let reading = async {
                let mut reader = FrameReader::new(read, early);
                let mut frames = Vec::new();
                while poll_fn(|cx| reader.poll_fill(cx)).await.unwrap() {
                    while let Some(raw) = reader.peek() {
                        frames.push((raw.kind, reader.take(raw).to_vec()));
                    }
                }
                frames
            };
            tokio::join!(writing, reading).1
        })
    }

    #[test]
    fn a_frame_longer_than_a_buffer_is_cut_and_the_next_one_is_whole() {
        let mut bytes = encode_data(1, &[7; 65531]).unwrap();
        bytes.extend(encode_data(2, b"next").unwrap());
        for pieces in [&[65538 + 11][..], &[1000], &[65537, 1], &[65536, 1, 1]] {
            let frames = read_all(bytes.clone(), pieces);
            assert_eq!(frames.len(), 2);
            assert_eq!(frames[0].1.len(), BUFFER_LEN - FRAME_HEADER_LEN);
            assert_eq!(frames[1].1, b"\0\0\0\x02next");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn frames_come_out_as_they_went_in(
            sizes in proptest::collection::vec(prop_oneof![0_usize..300, 60_000_usize..65_530], 1..8),
            pieces in proptest::collection::vec(1_usize..70_000, 1..5),
        ) {
            let sent: Vec<Vec<u8>> = sizes
                .iter()
                .enumerate()
                .map(|(number, &size)| encode_data(number as u32, &vec![number as u8; size]).unwrap())
                .collect();
            let frames = read_all(sent.concat(), &pieces);
            prop_assert_eq!(frames.len(), sent.len());
            for ((kind, payload), sent) in frames.iter().zip(&sent) {
                prop_assert_eq!(*kind, 0x12);
                // The two bytes beyond a buffer are the only ones that may be missing.
                let whole = &sent[FRAME_HEADER_LEN..];
                prop_assert_eq!(&payload[..], &whole[..whole.len().min(BUFFER_LEN - FRAME_HEADER_LEN)]);
            }
        }
    }
}
