//! What the streams between pods tell those who know peers. The streams know nothing of what a frame means; who knows peers sees no
//! socket.

use std::sync::Arc;

use super::link::Link;
use crate::proto::cluster::Frame;

/// Is told of each link that comes up, and which one is used.
///
/// There may be two links to one pod for a moment, because both pods dialed: frames are taken from both, and sent on the one that was
/// named last. Calls about links of one pod come one after the other. Nothing in here waits, or asks the registry of links.
pub(crate) trait Fabric: Send + Sync + 'static {
    /// `link` is up. The sink that is returned gets what comes in over it, from the link's reading task alone.
    fn link_up(self: Arc<Self>, link: &Arc<Link>) -> Box<dyn FrameSink>;

    /// From now on what goes to its pod goes over this link: it is the first one, or has the place of another. Called after
    /// [`link_up`](Self::link_up), and again whenever that changes.
    fn use_link(&self, link: &Arc<Link>);
}

/// Takes the frames of one link, in their order. Nothing in it waits.
pub(crate) trait FrameSink: Send {
    /// WHO_HAS, I_HAVE, LOST, FWD and REFWD, whoever sent them: before it delivers a message of a link that does not
    /// [carry peers](Link::carries_peers), it drops it and counts it.
    fn frame(&mut self, frame: Frame<'_>);

    /// The frames of one read have been given: what they caused may go out.
    fn flush(&mut self);

    /// The pod has shown that it is one of ours; at most once.
    fn became_ours(&mut self);

    /// The stream has ended. `replaced`: another link is used and leads to the very same pod, which knows of the change. Else the
    /// pod is gone as far as is known, and what is told by a link that is used from now on counts anew: it comes after this.
    fn down(self: Box<Self>, replaced: bool);
}
