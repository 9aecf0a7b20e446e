//! Mutual TLS between processes (cluster-protocol.md, fault 12).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustix::process::Signal;

use crate::pod::{Pod, directory, next};
use crate::support::{payload_of, peer, ports, transport, until};

/// The name that all pods of the cluster share.
const NAME: &str = "relay.cluster.example";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Writes what a pod with a certificate of this name needs.
    fn write(&self, dir: &Path, name: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(dir.join("tls.crt"), certificate.pem()).unwrap();
        std::fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
        std::fs::write(dir.join("ca.crt"), &self.pem).unwrap();
    }
}

async fn start(test: &str, port: u16, ports: &[u16]) -> Pod {
    let dir = directory(test, port);
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let args = [
        "--cluster-tls-cert-file",
        &path("tls.crt"),
        "--cluster-tls-key-file",
        &path("tls.key"),
        "--cluster-tls-ca-file",
        &path("ca.crt"),
        "--cluster-tls-name",
        NAME,
    ];
    Pod::start(test, port, ports, "secret\n", &args).await
}

#[tokio::test]
async fn fault_12_processes_meet_over_tls_and_get_new_certificates_while_messages_flow() {
    let test = "tls";
    let ports: [u16; 3] = ports();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let mut pods = Vec::new();
    for &port in &ports[..2] {
        old.write(&directory(test, port), NAME);
        pods.push(start(test, port, &ports).await);
    }
    for pod in &pods {
        pod.linked(1).await;
    }
    let mut alice = pods[0].peer("alice").await;
    let mut bob = pods[1].peer("bob").await;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let flow = tokio::spawn(async move {
        let mut number = 0_u32;
        while !stopped.load(Ordering::Relaxed) {
            alice
                .send(&transport(&peer("bob"), &number.to_be_bytes()))
                .await;
            let heard = next(&mut bob).await;
            assert_eq!(payload_of(&heard, &peer("alice")), number.to_be_bytes());
            number += 1;
        }
        number
    });
    // Another authority, and no word of the old one: who shows a certificate of the old one is not let in any more.
    for (pod, &port) in pods.iter().zip(&ports) {
        new.write(&directory(test, port), NAME);
        pod.program.signal(Signal::HUP);
        until("new files in use", || {
            pod.program
                .lines("the TLS files of the cluster have changed")
                > 0
        })
        .await;
    }
    new.write(&directory(test, ports[2]), NAME);
    let third = start(test, ports[2], &ports).await;
    third.linked(2).await;
    let mut carol = third.peer("carol").await;
    let mut dave = pods[0].peer("dave").await;
    carol.send(&transport(&peer("dave"), b"new")).await;
    assert_eq!(payload_of(&next(&mut dave).await, &peer("carol")), b"new");
    stop.store(true, Ordering::Relaxed);
    assert!(flow.await.unwrap() > 0, "the stream that was up lives on");
}

#[tokio::test]
async fn fault_12_a_process_whose_certificate_carries_another_name_is_refused() {
    let test = "tls-name";
    let ports: [u16; 2] = ports();
    let ca = Authority::new("ca");
    ca.write(&directory(test, ports[0]), NAME);
    ca.write(&directory(test, ports[1]), "another.example");
    let one = start(test, ports[0], &ports).await;
    let other = start(test, ports[1], &ports).await;
    let refused = [("reason", "tls_failed")];
    one.until("relay_cluster_hello_rejects_total", &refused, |count| {
        count > 0
    })
    .await;
    for pod in [&one, &other] {
        assert_eq!(pod.sum("relay_cluster_streams", &[]).await, 0);
    }
    // Of a pod that it dialed, and of one that dialed it, it says what is wrong.
    for what in ["pod not reached", "pod refused"] {
        let mut said = serde_json::Value::Null;
        until(what, || {
            let line = one.program.line_with(&[what, "does not carry the name"]);
            said = line.unwrap_or_default();
            !said.is_null()
        })
        .await;
        assert!(said["error"].as_str().is_some(), "{said}");
        let whom = said["network.peer.address"].as_str().unwrap_or_default();
        assert!(whom.starts_with("127.0.0.1:"), "{said}");
    }
    // And the other knows of itself.
    let own = other.program.line_with(&[
        "does not carry the name",
        "pods with the same --cluster-tls-name",
    ]);
    assert!(own.is_some(), "told at its start");
    // With the right name it is let in.
    ca.write(&directory(test, ports[1]), NAME);
    other.program.signal(Signal::HUP);
    one.linked(1).await;
    other.linked(1).await;
}
