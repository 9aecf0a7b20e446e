//! The instance URL as the running program makes it and tells it to its peers (peer-protocol.md, *Instance URL*): each row of the
//! table, with TLS here and without.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

#[path = "support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use trunkline::auth::{Secret, mint};
use trunkline::client::Client;
use trunkline::tls::CertificateFiles;

use self::support::{Pair, Program, fresh_dir, peer};

const SECRET: &str = "a-secret";

/// A directory with a certificate, and who trusts it.
struct Tls {
    dir: PathBuf,
    pair: Pair,
    config: Arc<ClientConfig>,
}

impl Tls {
    fn new(test: &str) -> Self {
        let dir = fresh_dir(&format!("instance-url-{test}"));
        let pair = Pair::write(&dir, ["example.com"]);
        let config = ClientConfig::builder()
            .with_root_certificates(pair.roots())
            .with_no_client_auth();
        Self {
            dir,
            pair,
            config: Arc::new(config),
        }
    }

    /// What the program is told to use it.
    fn args(&self) -> [String; 2] {
        let CertificateFiles { certificate, key } = &self.pair.files;
        [
            format!("--tls-cert-file={}", certificate.display()),
            format!("--tls-key-file={}", key.display()),
        ]
    }
}

/// What a peer is told by a relay with this exposed address, and whether the relay has warned.
async fn told(tls: &Tls, exposed: &str, here: bool) -> (String, bool) {
    let files = tls.args();
    let mut args = vec!["-e", exposed, "-s", SECRET];
    if here {
        args.extend(files.iter().map(String::as_str));
    }
    let program = Program::start(&tls.dir, &args).await;
    let stream = TcpStream::connect(program.addr()).await.unwrap();
    let token = mint(&Secret::new(SECRET), 4_000_000_000);
    let client = if here {
        let name = ServerName::try_from("example.com").unwrap();
        let connector = TlsConnector::from(Arc::clone(&tls.config));
        let stream = connector.connect(name, stream).await.unwrap();
        Client::connect_over(stream, "example.com", "/relay", peer("x"), &token).await
    } else {
        Client::connect_over(stream, "example.com", "/relay", peer("x"), &token).await
    };
    let client = client.unwrap();
    assert_eq!(program.up["instance_url"], client.instance_url());
    let warned = program.line("says rel://, but TLS is on").is_some();
    (client.instance_url().to_owned(), warned)
}

#[tokio::test]
async fn every_row_of_the_table_is_what_peers_are_told() {
    let tls = Tls::new("rows");
    for (exposed, here, url, warns) in [
        ("example.com", true, "rels://example.com", false),
        ("example.com", false, "rel://example.com", false),
        ("rel://example.com", false, "rel://example.com", false),
        ("rel://example.com", true, "rel://example.com", true),
        ("rels://example.com", true, "rels://example.com", false),
        (
            "rels://example.com:9300",
            true,
            "rels://example.com:9300",
            false,
        ),
        // TLS ends at the ingress.
        ("rels://example.com", false, "rels://example.com", false),
        (
            "rels://example.com:9300",
            false,
            "rels://example.com:9300",
            false,
        ),
    ] {
        let told = told(&tls, exposed, here).await;
        assert_eq!(
            told,
            (url.to_owned(), warns),
            "{exposed} with TLS here: {here}"
        );
    }
}

#[test]
fn what_makes_no_url_is_a_mistake_with_tls_and_without() {
    let tls = Tls::new("mistakes");
    for exposed in [
        "rel://rels://example.com",
        "http://example.com",
        "://example.com",
        "",
    ] {
        for files in [&[][..], &tls.args()[..]] {
            let output = Command::new(env!("CARGO_BIN_EXE_trunkline"))
                .env_clear()
                .args([&format!("--exposed-address={exposed}"), "--auth-secret=x"])
                .args(files)
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(2), "{exposed}");
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.contains("--exposed-address: "), "{text}");
        }
    }
}
