//! Pods on real sockets that find each other by a real DNS server, which the test reprograms.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;
use tower::ServiceExt as _;
use trunkline::cluster::discovery::{Dns, Resolver, Source};
use trunkline::cluster::{Cluster, ClusterHandle, ClusterSecrets};
use trunkline::proto::cluster::hello::ClusterSecret;

use crate::support::dns::{DnsServer, Mood};
use crate::support::{
    MemoryClient, PATIENCE, TestRelay, payload_of, peer, ports, transport, until,
};

const NAME: &str = "pods.example.";

/// How often the name is looked up, at most.
const INTERVAL: Duration = Duration::from_millis(200);

/// A pod in this process.
struct Local {
    relay: TestRelay,
    cluster: ClusterHandle,
}

impl Local {
    async fn start(dns: &DnsServer, address: SocketAddr, source: &str) -> Self {
        let relay = TestRelay::start();
        let resolver = Dns::at(dns.resolv_conf()).port(dns.port());
        let secrets = ClusterSecrets::new(vec![ClusterSecret::new("secret").unwrap()]);
        let cluster = Cluster::builder(address)
            .sources([Source::headless(source, address.port()).unwrap()])
            .resolver(Resolver::new(resolver.map_err(Into::into)))
            .interval(INTERVAL)
            .accept(listener(address).await)
            .secrets(secrets)
            .start(&relay.relay)
            .unwrap();
        Self { relay, cluster }
    }

    async fn linked(&self, pods: usize) {
        until("streams to the other pods", || self.cluster.pods() == pods).await;
    }

    async fn stop(self) {
        self.relay.relay.shutdown().await;
        self.cluster.stop().await;
    }
}

/// Waits until a pod that was there before has let go of the address, and so has a program that another test was just starting
/// (until its `exec` it has all that is open here).
pub(super) async fn listener(address: SocketAddr) -> TcpListener {
    let bound = async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(_) => crate::support::real_pause().await,
            }
        }
    };
    timeout(PATIENCE, bound).await.expect("the address is free")
}

/// The `count` first addresses of the loopback.
fn hosts(count: u8) -> Vec<IpAddr> {
    (1..=count)
        .map(|last| IpAddr::from([127, 0, 0, last]))
        .collect()
}

fn set(dns: &DnsServer, hosts: &[IpAddr]) {
    let texts: Vec<String> = hosts.iter().map(IpAddr::to_string).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    dns.set(NAME, 0, &texts);
}

/// A message from one peer to another, past all else.
async fn say(from: &MemoryClient, me: &str, to: &mut MemoryClient, you: &str) {
    assert!(from.end.send(transport(&peer(you), me.as_bytes())).await);
    loop {
        let message = timeout(PATIENCE, to.end.recv()).await.expect("in time");
        let message = message.expect("the connection lives");
        if message[1] == 3 {
            return assert_eq!(payload_of(&message, &peer(me)), me.as_bytes());
        }
    }
}

#[tokio::test]
async fn a_cluster_grows_from_two_pods_to_five_and_shrinks_to_two() {
    let dns = DnsServer::start("").await;
    let [port] = ports();
    set(&dns, &hosts(2));
    let mut pods = Vec::new();
    let mut peers = Vec::new();
    for (number, host) in hosts(5).into_iter().enumerate() {
        if number == 2 {
            for pod in &pods {
                Local::linked(pod, 1).await;
            }
            set(&dns, &hosts(5));
        }
        let pod = Local::start(&dns, SocketAddr::new(host, port), NAME).await;
        peers.push(pod.relay.memory_peer(&format!("peer {number}")).await);
        pods.push(pod);
    }
    for pod in &pods {
        pod.linked(4).await;
    }
    for pod in &pods {
        until("all peers are known", || pod.cluster.known_peers() == 5).await;
    }
    for from in 0..5 {
        let to = (from + 1) % 5;
        let [sender, receiver] = peers.get_disjoint_mut([from, to]).unwrap();
        say(
            sender,
            &format!("peer {from}"),
            receiver,
            &format!("peer {to}"),
        )
        .await;
    }
    set(&dns, &hosts(2));
    drop(peers.split_off(2));
    for pod in pods.split_off(2) {
        pod.stop().await;
    }
    for pod in &pods {
        pod.linked(1).await;
    }
    let [one, two] = peers.get_disjoint_mut([0, 1]).unwrap();
    say(one, "peer 0", two, "peer 1").await;
    say(two, "peer 1", one, "peer 0").await;
}

#[tokio::test]
async fn pods_that_were_found_are_dialed_again_while_dns_fails() {
    let dns = DnsServer::start("").await;
    let [port] = ports();
    let [one, two] = [hosts(2)[0], hosts(2)[1]].map(|host| SocketAddr::new(host, port));
    set(&dns, &hosts(2));
    let first = Local::start(&dns, one, NAME).await;
    let mut alice = first.relay.memory_peer("alice").await;
    let mut second = Local::start(&dns, two, NAME).await;
    // A stream to it may be one that it dialed.
    let mut found = first.cluster.discovered();
    let knows_it = found.wait_for(|found| found.pods.contains(&two));
    timeout(PATIENCE, knows_it).await.expect("found").unwrap();
    for mood in [Mood::Failing, Mood::Silent] {
        first.linked(1).await;
        dns.set_mood(mood);
        let asked = dns.asked().0;
        until("questions without an answer", || dns.asked().0 > asked + 4).await;
        second.stop().await;
        first.linked(0).await;
        // It finds nobody itself.
        second = Local::start(&dns, two, NAME).await;
        first.linked(1).await;
        let mut bob = second.relay.memory_peer("bob").await;
        until("bob is known", || first.cluster.known_peers() == 2).await;
        say(&alice, "alice", &mut bob, "bob").await;
        say(&bob, "bob", &mut alice, "alice").await;
        dns.set_mood(Mood::Well);
    }
}

#[tokio::test]
async fn a_pod_whose_name_resolves_to_nothing_is_ready_alone_until_there_is_another() {
    let dns = DnsServer::start("").await;
    let [port] = ports();
    let [one, two] = [hosts(2)[0], hosts(2)[1]].map(|host| SocketAddr::new(host, port));
    let first = Local::start(&dns, one, NAME).await;
    timeout(PATIENCE, first.cluster.ready())
        .await
        .expect("ready");
    assert_eq!(first.cluster.pods(), 0);
    let mut alice = first.relay.memory_peer("alice").await;
    let mut beside = first.relay.memory_peer("beside").await;
    say(&alice, "alice", &mut beside, "beside").await;
    let second = Local::start(&dns, two, NAME).await;
    let mut bob = second.relay.memory_peer("bob").await;
    set(&dns, &hosts(2));
    first.linked(1).await;
    until("bob is known", || first.cluster.known_peers() == 3).await;
    say(&alice, "alice", &mut bob, "bob").await;
    until("alice is known", || second.cluster.known_peers() == 3).await;
    say(&bob, "bob", &mut alice, "alice").await;
}

#[tokio::test]
async fn pods_meet_over_ipv6_on_ports_of_their_own() {
    if TcpListener::bind("[::1]:0").await.is_err() {
        return println!("SKIPPED: this machine has no IPv6");
    }
    let dns = DnsServer::start("").await;
    let ports: [u16; 2] = ports();
    dns.set("host.example.", 0, &["::1"]);
    dns.set_services(
        "_pods._tcp.example.",
        0,
        &[("host.example.", ports[0]), ("host.example.", ports[1])],
    );
    let address = |port: u16| SocketAddr::new("::1".parse().unwrap(), port);
    let first = Local::start(&dns, address(ports[0]), "_pods._tcp.example.").await;
    let second = Local::start(&dns, address(ports[1]), "_pods._tcp.example.").await;
    first.linked(1).await;
    second.linked(1).await;
    let mut alice = first.relay.memory_peer("alice").await;
    let mut bob = second.relay.memory_peer("bob").await;
    for pod in [&first, &second] {
        until("both are known", || pod.cluster.known_peers() == 2).await;
    }
    say(&alice, "alice", &mut bob, "bob").await;
    say(&bob, "bob", &mut alice, "alice").await;
}
