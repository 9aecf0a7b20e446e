//! What two pods of ours tell each other when a stream between them comes up: an I_HAVE for every peer (cluster-protocol.md,
//! fault 8), a shard at a time, so that a hundred thousand of them neither fill the link's headroom nor keep anybody waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::link::Link;
use super::owners::Owners;
use super::shard::State;
use crate::proto::cluster::encode_i_have;

/// Bytes of control frames that may wait on a link before the next shard.
const BACKLOG: usize = 64 * 1024;

/// How long after a pod has shown that it is ours it may still be telling who it has: for a hundred thousand peers, which are some 4 MB,
/// over a slow network.
pub(super) const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// How long to wait for a link to write what it has, in milliseconds.
pub(super) const PAUSE: u64 = 1;

/// A link that has not been told all yet.
#[derive(Debug)]
struct Exchange {
    link: Arc<Link>,
    next_shard: usize,
}

/// The links that have not been told all yet.
#[derive(Debug, Default)]
pub(super) struct Exchanges(Mutex<VecDeque<Exchange>>);

impl Exchanges {
    /// How many links have not been told all yet.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Owners {
    /// Begins to tell a pod of ours who is here.
    pub(super) fn exchange(&self, link: &Arc<Link>) {
        self.exchanges.0.lock().push_back(Exchange {
            link: Arc::clone(link),
            next_shard: 0,
        });
        self.timeline.wake();
    }

    /// Tells each link its next shard, unless it is behind with writing. True: there is more to tell.
    pub(super) fn exchange_some(&self) -> bool {
        let mut exchanges = std::mem::take(&mut *self.exchanges.0.lock());
        exchanges.retain_mut(|exchange| {
            while exchange.next_shard < self.shards() {
                if exchange.link.control_backlog() > BACKLOG {
                    return true;
                }
                if !self.tell_shard(&exchange.link, exchange.next_shard) {
                    return false;
                }
                exchange.next_shard += 1;
            }
            false
        });
        let mut those_that_came_meanwhile = self.exchanges.0.lock();
        exchanges.append(&mut those_that_came_meanwhile);
        *those_that_came_meanwhile = exchanges;
        !those_that_came_meanwhile.is_empty()
    }

    /// False: the link is gone. Under the lock, so that no change of a peer overtakes what is said of it here.
    fn tell_shard(&self, link: &Link, shard: usize) -> bool {
        let shard = self.lock_shard(shard);
        shard
            .owners
            .iter()
            .filter(|(_, known)| known.state == State::Here)
            .all(|(peer, known)| link.control(&encode_i_have(peer, known.seqno)))
    }
}
