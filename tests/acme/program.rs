//! The program with certificates by ACME, and clients that look at what it shows.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trunkline::auth::{Secret, mint};
use trunkline::client::Client;

use crate::authority::{Authority, Killed};
use crate::support::{Metrics, free_address, fresh_dir, peer, real_pause, request, until};

/// A running relay.
#[derive(Debug)]
pub(crate) struct Program {
    child: Killed,
    log: PathBuf,
    /// Where peers connect.
    pub(crate) addr: SocketAddr,
    health: SocketAddr,
    metrics: SocketAddr,
}

/// How it is started.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// The test's own directory.
    pub(crate) dir: PathBuf,
    /// The port that peers connect to.
    pub(crate) port: u16,
    pub(crate) domains: String,
    pub(crate) directory_url: String,
    pub(crate) ca_file: PathBuf,
    /// Further arguments and variables.
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
}

impl Start {
    /// A relay at the port that this authority comes to.
    pub(crate) fn with(dir: &Path, authority: &Authority, port: u16, domains: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            port,
            domains: domains.to_owned(),
            directory_url: authority.directory_url(),
            ca_file: authority.ca_file(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Where account and certificate are kept.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Starts it, and waits until it is up.
    pub(crate) async fn start(&self) -> Program {
        let log = self.dir.join("log");
        let _absent = std::fs::remove_file(&log);
        let child = Command::new(env!("CARGO_BIN_EXE_trunkline"))
            .env_clear()
            .env("OZ_LOG_FORMAT", "json")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .args(["-l", &format!("127.0.0.1:{}", self.port)])
            .args(["-H", "127.0.0.1:0", "--metrics-port=0"])
            .args(["-e", "rels://relay.example.com:443", "-s", "acme-secret"])
            .args(["-a", &self.domains, "--letsencrypt-email=admin@example.com"])
            .args(["--acme-directory-url", &self.directory_url])
            .args(&self.args)
            .arg("-d")
            .arg(self.data_dir())
            .arg("--acme-ca-file")
            .arg(&self.ca_file)
            .arg("--log-file")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut up = Value::Null;
        until("the log says where it listens", || {
            let mut lines = lines(&log).into_iter();
            up = lines
                .find(|line| line["message"] == "relay is up")
                .unwrap_or_default();
            !up.is_null()
        })
        .await;
        let addr = |name: &str| -> SocketAddr {
            let addr: SocketAddr = up[name].as_str().unwrap().parse().unwrap();
            SocketAddr::from(([127, 0, 0, 1], addr.port()))
        };
        Program {
            child: Killed(child),
            addr: addr("listen"),
            health: addr("health"),
            metrics: addr("metrics"),
            log,
        }
    }
}

fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str);
    lines.filter_map(Result::ok).collect()
}

impl Program {
    /// The log's text.
    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// All lines of the log that say this.
    pub(crate) fn logged(&self, message: &str) -> Vec<Value> {
        let mut lines = lines(&self.log);
        lines.retain(|line| line["message"] == message);
        lines
    }

    /// Waits until the log says this.
    pub(crate) async fn says(&self, message: &str) -> Value {
        until(message, || !self.logged(message).is_empty()).await;
        self.logged(message).remove(0)
    }

    /// How many orders came to this.
    pub(crate) async fn orders(&self, result: &str) -> u64 {
        let metrics = Metrics::scrape(self.metrics).await;
        metrics.sum("relay_acme_orders_total", &[("result", result)])
    }

    /// Waits until that many orders came to this.
    pub(crate) async fn until_orders(&self, result: &str, count: u64) {
        for _ in 0..30_000 {
            if self.orders(result).await >= count {
                return;
            }
            real_pause().await;
        }
        panic!("never {count} orders with {result}: {}", self.log_text());
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::scrape(self.metrics).await
    }

    /// Status and body of one of the health pages.
    pub(crate) async fn health(&self, path: &str) -> (u16, String) {
        let get = format!("GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n");
        let answer = request(self.health, get).await.expect("an answer");
        (answer.status, answer.text().to_owned())
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.0.id().to_string();
        let status = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(status.expect("kill runs").success());
    }

    /// A handshake as `domain`.
    pub(crate) async fn handshake(
        &self,
        domain: &str,
        roots: &RootCertStore,
        alpn: &[u8],
    ) -> io::Result<TlsStream<TcpStream>> {
        handshake(self.addr, domain, roots.clone(), alpn).await
    }

    /// The certificate that is shown for `domain`, which must come from `roots`.
    pub(crate) async fn certificate(
        &self,
        domain: &str,
        roots: &RootCertStore,
    ) -> CertificateDer<'static> {
        let stream = self.handshake(domain, roots, b"http/1.1").await.unwrap();
        let (_, session) = stream.get_ref();
        session.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// A peer that connects with TLS.
    pub(crate) async fn peer(&self, name: &str, domain: &str, roots: &RootCertStore) -> Client {
        let stream = self.handshake(domain, roots, b"http/1.1").await.unwrap();
        let token = mint(&Secret::new("acme-secret"), 4_000_000_000);
        Client::connect_over(stream, domain, "/relay", peer(name), &token)
            .await
            .unwrap()
    }
}

async fn handshake(
    addr: SocketAddr,
    domain: &str,
    roots: RootCertStore,
    alpn: &[u8],
) -> io::Result<TlsStream<TcpStream>> {
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    let name = ServerName::try_from(domain.to_owned()).unwrap();
    let tcp = TcpStream::connect(addr).await.unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// The body of one answer.
pub(crate) async fn https_get(
    addr: SocketAddr,
    domain: &str,
    path: &str,
    roots: RootCertStore,
) -> Vec<u8> {
    let mut stream = handshake(addr, domain, roots, b"").await.unwrap();
    let get = format!("GET {path} HTTP/1.0\r\nHost: {domain}\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _unclean = stream.read_to_end(&mut answer).await;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    answer.split_off(head.expect("a head") + 4)
}

/// A directory, and a free port for the relay.
pub(crate) fn place(test: &str) -> (PathBuf, u16) {
    (fresh_dir(&format!("acme-{test}")), free_address().port())
}
