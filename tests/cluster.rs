//! The program as one pod of several: real processes and streams on loopback, and readiness with a real DNS server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use support::dns::{DnsServer, Mood};
use support::{
    Metrics, RawClient, UPGRADE_REQUEST, ids, payload_of, peer, request, transport, until,
};
use tokio::sync::oneshot;
use tower::ServiceExt as _;
use trunkline::auth::{AllowAll, Secret, mint};
use trunkline::cluster::discovery::{Dns, Resolver, Source};
use trunkline::cluster::{Cluster, ClusterError, ClusterSecrets};
use trunkline::proto::cluster::hello::ClusterSecret;
use trunkline::proto::peer::encode_auth;
use trunkline::{Relay, Server};

/// The binary as a pod; killed when the test ends, however it ends.
struct Pod {
    child: Child,
    addr: SocketAddr,
    health: SocketAddr,
    metrics: SocketAddr,
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Ports that were free a moment ago.
fn ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("0.0.0.0:0").unwrap())
        .collect();
    held.iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect()
}

impl Pod {
    async fn start(test: &str, port: u16, ports: &[u16], secrets: &str) -> Self {
        let dir = env!("CARGO_TARGET_TMPDIR");
        let log = format!("{dir}/{test}-{port}.log");
        let _absent = std::fs::remove_file(&log);
        let file = format!("{dir}/{test}-{port}.secret");
        std::fs::write(&file, secrets).unwrap();
        let list: Vec<String> = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let child = Command::new(env!("CARGO_BIN_EXE_trunkline"))
            .env_clear()
            // As an openZro release has it.
            .env("OZ_LOG_FORMAT", "json")
            .env("OZ_CLUSTER_PORT", port.to_string())
            .env("POD_IP", "127.0.0.1")
            .args(["-l", "127.0.0.1:0", "-H", "127.0.0.1:0", "--metrics-port=0"])
            .args(["-e", "rel://relay.example.com:80", "-s", "process-secret"])
            .args(["--cluster-peers", &list.join(",")])
            .args(["--cluster-auth-secret-file", &file])
            .args(["--drain-delay=0s", "--drain-window=0s"])
            .args(["--log-file", &log])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut line = serde_json::Value::Null;
        until("the log says where it listens", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let up = text.lines().find(|line| line.contains("relay is up"));
            line = up
                .and_then(|line| serde_json::from_str(line).ok())
                .unwrap_or_default();
            !line.is_null()
        })
        .await;
        let addr = |name: &str| -> SocketAddr { line[name].as_str().unwrap().parse().unwrap() };
        Self {
            child,
            addr: addr("listen"),
            health: addr("health"),
            metrics: SocketAddr::from(([127, 0, 0, 1], addr("metrics").port())),
        }
    }

    async fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        Metrics::scrape(self.metrics).await.sum(name, labels)
    }

    /// Waits until it has a stream to so many pods.
    async fn linked(&self, pods: u64) {
        for _ in 0..30_000 {
            if self.sum("relay_cluster_streams", &[]).await == pods {
                return;
            }
            support::real_pause().await;
        }
        panic!("never {pods} streams");
    }

    async fn peer(&self, name: &str) -> RawClient {
        let mut client = RawClient::tcp(self.addr).await;
        client.write(UPGRADE_REQUEST.as_bytes()).await;
        client.expect_upgrade().await;
        let token = mint(&Secret::new("process-secret"), 4_000_000_000);
        client
            .send(&encode_auth(&peer(name), &token).unwrap())
            .await;
        client.expect_auth_response().await;
        client
    }
}

async fn status(addr: SocketAddr, path: &str) -> u16 {
    let question = format!("GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n");
    request(addr, question).await.expect("an answer").status
}

#[tokio::test]
async fn three_processes_are_one_relay_and_two_when_one_is_killed() {
    let ports = ports(3);
    let mut pods = Vec::new();
    for &port in &ports {
        pods.push(Pod::start("three", port, &ports, "old\nnew\n").await);
    }
    for pod in &pods {
        pod.linked(2).await;
        assert_eq!(status(pod.health, "/readyz").await, 200);
    }
    let mut alice = pods[0].peer("alice").await;
    let mut bob = pods[1].peer("bob").await;
    let mut carol = pods[2].peer("carol").await;
    carol.send(&ids(8, &[peer("bob")])).await;
    assert_eq!(carol.message().await, ids(10, &[peer("bob")]));
    alice.send(&transport(&peer("bob"), b"one hop")).await;
    assert_eq!(payload_of(&bob.message().await, &peer("alice")), b"one hop");
    bob.send(&transport(&peer("alice"), b"and back")).await;
    assert_eq!(
        payload_of(&alice.message().await, &peer("bob")),
        b"and back"
    );
    // kill -9: the kernel resets the streams.
    let mut killed = pods.remove(1);
    killed.child.kill().unwrap();
    assert_eq!(carol.message().await, ids(11, &[peer("bob")]));
    for pod in &pods {
        pod.linked(1).await;
    }
    alice.send(&transport(&peer("carol"), b"still")).await;
    assert_eq!(payload_of(&carol.message().await, &peer("alice")), b"still");
}

#[tokio::test]
async fn a_pod_with_another_secret_stays_alone_until_it_has_the_right_one() {
    let ports = ports(2);
    let one = Pod::start("secret", ports[0], &ports, "right\n").await;
    let other = Pod::start("secret", ports[1], &ports, "wrong\n").await;
    let refused = [("reason", "hmac_mismatch")];
    for _ in 0..30_000 {
        if one.sum("relay_cluster_hello_rejects_total", &refused).await > 0 {
            break;
        }
        support::real_pause().await;
    }
    assert!(one.sum("relay_cluster_hello_rejects_total", &refused).await > 0);
    assert_eq!(one.sum("relay_cluster_streams", &[]).await, 0);
    assert_eq!(other.sum("relay_cluster_streams", &[]).await, 0);
    let file = format!("{}/secret-{}.secret", env!("CARGO_TARGET_TMPDIR"), ports[1]);
    std::fs::write(file, "right\nwrong\n").unwrap();
    one.linked(1).await;
    other.linked(1).await;
}

#[tokio::test]
async fn a_pod_is_ready_when_it_has_looked_for_the_others_once() {
    let dns = DnsServer::start("").await;
    dns.set_mood(Mood::Failing);
    let relay = Relay::builder()
        .exposed_address("rel://relay.example.com")
        .validator(AllowAll)
        .build()
        .unwrap();
    let resolver = Dns::at(dns.resolv_conf()).port(dns.port());
    let announced = SocketAddr::from(([127, 0, 0, 1], ports(1)[0]));
    let cluster = Cluster::builder(announced)
        .sources([Source::headless("pods.example.", announced.port()).unwrap()])
        .resolver(Resolver::new(resolver.map_err(Into::into)))
        .secrets(ClusterSecrets::new(vec![
            ClusterSecret::new("secret").unwrap(),
        ]))
        .start(&relay)
        .unwrap();
    // Once is enough; the listener that the second one had by then is gone with it.
    let second = SocketAddr::from(([127, 0, 0, 1], ports(1)[0]));
    let again = Cluster::builder(second).sources(["127.0.0.1:1".parse().unwrap()]);
    let refused = again.start(&relay).unwrap_err();
    assert!(matches!(refused, ClusterError::AlreadyJoined), "{refused}");
    assert!(TcpListener::bind(second).is_ok(), "its port is free again");
    let any = [SocketAddr::from(([127, 0, 0, 1], 0))];
    let server = Server::builder(relay)
        .cluster(cluster.clone())
        .listen(any)
        .health(any)
        .bind()
        .unwrap();
    let health = server.health_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    until("questions", || dns.asked().0 >= 4).await;
    assert_eq!(status(health, "/readyz").await, 503);
    assert_eq!(status(health, "/healthz").await, 200);
    dns.set("pods.example.", 5, &["127.0.0.1"]);
    dns.set_mood(Mood::Well);
    cluster.ready().await;
    for _ in 0..30_000 {
        if status(health, "/readyz").await == 200 {
            break;
        }
        support::real_pause().await;
    }
    assert_eq!(status(health, "/readyz").await, 200);
    stop.send(()).unwrap();
    running.await.unwrap();
    // It has been stopped with the server; once more changes nothing.
    cluster.stop().await;
    assert!(
        TcpListener::bind(announced).is_ok(),
        "its port is free again"
    );
}
