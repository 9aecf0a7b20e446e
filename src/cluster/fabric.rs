//! What the streams between pods tell those who know peers. The streams know nothing of what a frame means; who knows peers sees no
//! socket.

use std::sync::Arc;

use super::link::Link;
use crate::proto::cluster::Frame;

/// Is told of each link that comes up.
pub(crate) trait Fabric: Send + Sync + 'static {
    /// `link` is up. The sink that is returned gets what comes in over it, from the link's reading task alone. Called before
    /// the first frame; a link that has the place of another one is announced before that one's
    /// [`down`](FrameSink::down).
    fn link_up(self: Arc<Self>, link: &Arc<Link>) -> Box<dyn FrameSink>;
}

/// Takes the frames of one link, in their order. Nothing in it waits.
pub(crate) trait FrameSink: Send {
    /// WHO_HAS, I_HAVE, LOST, FWD and REFWD, whoever sent them: before it delivers a message of a link that does not
    /// [carry peers](Link::carries_peers), it drops it and counts it.
    fn frame(&mut self, frame: Frame<'_>);

    /// The frames of one read have been given: what they caused may go out.
    fn flush(&mut self);

    /// The pod has shown that it is one of ours; at most once, and also right after [`Fabric::link_up`].
    fn became_ours(&mut self);

    /// The stream has ended. `replaced`: another link to the same pod has its place, so the pod is not lost.
    fn down(self: Box<Self>, replaced: bool);
}
