//! The program as one pod of several: real processes and streams on loopback, and readiness with a real DNS server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod dns;
mod pod;
mod tls;

use std::net::SocketAddr;

use pod::{Pod, next, secret_file, status};
use support::dns::{DnsServer, Mood};
use support::{free_address, ids, payload_of, peer, ports, transport, until};
use tokio::sync::oneshot;
use tower::ServiceExt as _;
use trunkline::auth::AllowAll;
use trunkline::cluster::discovery::{Dns, Resolver, Source};
use trunkline::cluster::{Cluster, ClusterError, ClusterSecrets};
use trunkline::proto::cluster::hello::ClusterSecret;
use trunkline::{Relay, Server};

#[tokio::test]
async fn three_processes_are_one_relay_and_two_when_one_is_killed() {
    let ports: [u16; 3] = ports();
    let mut pods = Vec::new();
    for &port in &ports {
        pods.push(Pod::start("three", port, &ports, "old\nnew\n", &[]).await);
    }
    for pod in &pods {
        pod.linked(2).await;
        assert_eq!(status(pod.program.health(), "/readyz").await, 200);
    }
    let (up, all) = (
        &pods[0].program.up,
        ports.map(|port| format!("127.0.0.1:{port}")),
    );
    assert_eq!(up["pod"], all[0]);
    assert_eq!(up["cluster_sources"], all.join(","));
    assert_eq!(up["cluster_secret"], true);
    assert_eq!(up["cluster_tls"], false);
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
    pods.remove(1).program.kill();
    assert_eq!(next(&mut carol).await, ids(11, &[peer("bob")]));
    for pod in &pods {
        pod.linked(1).await;
    }
    alice.send(&transport(&peer("carol"), b"still")).await;
    assert_eq!(payload_of(&carol.message().await, &peer("alice")), b"still");
}

/// Whoever has the address now is another pod, whatever was known of the one before.
#[tokio::test]
async fn an_address_that_comes_back_as_another_pod_leads_to_its_peers_alone() {
    let ports: [u16; 2] = ports();
    let one = Pod::start("back", ports[0], &ports, "secret\n", &[]).await;
    let mut alice = one.peer("alice").await;
    for (round, is_killed) in [(0, true), (1, false)] {
        let (before, after) = (format!("before {round}"), format!("after {round}"));
        let mut old = Pod::start("back", ports[1], &ports, "secret\n", &[]).await;
        one.linked(1).await;
        let _theirs = old.peer(&before).await;
        alice.send(&ids(8, &[peer(&before), peer(&after)])).await;
        assert_eq!(next(&mut alice).await, ids(10, &[peer(&before)]));
        if is_killed {
            old.program.kill();
        } else {
            assert_eq!(old.program.stop().await, Some(0));
        }
        let new = Pod::start("back", ports[1], &ports, "secret\n", &[]).await;
        let mut bob = new.peer(&after).await;
        let mut told = [next(&mut alice).await, next(&mut alice).await];
        told.sort();
        assert_eq!(told[0], ids(10, &[peer(&after)]));
        assert_eq!(told[1], ids(11, &[peer(&before)]));
        alice
            .send(&transport(&peer(&after), b"to the new one"))
            .await;
        let heard = next(&mut bob).await;
        assert_eq!(payload_of(&heard, &peer("alice")), b"to the new one");
        bob.send(&transport(&peer("alice"), b"and back")).await;
        let heard = next(&mut alice).await;
        assert_eq!(payload_of(&heard, &peer(&after)), b"and back");
        alice.send(&ids(9, &[peer(&before), peer(&after)])).await;
        alice.sync(&peer("alice")).await;
    }
}

#[tokio::test]
async fn a_pod_with_another_secret_stays_alone_until_it_has_the_right_one() {
    let ports: [u16; 2] = ports();
    let one = Pod::start("secret", ports[0], &ports, "right\n", &[]).await;
    let other = Pod::start("secret", ports[1], &ports, "wrong\n", &[]).await;
    let refused = [("reason", "hmac_mismatch")];
    one.until("relay_cluster_hello_rejects_total", &refused, |count| {
        count > 0
    })
    .await;
    assert_eq!(one.sum("relay_cluster_streams", &[]).await, 0);
    assert_eq!(other.sum("relay_cluster_streams", &[]).await, 0);
    std::fs::write(secret_file("secret", ports[1]), "right\nwrong\n").unwrap();
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
    let announced = free_address();
    let cluster = Cluster::builder(announced)
        .sources([Source::headless("pods.example.", announced.port()).unwrap()])
        .resolver(Resolver::new(resolver.map_err(Into::into)))
        .secrets(ClusterSecrets::new(vec![
            ClusterSecret::new("secret").unwrap(),
        ]))
        .start(&relay)
        .unwrap();
    // Once is enough; the listener that the second one had by then is gone with it.
    let second = free_address();
    let again = Cluster::builder(second).sources(["127.0.0.1:1".parse().unwrap()]);
    let refused = again.start(&relay).unwrap_err();
    assert!(matches!(refused, ClusterError::AlreadyJoined), "{refused}");
    drop(dns::listener(second).await);
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
    support::eventually("it is ready", async || {
        status(health, "/readyz").await == 200
    })
    .await;
    stop.send(()).unwrap();
    running.await.unwrap();
    // It has been stopped with the server, and its port is free; once more changes nothing.
    cluster.stop().await;
    drop(dns::listener(announced).await);
}
