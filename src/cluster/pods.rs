//! The pods that own peers, as small numbers: an entry of the owner table holds one, and not an address.

use std::sync::Arc;

use parking_lot::RwLock;

use super::leaving::LINGER;
use super::link::Link;
use crate::crosspod::PodAddr;

/// How long a pod must have been gone before another one may get its number, in milliseconds: no entry holds it any more then.
const REUSE_AFTER: u64 = 120_000;

/// A pod, by its number here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PodNumber(u16);

impl PodNumber {
    /// This pod.
    pub(super) const US: Self = Self(0);
}

#[derive(Debug)]
struct Pod {
    address: PodAddr,
    link: Option<Arc<Link>>,
    /// How often its link was lost. What the pod said of its peers in an earlier epoch has not been confirmed since.
    epoch: u8,
    /// When its link was lost, in milliseconds; its peers are held since.
    lost_at: Option<u64>,
    /// When its present link came up.
    up_at: u64,
}

/// All pods that have been linked to this one, and their links.
#[derive(Debug)]
pub(super) struct Pods(RwLock<State>);

#[derive(Debug)]
struct State {
    pods: Vec<Pod>,
    /// The links of those that are linked: what is broadcast goes through this.
    links: Arc<[Arc<Link>]>,
}

impl State {
    fn number(&self, address: &PodAddr) -> Option<PodNumber> {
        let at = self
            .pods
            .iter()
            .skip(1)
            .position(|pod| pod.address == *address)?;
        u16::try_from(at + 1).ok().map(PodNumber)
    }

    fn relist(&mut self) {
        self.links = self
            .pods
            .iter()
            .filter_map(|pod| pod.link.clone())
            .collect();
    }
}

impl Pods {
    pub(super) fn new(us: PodAddr) -> Self {
        Self(RwLock::new(State {
            pods: vec![Pod {
                address: us,
                link: None,
                epoch: 0,
                lost_at: None,
                up_at: 0,
            }],
            links: Arc::default(),
        }))
    }

    /// All links, as they are now.
    pub(super) fn links(&self) -> Arc<[Arc<Link>]> {
        Arc::clone(&self.0.read().links)
    }

    /// The number of a pod; none: there are as many pods as can be numbered.
    pub(super) fn number(&self, address: &PodAddr, now: u64) -> Option<PodNumber> {
        let mut state = self.0.write();
        if let Some(number) = state.number(address) {
            return Some(number);
        }
        let is_free = |pod: &Pod| {
            pod.link.is_none()
                && pod
                    .lost_at
                    .is_some_and(|at| at.saturating_add(REUSE_AFTER) < now)
        };
        let at = state
            .pods
            .iter()
            .position(is_free)
            .unwrap_or(state.pods.len());
        let number = PodNumber(u16::try_from(at).ok()?);
        if at == state.pods.len() {
            state.pods.push(Pod {
                address: address.clone(),
                link: None,
                epoch: 0,
                lost_at: None,
                up_at: now,
            });
        } else {
            state.pods[at].address.clone_from(address);
            state.pods[at].lost_at = None;
        }
        Some(number)
    }

    /// What goes to a link's pod goes over this one from now on; false if the pod has no number.
    pub(super) fn up(&self, link: &Arc<Link>, now: u64) -> bool {
        let mut state = self.0.write();
        let Some(number) = state.number(link.pod()) else {
            return false;
        };
        let pod = &mut state.pods[usize::from(number.0)];
        if pod.link.is_none() {
            pod.up_at = now;
        }
        pod.link = Some(Arc::clone(link));
        pod.lost_at = None;
        state.relist();
        true
    }

    /// A link is gone: the pod's epoch that begins with that; none if another link has its place.
    pub(super) fn down(&self, number: PodNumber, link: &Arc<Link>, now: u64) -> Option<u8> {
        let mut state = self.0.write();
        let pod = &mut state.pods[usize::from(number.0)];
        if !pod
            .link
            .as_ref()
            .is_some_and(|there| Arc::ptr_eq(there, link))
        {
            return None;
        }
        pod.link = None;
        pod.epoch = pod.epoch.wrapping_add(1);
        pod.lost_at = Some(now);
        let epoch = pod.epoch;
        state.relist();
        Some(epoch)
    }

    /// The link to a pod, if messages can go there.
    pub(super) fn link(&self, number: PodNumber) -> Option<Arc<Link>> {
        self.0.read().pods[usize::from(number.0)]
            .link
            .as_ref()
            .filter(|link| link.carries_peers() && link.is_up())
            .cloned()
    }

    /// When a pod that is linked again must have named its peers, in milliseconds; none while it is not linked.
    pub(super) fn confirmed_by(&self, number: PodNumber) -> Option<u64> {
        let state = self.0.read();
        let pod = &state.pods[usize::from(number.0)];
        pod.link.as_ref().map(|_| pod.up_at + LINGER)
    }

    /// How often the pod's link was lost.
    pub(super) fn epoch(&self, number: PodNumber) -> u8 {
        self.0.read().pods[usize::from(number.0)].epoch
    }

    /// Which of two pods has the larger announced address.
    pub(super) fn is_larger(&self, number: PodNumber, than: PodNumber) -> bool {
        let state = self.0.read();
        let address = |number: PodNumber| &state.pods[usize::from(number.0)].address;
        address(number) > address(than)
    }

    /// The pod's announced address.
    pub(super) fn address(&self, number: PodNumber) -> PodAddr {
        self.0.read().pods[usize::from(number.0)].address.clone()
    }
}
