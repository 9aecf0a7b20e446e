//! Messages that wait until it is known which pod has their receiver: few, in order, and not for long.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::asker::{Asker, Taken, take};
use crate::outbox::QueuePolicy;
use crate::proto::limits::TRANSPORT_HEADER_LEN;
use crate::proto::wireguard::is_handshake;
use crate::telemetry::counters::DropReason;

/// How long a message may wait, in milliseconds (cluster-protocol.md, *Fixed facts*: a forward, all in all).
pub(super) const HOLD_MAX: u64 = 5_000;

/// Messages that may wait for one receiver: twice the burst that a peer sends before it sees that nothing comes back.
pub(super) const HOLD_MESSAGES: usize = 2_048;

/// Bytes that may wait for one receiver: so many messages of the length of an Ethernet packet.
pub(super) const HOLD_BYTES: usize = HOLD_MESSAGES * 1_500;

/// Bytes that may wait in all.
const HOLD_BYTES_IN_ALL: usize = 64 * 1024 * 1024;

/// What is left of each of these for WireGuard's handshakes when data has taken the rest: one part in so many.
pub(super) const HANDSHAKES: usize = 16;

/// What a held message costs besides its bytes, roughly.
const OVERHEAD: usize = 48;

/// Which way a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    /// From a peer of this pod.
    First,
    /// From another pod, which took its receiver to be here. Nobody forwards it a third time.
    Second,
}

/// What all held messages may occupy together, within the memory of all queues.
#[derive(Debug)]
pub(super) struct HoldBudget {
    used: AtomicUsize,
    policy: Arc<QueuePolicy>,
}

impl HoldBudget {
    pub(super) fn new(policy: &Arc<QueuePolicy>) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            policy: Arc::clone(policy),
        })
    }

    /// Bytes that are held now.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes so many bytes on behalf of `asker`, if there are as many for it.
    fn reserve(&self, bytes: usize, is_handshake: bool, asker: &mut Asker) -> Option<Arc<Taken>> {
        let part = asker.part_of_held();
        let own = asker.taken();
        let in_all = bound(HOLD_BYTES_IN_ALL, is_handshake);
        if !take(&own.held, &self.used, bytes, in_all, part) {
            return None;
        }
        let reserved = if is_handshake {
            self.policy.reserve_for_handshake(bytes)
        } else {
            self.policy.reserve(bytes)
        };
        if !reserved {
            self.give_back(bytes, own);
            return None;
        }
        Some(Arc::clone(own))
    }

    fn give_back(&self, bytes: usize, own: &Taken) {
        own.held.fetch_sub(bytes, Ordering::Relaxed);
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What a message may use of `all`.
fn bound(all: usize, is_handshake: bool) -> usize {
    all - if is_handshake { 0 } else { all / HANDSHAKES }
}

/// One message that waits. Its bytes are given back to the budget when it goes.
#[derive(Debug)]
pub(super) struct HeldMessage {
    pub(super) hop: Hop,
    /// When it came, in milliseconds.
    pub(super) since: u64,
    message: Box<[u8]>,
    budget: Arc<HoldBudget>,
    /// Of whoever sent it.
    taken: Arc<Taken>,
}

impl HeldMessage {
    /// The whole transport message.
    pub(super) fn message(&self) -> &[u8] {
        &self.message
    }
}

impl Drop for HeldMessage {
    fn drop(&mut self) {
        let bytes = self.message.len() + OVERHEAD;
        self.budget.give_back(bytes, &self.taken);
        self.budget.policy.unreserve(bytes);
    }
}

/// What waits for one receiver, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Held {
    messages: VecDeque<HeldMessage>,
    bytes: usize,
}

impl Held {
    /// Holds a copy of `message`, a whole transport message.
    ///
    /// # Errors
    /// If too much is held already, for this receiver, for whoever sends, or in all; the caller counts the message.
    pub(super) fn push(
        &mut self,
        message: &[u8],
        asker: &mut Asker,
        now: u64,
        budget: &Arc<HoldBudget>,
    ) -> Result<(), DropReason> {
        let payload = message.get(TRANSPORT_HEADER_LEN..).unwrap_or_default();
        let is_handshake = is_handshake(payload);
        if self.messages.len() >= bound(HOLD_MESSAGES, is_handshake)
            || self.bytes + message.len() > bound(HOLD_BYTES, is_handshake)
        {
            return Err(DropReason::HoldFull);
        }
        let taken = budget
            .reserve(message.len() + OVERHEAD, is_handshake, asker)
            .ok_or(DropReason::HoldFull)?;
        self.bytes += message.len();
        self.messages.push_back(HeldMessage {
            hop: asker.hop(),
            since: now,
            message: message.into(),
            budget: Arc::clone(budget),
            taken,
        });
        Ok(())
    }

    /// Takes the oldest.
    pub(super) fn pop(&mut self) -> Option<HeldMessage> {
        let first = self.messages.pop_front()?;
        self.bytes -= first.message.len();
        Some(first)
    }

    /// Takes the oldest if it has waited as long as it may.
    pub(super) fn pop_expired(&mut self, now: u64) -> Option<HeldMessage> {
        if self.oldest()? + HOLD_MAX > now {
            return None;
        }
        self.pop()
    }

    /// Since when the oldest waits.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.messages.front().map(|first| first.since)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::counters::Counters;
    use crate::ticks::Ticks;

    /// A transport message with the first message of a WireGuard handshake.
    const HANDSHAKE: [u8; 38 + 148] = {
        let mut message = [0; 38 + 148];
        message[38] = 1;
        message
    };

    fn budget(bytes: usize) -> Arc<HoldBudget> {
        HoldBudget::new(&QueuePolicy::new(
            1 << 20,
            Duration::from_secs(1),
            bytes,
            Arc::<Counters>::default(),
            Ticks::default(),
        ))
    }

    #[test]
    fn a_burst_of_a_thousand_fits_and_leaves_in_order() {
        let budget = budget(1 << 30);
        let mut alice = Asker::new(Hop::First);
        let mut held = Held::default();
        for number in 0..1_000_u32 {
            let mut message = vec![0; 1_400];
            message[..4].copy_from_slice(&number.to_be_bytes());
            held.push(&message, &mut alice, 7, &budget).unwrap();
        }
        assert!(budget.used() >= 1_400_000);
        for number in 0..1_000_u32 {
            let message = held.pop().unwrap();
            assert_eq!(message.message()[..4], number.to_be_bytes());
        }
        assert!(held.pop().is_none() && held.is_empty());
        assert_eq!((budget.used(), budget.policy.used()), (0, 0));
    }

    #[test]
    fn it_is_bounded_in_messages_in_bytes_and_in_all() {
        let roomy = budget(1 << 30);
        let mut alice = Asker::new(Hop::First);
        let mut held = Held::default();
        let mut taken = 0;
        while held.push(&[0; 38], &mut alice, 0, &roomy).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, HOLD_MESSAGES / 16 * 15);
        while held.push(&HANDSHAKE, &mut alice, 0, &roomy).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, HOLD_MESSAGES);
        let mut long = Held::default();
        let mut bytes = 0;
        while long.push(&[0; 8_820], &mut alice, 0, &roomy).is_ok() {
            bytes += 8_820;
        }
        let most = HOLD_BYTES / 16 * 15;
        assert!(bytes <= most && bytes > most - 8_820, "{bytes}");
        long.push(&HANDSHAKE, &mut alice, 0, &roomy).unwrap();
        drop((held, long));
        assert_eq!(roomy.used(), 0);
        // The memory of all queues is used up before any of the other limits.
        let tight = budget(10_000);
        let mut held = Held::default();
        assert_eq!(
            held.push(&[0; 20_000], &mut alice, 0, &tight),
            Err(DropReason::HoldFull)
        );
        assert_eq!((tight.used(), tight.policy.used()), (0, 0));
    }

    /// Fills the queues of one receiver after the other; gives back what is held.
    fn hold_all_it_can(asker: &mut Asker, budget: &Arc<HoldBudget>) -> Vec<Held> {
        let mut all = vec![Held::default()];
        loop {
            let held = all.last_mut().unwrap();
            while held.push(&[0; 1_400], asker, 0, budget).is_ok() {}
            if held.is_empty() {
                return all;
            }
            all.push(Held::default());
        }
    }

    #[test]
    fn those_who_hold_all_they_can_leave_some_to_the_next() {
        let budget = budget(1 << 30);
        let mut carol = Asker::new(Hop::First);
        let mut greedy = vec![hold_all_it_can(&mut Asker::new(Hop::First), &budget)];
        let alone = budget.used();
        assert!(alone > 6 << 20 && alone < 8 << 20, "{alone}");
        greedy.extend((0..29).map(|_| hold_all_it_can(&mut Asker::new(Hop::First), &budget)));
        let mut held = Held::default();
        for _ in 0..50 {
            held.push(&[0; 1_400], &mut carol, 0, &budget).unwrap();
        }
        // With hundreds of them nothing is left for data, but handshakes still pass.
        greedy.extend((0..300).map(|_| hold_all_it_can(&mut Asker::new(Hop::First), &budget)));
        let mut held = Held::default();
        let mut dave = Asker::new(Hop::First);
        assert!(held.push(&[0; 1_400], &mut dave, 0, &budget).is_err());
        for _ in 0..100 {
            held.push(&HANDSHAKE, &mut dave, 0, &budget).unwrap();
        }
        drop((greedy, held));
    }

    #[test]
    fn what_has_waited_long_enough_goes_first() {
        let budget = budget(1 << 30);
        let mut held = Held::default();
        let mut alice = Asker::new(Hop::First);
        held.push(b"old", &mut alice, 1_000, &budget).unwrap();
        held.push(b"new", &mut Asker::new(Hop::Second), 3_000, &budget)
            .unwrap();
        assert!(held.pop_expired(1_000 + HOLD_MAX - 1).is_none());
        let old = held.pop_expired(1_000 + HOLD_MAX).unwrap();
        assert_eq!((old.message(), old.hop), (&b"old"[..], Hop::First));
        assert!(held.pop_expired(1_000 + HOLD_MAX).is_none());
        assert_eq!(held.oldest(), Some(3_000));
    }
}
