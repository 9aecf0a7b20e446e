//! Messages in a row, in one buffer, with one fate.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::policy::QueuePolicy;
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
    pub(super) written: usize,
    messages: u32,
    message_bytes: u32,
    /// When its first message came, in [`Ticks`](crate::ticks::Ticks).
    pub(super) opened: u32,
    pub(super) fate: Option<DropReason>,
    policy: Arc<QueuePolicy>,
}

impl Slab {
    pub(super) fn open(policy: &Arc<QueuePolicy>) -> Option<Self> {
        let before = policy.used.fetch_add(BUFFER_LEN, Ordering::Relaxed);
        if before + BUFFER_LEN > policy.budget {
            policy.used.fetch_sub(BUFFER_LEN, Ordering::Relaxed);
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

    /// Counts the messages as delivered: call it when all bytes have been handed to the kernel.
    pub fn delivered(mut self) {
        self.fate = None;
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.policy.used.fetch_sub(BUFFER_LEN, Ordering::Relaxed);
        let messages = u64::from(self.messages);
        match self.fate {
            None => self
                .policy
                .counters
                .delivered(messages, u64::from(self.message_bytes)),
            Some(reason) => self.policy.counters.dropped(reason, messages),
        }
    }
}
