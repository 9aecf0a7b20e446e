//! Messages in a row, in one buffer, with one fate.

use std::sync::Arc;

use super::framing::Framing;
use super::policy::QueuePolicy;
use super::share::Charge;
use crate::buffers::{BUFFER_LEN, Buffer};
use crate::telemetry::counters::DropReason;

/// A run of framed messages, contiguous in memory.
///
/// Dropped without [`Slab::delivered`], its messages are counted as dropped.
#[derive(Debug)]
pub struct Slab {
    buffer: Buffer,
    pub(super) len: usize,
    /// Bytes at the front that the socket has taken already.
    written: usize,
    messages: u32,
    message_bytes: u32,
    /// When its first message came, in [`Ticks`](crate::ticks::Ticks).
    pub(super) opened: u32,
    pub(super) fate: Option<DropReason>,
    /// Whose messages it holds, as far as they came under pressure.
    pub(super) charges: Vec<Charge>,
    policy: Arc<QueuePolicy>,
}

impl Slab {
    /// None if the budget of all queues is used up, to `budget` bytes.
    pub(super) fn open(policy: &Arc<QueuePolicy>, budget: usize) -> Option<Self> {
        if !policy.reserve_up_to(BUFFER_LEN, budget) {
            return None;
        }
        Some(Self {
            buffer: Buffer::take(),
            len: 0,
            written: 0,
            messages: 0,
            message_bytes: 0,
            opened: policy.ticks.now(),
            fate: Some(DropReason::ReceiverClosed),
            charges: Vec::new(),
            policy: Arc::clone(policy),
        })
    }

    #[inline]
    pub(super) fn append(&mut self, head: &[u8], message: &[u8]) {
        let body = self.len + head.len();
        self.buffer[self.len..body].copy_from_slice(head);
        self.buffer[body..body + message.len()].copy_from_slice(message);
        self.len = body + message.len();
        self.messages += 1;
        self.message_bytes += message.len() as u32;
    }

    /// The framed messages, or what is left of them to write.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.written..self.len]
    }

    /// As [`Slab::bytes`], and one byte behind them, for who seals them where they are: from then on they are no messages any more
    /// and must be finished as they are. None if there is no byte behind them.
    pub(crate) fn bytes_and_one(&mut self) -> Option<&mut [u8]> {
        self.buffer.get_mut(self.written..=self.len)
    }

    /// Whether so many bytes more fit in.
    pub(super) fn has_room(&self, need: usize) -> bool {
        self.len + need <= BUFFER_LEN
    }

    /// Drops all messages but those that `keep` wants, and counts them. What is kept keeps its order.
    ///
    /// Not for a slab of which the socket has taken a part.
    pub(super) fn retain(
        &mut self,
        framing: Framing,
        reason: DropReason,
        mut keep: impl FnMut(&[u8]) -> bool,
    ) {
        let mut at = 0;
        let (mut len, mut messages, mut message_bytes) = (0, 0, 0);
        while let Some((body, end)) = framing.next(&self.buffer[..self.len], at) {
            if keep(&self.buffer[body..end]) {
                self.buffer.copy_within(at..end, len);
                len += end - at;
                messages += 1;
                message_bytes += (end - body) as u32;
            }
            at = end;
        }
        self.policy
            .counters
            .dropped(reason, u64::from(self.messages - messages));
        (self.len, self.messages, self.message_bytes) = (len, messages, message_bytes);
    }

    /// Takes over all messages of a younger slab, if they fit.
    pub(super) fn absorb(&mut self, younger: &mut Self) -> bool {
        if !self.has_room(younger.len) {
            return false;
        }
        let end = self.len + younger.len;
        self.buffer[self.len..end].copy_from_slice(&younger.buffer[..younger.len]);
        self.len = end;
        self.messages += std::mem::take(&mut younger.messages);
        self.message_bytes += std::mem::take(&mut younger.message_bytes);
        younger.len = 0;
        true
    }

    /// Takes so many bytes off the front: the socket has them.
    pub fn pass(&mut self, bytes: usize) {
        self.written += bytes;
    }

    /// Counts a message that was passed as dropped after all.
    pub fn dropped_one(&mut self, len: usize, reason: DropReason) {
        self.messages -= 1;
        self.message_bytes -= len as u32;
        self.policy.counters.dropped(reason, 1);
    }

    /// Counts the messages as delivered, or as forwarded if the receiver is a pod: call it when all bytes have been handed to the kernel.
    pub fn delivered(mut self) {
        self.fate = None;
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.policy.unreserve(BUFFER_LEN);
        let messages = u64::from(self.messages);
        match self.fate {
            None => self.policy.written(messages, u64::from(self.message_bytes)),
            Some(reason) => self.policy.counters.dropped(reason, messages),
        }
    }
}
