//! Whether a message that was not written is tried once more.

use std::future::{Ready, ready};

use tower::retry::Policy;

use super::{Dispatch, LinkGone};
use crate::crosspod::Forwarded;

/// Tries once more when a link was gone before anything of the message was written. A second link to the same pod may be there,
/// or another owner known by now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reroute {
    left: bool,
}

impl Reroute {
    pub(super) const fn once() -> Self {
        Self { left: true }
    }
}

impl<'a, 'm> Policy<Dispatch<'a, 'm>, Forwarded, LinkGone> for Reroute {
    type Future = Ready<()>;

    #[inline]
    fn retry(
        &mut self,
        dispatch: &mut Dispatch<'a, 'm>,
        result: &mut Result<Forwarded, LinkGone>,
    ) -> Option<Ready<()>> {
        if result.is_ok() || !std::mem::take(&mut self.left) {
            return None;
        }
        let mut memory = dispatch.memory.borrow_mut();
        memory.routes.forget(&dispatch.forward.destination);
        Some(ready(()))
    }

    #[inline]
    fn clone_request(&mut self, dispatch: &Dispatch<'a, 'm>) -> Option<Dispatch<'a, 'm>> {
        Some(*dispatch)
    }
}
