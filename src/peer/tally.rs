//! What a connection, or a stream from another pod, counts while it handles a batch.

use crate::proto::peer::MessageType;
use crate::telemetry::counters::{Counters, DropReason};

/// What a batch did, in plain integers.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) forwarded: u64,
    /// Messages that other pods forwarded to us.
    pub(crate) from_pods: u64,
    dropped: [u64; DropReason::ALL.len()],
    any_dropped: bool,
}

impl Tally {
    #[inline]
    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
        self.any_dropped = true;
    }

    /// Hands everything over and starts again at zero.
    pub(crate) fn flush(&mut self, counters: &Counters) {
        if self.messages > 0 {
            counters.received(MessageType::Transport, std::mem::take(&mut self.messages));
            counters.received_bytes(std::mem::take(&mut self.bytes));
        }
        if self.from_pods > 0 {
            counters.received_from_pods(std::mem::take(&mut self.from_pods));
        }
        if self.forwarded > 0 {
            counters.forwarded(std::mem::take(&mut self.forwarded));
        }
        if std::mem::take(&mut self.any_dropped) {
            for reason in DropReason::ALL {
                let count = std::mem::take(&mut self.dropped[reason as usize]);
                if count > 0 {
                    counters.dropped(reason, count);
                }
            }
        }
    }
}
