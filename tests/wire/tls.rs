//! WebSocket over TLS: handshakes, exchange, certificates that change, and what is no TLS (operations.md, *Flags*).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trunkline::auth::AllowAll;
use trunkline::client::{Client, Event};
use trunkline::reload::Reloader;
use trunkline::time::Clock;
use trunkline::tls::{CertificateError, CertificateFiles, Certificates};

use crate::support::{
    FrozenClock, Pair, RawClient, TestRelay, fresh_dir, peer, request, token, until,
};

const NAME: &str = "relay.example.com";

fn dir(test: &str) -> PathBuf {
    fresh_dir(&format!("tls-{test}"))
}

fn write_pair(dir: &Path) -> Pair {
    Pair::write(dir, [NAME, "127.0.0.1"])
}

fn started(pair: &Pair) -> (TestRelay, Certificates) {
    let certificates = pair.store();
    let shown = certificates.clone();
    let relay = TestRelay::served(|relay| relay.tls(true), |server| server.tls(shown));
    (relay, certificates)
}

fn trusting(pairs: &[&Pair], version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for pair in pairs {
        roots.add(pair.der.clone()).unwrap();
    }
    let mut config = ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

async fn handshake(
    relay: &TestRelay,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(relay.addr).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    TlsConnector::from(Arc::clone(config))
        .connect(name, tcp)
        .await
}

async fn client(relay: &TestRelay, config: &Arc<ClientConfig>, name: &str) -> Client {
    let stream = handshake(relay, config).await.unwrap();
    Client::connect_over(stream, NAME, "/relay", peer(name), &token())
        .await
        .unwrap()
}

/// Every payload arrives, in order: many records, and more than a socket takes at once.
async fn exchange(from: &Client, to: &mut Client, count: u32) {
    let sender = from.sender();
    let target = *to.peer();
    let send = async {
        for number in 0..count {
            let mut payload = vec![7; 1280];
            payload[..4].copy_from_slice(&number.to_be_bytes());
            sender.send(&target, &payload).await.unwrap();
        }
    };
    let receive = async {
        for number in 0..count {
            let Event::Message { payload, .. } = to.recv().await else {
                panic!("no message {number}");
            };
            assert_eq!(payload.len(), 1280);
            assert_eq!(payload[..4], number.to_be_bytes());
        }
    };
    tokio::join!(send, receive);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_shake_hands_resume_by_ticket_and_exchange() {
    let pair = write_pair(&dir("versions"));
    let (relay, _) = started(&pair);
    for version in [&TLS12, &TLS13] {
        let config = trusting(&[&pair], version);
        let stream = handshake(&relay, &config).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(version.version));
        assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        let (a, b) = (format!("a{version:?}"), format!("b{version:?}"));
        let left = Client::connect_over(stream, NAME, "/relay", peer(&a), &token())
            .await
            .unwrap();
        let stream = handshake(&relay, &config).await.unwrap();
        assert_eq!(
            stream.get_ref().1.handshake_kind(),
            Some(HandshakeKind::Resumed)
        );
        let mut right = Client::connect_over(stream, NAME, "/relay", peer(&b), &token())
            .await
            .unwrap();
        // As many as the receiver's queue surely holds, again and again.
        for _ in 0..20 {
            exchange(&left, &mut right, 200).await;
        }
        left.close().await;
        right.close().await;
    }
    relay.conserved().await;
}

#[tokio::test]
async fn a_new_pair_is_shown_and_a_bad_one_is_not_and_nobody_is_dropped() {
    let place = dir("reload");
    let (one, two) = (place.join("..one"), place.join("..two"));
    std::fs::create_dir_all(&one).unwrap();
    std::fs::create_dir_all(&two).unwrap();
    let (first, second) = (write_pair(&one), write_pair(&two));
    // As Kubernetes mounts a secret: files behind a link that is swapped.
    let data = place.join("..data");
    std::os::unix::fs::symlink(&one, &data).unwrap();
    let files = CertificateFiles {
        certificate: data.join("tls.crt"),
        key: data.join("tls.key"),
    };
    let (relay, certificates) = started(&first);
    let before = certificates.current().unwrap();
    let (reloader, reload) = Reloader::new();
    let hour = Duration::from_secs(3600);
    tokio::spawn(files.watch(certificates.clone(), hour, reload, Clock::system()));
    let mut left = client(&relay, &trusting(&[&first], &TLS13), "left").await;

    // The certificate without its key: the old pair stays.
    let key = std::fs::read(two.join("tls.key")).unwrap();
    std::fs::write(
        two.join("tls.key"),
        std::fs::read(one.join("tls.key")).unwrap(),
    )
    .unwrap();
    let swap = || {
        let link = place.join("..tmp");
        std::os::unix::fs::symlink(&two, &link).unwrap();
        std::fs::rename(&link, &data).unwrap();
    };
    swap();
    reloader.reload();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(certificates.current().unwrap(), before);
    handshake(&relay, &trusting(&[&first], &TLS13))
        .await
        .unwrap();

    std::fs::write(two.join("tls.key"), key).unwrap();
    reloader.reload();
    until("the new certificate is in use", || {
        certificates.current().unwrap() != before
    })
    .await;
    let new = trusting(&[&second], &TLS13);
    assert!(
        handshake(&relay, &trusting(&[&first], &TLS13))
            .await
            .is_err()
    );
    let right = client(&relay, &new, "right").await;
    exchange(&right, &mut left, 10).await;
    let refused = [("reason", "client_refused_certificate")];
    let mut metrics = relay.read_metrics().await;
    for _ in 0..1000 {
        if metrics.sum("relay_tls_handshake_failures_total", &[]) > 0 {
            break;
        }
        crate::support::real_pause().await;
        metrics = relay.read_metrics().await;
    }
    let count = metrics.sum("relay_tls_handshake_failures_total", &refused);
    assert_eq!(count, 1, "{metrics:?}");
    assert!(metrics.has("relay_tls_certificate_expiry_timestamp_seconds", &[]));
}

#[tokio::test]
async fn what_is_no_tls_is_told_so_and_counted() {
    let pair = write_pair(&dir("plain"));
    let (relay, _) = started(&pair);
    let get = "GET /relay HTTP/1.1\r\nHost: relay\r\n\r\n";
    let answer = request(relay.addr, get).await.expect("an answer");
    assert_eq!(answer.status, 400);
    let mut raw = RawClient::tcp(relay.addr).await;
    raw.write(&[0, 1, 2, 3]).await;
    raw.ends_silently().await;
    let mut raw = RawClient::tcp(relay.addr).await;
    raw.write(&[22, 3, 1, 0, 4, 9, 9, 9, 9]).await;
    // With an alert or without: rustls has none for each mistake.
    let _alert = raw.rest().await;
    let metrics = relay.read_metrics().await;
    for reason in ["plain_http", "not_tls", "protocol_violation"] {
        let count = metrics.sum("relay_tls_handshake_failures_total", &[("reason", reason)]);
        assert_eq!(count, 1, "{reason}");
    }
}

/// As an ACME authority does that has seen what it came for.
#[tokio::test]
async fn who_closes_with_the_end_of_the_handshake_has_not_failed() {
    let pair = write_pair(&dir("closes"));
    let (relay, _) = started(&pair);
    let name = ServerName::try_from(NAME).unwrap();
    let mut session = ClientConnection::new(trusting(&[&pair], &TLS13), name).unwrap();
    let mut raw = TcpStream::connect(relay.addr).await.unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    raw.write_all(&hello).await.unwrap();
    let mut bytes = [0; 4096];
    while session.is_handshaking() {
        let read = raw.read(&mut bytes).await.unwrap();
        let mut read = &bytes[..read];
        while !read.is_empty() {
            session.read_tls(&mut read).unwrap();
            session.process_new_packets().unwrap();
        }
    }
    session.send_close_notify();
    let mut last = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut last).unwrap();
    }
    raw.write_all(&last).await.unwrap();
    let mut rest = Vec::new();
    raw.read_to_end(&mut rest).await.unwrap();
    let metrics = relay.read_metrics().await;
    assert_eq!(metrics.sum("relay_tls_handshake_failures_total", &[]), 0);
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended_and_counted() {
    let clock = FrozenClock::freeze();
    let pair = write_pair(&dir("slow"));
    let (relay, _) = started(&pair);
    let silent = RawClient::tcp(relay.addr).await;
    let mut half = RawClient::tcp(relay.addr).await;
    half.write(&[22, 3, 1, 2, 0, 1]).await;
    for _ in 0..50 {
        crate::support::real_pause().await;
    }
    clock.advance(Duration::from_secs(11)).await;
    silent.ends_silently().await;
    half.ends_silently().await;
    let metrics = relay.read_metrics().await;
    let stage = [("stage", "tls")];
    assert_eq!(metrics.sum("relay_handshake_timeouts_total", &stage), 2);
}

#[test]
fn files_that_are_of_no_use_say_which_and_why() {
    let place = dir("files");
    let pair = write_pair(&place);
    let good = pair.files;
    assert!(good.load().is_ok());
    let shown = |files: &CertificateFiles| files.load().unwrap_err().to_string();
    let missing = CertificateFiles {
        key: place.join("nowhere"),
        ..good.clone()
    };
    assert!(shown(&missing).contains("nowhere"));
    std::fs::write(place.join("text"), "no pem").unwrap();
    let text = CertificateFiles {
        certificate: place.join("text"),
        ..good.clone()
    };
    assert!(matches!(
        text.load(),
        Err(CertificateError::NoCertificate(_))
    ));
    let no_key = CertificateFiles {
        key: good.certificate.clone(),
        ..good.clone()
    };
    assert!(matches!(no_key.load(), Err(CertificateError::NoKey(_))));
    let other = dir("files-other");
    let other = CertificateFiles {
        key: write_pair(&other).files.key,
        ..good
    };
    assert!(matches!(
        other.load(),
        Err(CertificateError::KeyMismatch { .. })
    ));
}

/// Our load generator, whose TLS is another code than the relay's, keeps windows of messages in flight and loses none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_generator_trusts_what_it_is_told_to() {
    let pair = write_pair(&dir("load"));
    let relay = TestRelay::served(
        |relay| relay.tls(true).validator(AllowAll),
        |server| server.tls(pair.store()),
    );
    let stranger = write_pair(&dir("load-stranger"));
    // The authorities of this machine are those of the variable's file.
    let load = async |trust: Vec<&str>, system: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_trunkline"));
        command.args([
            "load",
            "flow",
            "-a",
            &relay.addr.to_string(),
            "-s",
            "x",
            "--tls",
        ]);
        command.args(["--pairs=2", "--batch=16", "--duration=0.3", "--warmup=0.1"]);
        command
            .env("SSL_CERT_FILE", system)
            .env_remove("SSL_CERT_DIR");
        command.args(trust).output().await.unwrap()
    };
    let file = |pair: &Pair| pair.files.certificate.to_str().unwrap().to_owned();
    let (own, foreign) = (&*file(&pair), &*file(&stranger));
    let trusted = [
        (vec!["--ca-file", own], foreign),
        (vec!["--insecure"], foreign),
        (vec![], own),
    ];
    for (trust, system) in trusted {
        let trusted = load(trust, system).await;
        assert!(trusted.status.success(), "{trusted:?}");
    }
    for (trust, system) in [(vec!["--ca-file", foreign], own), (vec![], foreign)] {
        let refused = load(trust, system).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(
            words.contains("give --ca-file a file that holds it"),
            "{words}"
        );
    }
    let unreadable = load(vec![], "/nowhere").await;
    assert_eq!(unreadable.status.code(), Some(2));
    let words = String::from_utf8_lossy(&unreadable.stderr);
    assert!(words.contains("SSL_CERT_FILE: /nowhere"), "{words}");
    assert!(relay.conserved().await.1 > 100);
}

/// HTTP/2 is for those who speak nothing else: whoever offers both, as Go's HTTP client does, needs HTTP/1.1 for its upgrade.
#[tokio::test]
async fn http_1_is_agreed_upon_with_whoever_offers_it() {
    let pair = write_pair(&dir("alpn"));
    let (relay, _) = started(&pair);
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("http/1.1")),
        (&["http/1.1"], Some("http/1.1")),
        (&["h2"], Some("h2")),
        (&[], None),
    ] {
        let mut config = ClientConfig::clone(&trusting(&[&pair], &TLS13));
        config.alpn_protocols = offered
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let stream = handshake(&relay, &Arc::new(config)).await.unwrap();
        let alpn = stream.get_ref().1.alpn_protocol();
        assert_eq!(alpn, agreed.map(str::as_bytes), "{offered:?}");
        if agreed == Some("h2") {
            crate::http2::over(stream).await;
        } else {
            Client::connect_over(stream, NAME, "/relay", peer("x"), &token())
                .await
                .unwrap();
        }
    }
}
