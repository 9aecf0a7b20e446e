//! The innermost service: copies the message into the queue of a link.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use tower::Service;

use super::{Dispatch, LinkGone};
use crate::cluster::lookup::frame_type;
use crate::crosspod::Forwarded;
use crate::telemetry::counters::DropReason;

/// A message whose route is the one of this number in the connection's memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Routed<'a, 'm> {
    pub(super) dispatch: Dispatch<'a, 'm>,
    pub(super) route: usize,
}

/// Pushes on the link's outbox. Always ready, and so are its futures. Fails only if nothing of the message was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkTransport;

impl<'a, 'm> Service<Routed<'a, 'm>> for LinkTransport {
    type Response = Forwarded;
    type Error = LinkGone;
    type Future = Ready<Result<Forwarded, LinkGone>>;

    #[inline]
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), LinkGone>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, routed: Routed<'a, 'm>) -> Self::Future {
        let mut memory = routed.dispatch.memory.borrow_mut();
        let hop = memory.asker.hop();
        let Some(link) = memory.routes.written(routed.route) else {
            return ready(Err(LinkGone));
        };
        let forward = &routed.dispatch.forward;
        ready(
            match link.forward(frame_type(hop, link), &forward.destination, forward.message) {
                Ok(()) => Ok(Forwarded::Queued),
                Err(DropReason::ReceiverClosed) => Err(LinkGone),
                Err(reason) => Ok(Forwarded::Dropped(reason)),
            },
        )
    }
}
