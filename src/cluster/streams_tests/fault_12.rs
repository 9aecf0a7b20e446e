//! HELLO goes over plain TCP on the reference. Here the operator can switch on mutual TLS between pods.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use super::super::tls::PodTlsFiles;
use super::*;
use crate::reload::Reloader;
use crate::tls::CertificateFiles;

/// An authority, and a directory for what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    directory: PathBuf,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let unique = std::thread::current()
            .name()
            .unwrap_or("test")
            .replace("::", "-");
        let directory = std::env::temp_dir().join(format!(
            "trunkline-fault-12-{}-{unique}-{name}",
            std::process::id()
        ));
        std::fs::create_dir_all(&directory).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            pem,
            directory,
        }
    }

    /// Files of a pod whose certificate carries this name, and who trusts this authority.
    fn pod(&self, file: &str, name: &str, trusts: &Self) -> PodTlsFiles {
        let path = |ending: &str| self.directory.join(format!("{file}.{ending}"));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![if name.contains("://") {
            SanType::URI(name.try_into().unwrap())
        } else {
            SanType::DnsName(name.try_into().unwrap())
        }];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        write(&path("crt"), &certificate.pem());
        write(&path("key"), &key.serialize_pem());
        write(&path("ca"), &trusts.pem);
        PodTlsFiles {
            own: CertificateFiles {
                certificate: path("crt"),
                key: path("key"),
            },
            ca: path("ca"),
        }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

fn tls(files: PodTlsFiles, name: Option<&str>, allow_plain: bool) -> Option<PodTls> {
    Some(PodTls::load(files, name.map(str::to_owned), allow_plain).unwrap())
}

async fn pod(tls: Option<PodTls>) -> Pod {
    Pod::tcp(Options {
        tls,
        ..Options::default()
    })
    .await
}

/// Whether the first pod can dial the second.
async fn meet(one: &mut Pod, two: &mut Pod) {
    one.discovers(&[two.address]);
    one.until(is_ours).await;
    two.until(is_ours).await;
    let link = one.link().await;
    link.forward(FrameType::Forward, &bob(), &message(7))
        .unwrap();
    link.flush();
    let told = two.until(|told| matches!(told, Told::Message(..))).await;
    assert!(matches!(told, Told::Message(_, there) if there == message(7)));
}

async fn is_refused(one: Pod, two: &Pod, refusal: HelloRefusal) {
    let before = two.rejects(refusal);
    one.discovers(&[two.address]);
    within(async {
        while two.rejects(refusal) == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(one.streams.links.len(), 0);
    one.streams.stop().await;
}

#[tokio::test]
async fn fault_12_pods_of_one_authority_meet_over_tls() {
    let ca = Authority::new("ca");
    for name in ["relay.example", "spiffe://example/relay"] {
        let mut one = pod(tls(ca.pod("one", name, &ca), Some(name), false)).await;
        let mut two = pod(tls(ca.pod("two", name, &ca), Some(name), false)).await;
        meet(&mut one, &mut two).await;
    }
}

#[tokio::test]
async fn fault_12_another_authority_another_name_or_no_tls_is_refused() {
    let (ca, foreign) = (Authority::new("ca"), Authority::new("foreign"));
    let name = Some("relay.example");
    let two = pod(tls(ca.pod("two", "relay.example", &ca), name, false)).await;
    // The dialer's certificate is judged by the pod that it dials ...
    let one = pod(tls(foreign.pod("one", "relay.example", &ca), name, false)).await;
    is_refused(one, &two, HelloRefusal::TlsFailed).await;
    let one = pod(tls(ca.pod("one", "other.example", &ca), name, false)).await;
    is_refused(one, &two, HelloRefusal::TlsFailed).await;
    let one = pod(None).await;
    is_refused(one, &two, HelloRefusal::PlainButTlsRequired).await;
    // ... and the other way round; a pod that would allow plain TCP does not fall back to it there.
    let one = pod(tls(ca.pod("one", "relay.example", &foreign), name, true)).await;
    is_refused(one, &two, HelloRefusal::TlsFailed).await;
    assert_eq!(
        two.rejects(HelloRefusal::PlainButTlsRequired),
        1.0 + two.rejects(HelloRefusal::Timeout)
    );
    assert_eq!(two.streams.links.len(), 0);
}

#[tokio::test]
async fn fault_12_plain_pods_are_met_while_that_is_allowed() {
    let ca = Authority::new("ca");
    let migrating = || tls(ca.pod("one", "relay.example", &ca), None, true);
    let (mut one, mut two) = (pod(migrating()).await, pod(None).await);
    meet(&mut one, &mut two).await;
    let (mut one, mut two) = (pod(None).await, pod(migrating()).await);
    meet(&mut one, &mut two).await;
}

/// Somebody who cuts the stream must not make a pod speak in the clear.
#[tokio::test]
async fn fault_12_where_tls_has_worked_there_is_no_way_back() {
    let ca = Authority::new("ca");
    let migrating = |file: &str| tls(ca.pod(file, "relay.example", &ca), None, true);
    let mut one = pod(migrating("one")).await;
    let mut two = pod(migrating("two")).await;
    meet(&mut one, &mut two).await;
    two.streams.stop().await;
    let address = two.address;
    drop(two);
    // The address is dialed again, and whoever has it now closes each stream at its first byte.
    let listener = listens_again(address).await;
    for _ in 0..3 {
        let (mut stream, _) = within(listener.accept()).await.unwrap();
        let mut first = [0];
        within(stream.read_exact(&mut first)).await.unwrap();
        assert_eq!(first, [22], "a TLS record, and no HELLO");
    }
}

#[tokio::test]
async fn fault_12_files_are_read_again_when_they_change() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = old.pod("two", "relay.example", &old);
    let two_tls = tls(files.clone(), None, false).unwrap();
    let (reloader, reload) = Reloader::new();
    let watching = tokio::spawn(two_tls.clone().watch(Duration::from_secs(3600), reload));
    let mut two = pod(Some(two_tls)).await;
    let one = pod(tls(new.pod("one", "relay.example", &new), None, false)).await;
    is_refused(one, &two, HelloRefusal::TlsFailed).await;
    let replacement = new.pod("two", "relay.example", &new);
    std::fs::copy(&replacement.own.certificate, &files.own.certificate).unwrap();
    std::fs::copy(&replacement.own.key, &files.own.key).unwrap();
    std::fs::copy(&replacement.ca, &files.ca).unwrap();
    reloader.reload();
    let mut one = pod(tls(new.pod("one", "relay.example", &new), None, false)).await;
    meet(&mut one, &mut two).await;
    watching.abort();
}

#[test]
fn fault_12_useless_files_are_named() {
    let ca = Authority::new("ca");
    let good = ca.pod("one", "relay.example", &ca);
    let bad = PodTlsFiles {
        ca: good.own.key.clone(),
        ..good.clone()
    };
    let error = PodTls::load(bad, None, false).unwrap_err().to_string();
    assert!(error.contains("one.key"), "{error}");
    let missing = PodTlsFiles {
        ca: "/nowhere/ca.pem".into(),
        ..good
    };
    let error = PodTls::load(missing, None, false).unwrap_err().to_string();
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
}
