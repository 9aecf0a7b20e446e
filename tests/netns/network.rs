//! The machines of a test: one namespace for each pod, and one in the middle where the clients are.
//!
//! Each pod has two cables: one to the clients, one to the other pods. What pods say to each other can be lost without a word, one way
//! or both, while their clients notice nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::support::netns::{Far, FarCable, Namespace, Way};

/// An Ethernet address that nobody has: the bridge takes what is for it, and nobody hears it.
const NOBODY: &str = "02:00:00:00:00:fe";

pub(crate) struct Network {
    pods: Vec<Namespace>,
    clients: Namespace,
    /// The cables between pods, where they are far from each other.
    far: Vec<FarCable>,
}

impl Network {
    /// None where there are no namespaces: the output says which test was skipped, and why.
    pub(crate) fn make(test: &str, pods: usize) -> Option<Self> {
        Self::made(test, pods, None)
    }

    /// The same with such a way from each pod to the bridge between them.
    pub(crate) fn make_far(test: &str, pods: usize, far: Far) -> Option<Self> {
        Self::made(test, pods, Some(far))
    }

    fn made(test: &str, pods: usize, far: Option<Far>) -> Option<Self> {
        match Self::try_make(pods, far) {
            Ok(network) => Some(network),
            Err(why) => {
                println!("skipped: {test}: {why}");
                None
            }
        }
    }

    fn try_make(pods: usize, far: Option<Far>) -> Result<Self, String> {
        let mut cables = Vec::new();
        let clients = Namespace::make("clients")?;
        for (bridge, net) in [("to-clients", 99), ("to-pods", 98)] {
            clients.ip(&format!("link add name {bridge} type bridge"))?;
            clients.ip(&format!("link set dev {bridge} up"))?;
            clients.ip(&format!("addr add 10.{net}.0.254/24 dev {bridge}"))?;
        }
        let pods = (0..pods)
            .map(|pod| {
                let namespace = Namespace::make("pod")?;
                for (end, bridge, net) in [("clients", "to-clients", 99), ("pods", "to-pods", 98)] {
                    let port = format!("{end}{pod}");
                    match far.filter(|_| end == "pods") {
                        Some(far) => {
                            cables.push(namespace.far_cable(end, &clients, &port, far)?);
                        }
                        None => namespace.cable(end, &clients, &port)?,
                    }
                    clients.ip(&format!("link set dev {port} up master {bridge}"))?;
                    namespace.ip(&format!("addr add 10.{net}.0.{}/24 dev {end}", pod + 1))?;
                    namespace.ip(&format!("link set dev {end} up"))?;
                }
                Ok(namespace)
            })
            .collect::<Result<_, String>>()?;
        Ok(Self {
            pods,
            clients,
            far: cables,
        })
    }

    /// Takes the far cables away, and says of each what it has carried, there and back.
    pub(crate) fn end_far_cables(&mut self) -> Vec<[Way; 2]> {
        self.far.drain(..).map(FarCable::end).collect()
    }

    /// Runs a test where the clients are.
    pub(crate) fn test(&self, work: impl AsyncFnOnce() + Send) {
        self.clients.within(work);
    }

    pub(crate) fn machine(&self, pod: usize) -> &Namespace {
        &self.pods[pod]
    }

    /// How clients reach a pod.
    pub(crate) fn for_clients(pod: usize, port: u16) -> SocketAddr {
        SocketAddr::new(ip(99, pod), port)
    }

    /// How pods reach a pod.
    pub(crate) fn for_pods(pod: usize) -> IpAddr {
        ip(98, pod)
    }

    /// From now on all that one pod sends to the other is lost, and nobody is told.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        let to = Self::for_pods(to);
        let lost = format!("neigh replace {to} lladdr {NOBODY} dev pods nud permanent");
        self.pods[from].ip(&lost).unwrap();
    }

    /// Ends that.
    pub(crate) fn mend(&self, from: usize, to: usize) {
        let to = Self::for_pods(to);
        let found = format!("neigh del {to} dev pods");
        self.pods[from].ip(&found).unwrap();
    }

    /// Pulls both cables of a pod.
    pub(crate) fn unplug(&self, pod: usize) {
        for end in ["clients", "pods"] {
            let down = format!("link set dev {end}{pod} down");
            self.clients.ip(&down).unwrap();
        }
    }
}

fn ip(net: u8, pod: usize) -> IpAddr {
    IpAddr::from(Ipv4Addr::new(10, net, 0, pod as u8 + 1))
}
