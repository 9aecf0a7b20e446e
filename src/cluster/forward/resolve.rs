//! Finds the link to the pod that has the receiver: remembered, known, or to be looked for while the message is held.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use tower::{Layer, Service};

use super::transport::Routed;
use super::{Dispatch, LinkGone, Memory};
use crate::cluster::link::Link;
use crate::cluster::lookup::Route;
use crate::cluster::owners::Owners;
use crate::crosspod::Forwarded;
use crate::proto::PeerId;

/// Routes remembered. A peer talks to few others at a time.
const ROUTES: usize = 4;

#[derive(Debug)]
struct Known {
    peer: PeerId,
    shard: usize,
    /// Of the shard, when the route was looked up.
    generation: u32,
    link: Arc<Link>,
}

/// The last few routes of one connection, and which of their links have something to write.
#[derive(Debug, Default)]
pub(super) struct Routes {
    known: [Option<Known>; ROUTES],
    next: usize,
    /// A bit for each route.
    unflushed: u32,
}

impl Routes {
    /// The number of the route to a peer, if it is remembered and still good.
    #[inline]
    pub(super) fn find(&self, owners: &Owners, peer: &PeerId) -> Option<usize> {
        self.known.iter().position(|known| {
            known.as_ref().is_some_and(|known| {
                known.peer == *peer && owners.generation(known.shard) == known.generation
            })
        })
    }

    fn learn(&mut self, owners: &Owners, peer: &PeerId, link: Arc<Link>, generation: u32) -> usize {
        let at = self
            .known
            .iter()
            .position(|known| known.as_ref().is_none_or(|known| known.peer == *peer))
            .unwrap_or_else(|| {
                self.next = (self.next + 1) % ROUTES;
                self.next
            });
        self.flush_one(at);
        self.known[at] = Some(Known {
            peer: *peer,
            shard: owners.shard_of(peer),
            generation,
            link,
        });
        at
    }

    /// Looks the peer up again the next time.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        for at in 0..ROUTES {
            if self.known[at]
                .as_ref()
                .is_some_and(|known| known.peer == *peer)
            {
                self.flush_one(at);
                self.known[at] = None;
            }
        }
    }

    /// The link of a route, on which something is written now.
    #[inline]
    pub(super) fn written(&mut self, route: usize) -> Option<&Link> {
        self.unflushed |= 1 << route;
        self.known[route].as_ref().map(|known| &*known.link)
    }

    fn flush_one(&mut self, at: usize) {
        if self.unflushed & 1 << at != 0 {
            self.unflushed &= !(1 << at);
            if let Some(known) = &self.known[at] {
                known.link.flush();
            }
        }
    }

    /// Lets the links send what was pushed, each once although several routes may lead over it.
    pub(super) fn flush(&mut self) {
        while self.unflushed != 0 {
            let at = self.unflushed.trailing_zeros() as usize;
            self.flush_one(at);
            for other in at + 1..ROUTES {
                if let (Some(one), Some(same)) = (&self.known[at], &self.known[other])
                    && Arc::ptr_eq(&one.link, &same.link)
                {
                    self.unflushed &= !(1 << other);
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ResolveLayer;

impl<S> Layer<S> for ResolveLayer {
    type Service = Resolve<S>;

    fn layer(&self, inner: S) -> Resolve<S> {
        Resolve(inner)
    }
}

/// The service of [`ResolveLayer`]: a [`Dispatch`] becomes a [`Routed`], is held, or is dropped. Ready when the inner one is; never
/// waits for a lookup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resolve<S>(S);

impl<'a, 'm, S> Service<Dispatch<'a, 'm>> for Resolve<S>
where
    S: Service<Routed<'a, 'm>, Response = Forwarded, Error = LinkGone>,
{
    type Response = Forwarded;
    type Error = LinkGone;
    type Future = Either<S::Future, Ready<Result<Forwarded, LinkGone>>>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkGone>> {
        self.0.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, dispatch: Dispatch<'a, 'm>) -> Self::Future {
        let route = {
            let mut memory = dispatch.memory.borrow_mut();
            let Memory { owners, routes, .. } = &mut **memory;
            routes
                .find(owners, &dispatch.forward.destination)
                .map_or_else(|| look_up(&mut memory, &dispatch), Ok)
        };
        match route {
            Ok(route) => Either::Left(self.0.call(Routed { dispatch, route })),
            Err(forwarded) => Either::Right(ready(Ok(forwarded))),
        }
    }
}

#[cold]
fn look_up(memory: &mut Memory, dispatch: &Dispatch<'_, '_>) -> Result<usize, Forwarded> {
    let (peer, message) = (&dispatch.forward.destination, dispatch.forward.message);
    match memory.owners.route(peer, message, &mut memory.asker) {
        Route::Link(link, generation) => {
            Ok(memory.routes.learn(&memory.owners, peer, link, generation))
        }
        Route::Here => {
            memory.owners.deliver_here(peer, message);
            // Delivered or not, it has been counted.
            Err(Forwarded::Held)
        }
        Route::Held => Err(Forwarded::Held),
        Route::Dropped(reason) => Err(Forwarded::Dropped(reason)),
    }
}
