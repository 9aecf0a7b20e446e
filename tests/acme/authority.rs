//! Pebble and its DNS server on free ports of loopback.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::generate_simple_self_signed;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;

use crate::program;
use crate::support::{free_address, until};

/// A domain that Pebble refuses.
pub(crate) const BLOCKED: &str = "blocked.example";

/// What a test wants of its authority.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// How long certificates are valid, in seconds.
    pub(crate) lifetime: u64,
    /// The port that the authority comes to for TLS-ALPN-01.
    pub(crate) challenge_port: u16,
}

/// A running authority. Every name is at 127.0.0.1 in its DNS.
#[derive(Debug)]
pub(crate) struct Authority {
    dir: PathBuf,
    wanted: Wanted,
    addr: SocketAddr,
    management: SocketAddr,
    _dns: Killed,
    /// Where records of the DNS server are made (HTTP).
    pub(crate) dns_management: SocketAddr,
    dns_addr: SocketAddr,
    pebble: Option<Killed>,
}

/// A program that is killed when the test ends, however it ends.
#[derive(Debug)]
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Starts a program; None if it is not installed.
fn started(command: &mut Command) -> Option<Killed> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match child {
        Ok(child) => Some(Killed(child)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{command:?}: {error}"),
    }
}

async fn answers(addr: SocketAddr) {
    until("it listens", || TcpStream::connect(addr).is_ok()).await;
}

impl Authority {
    /// Starts one. None where it is not installed, which is said.
    pub(crate) async fn start(test: &str, dir: &Path, wanted: Wanted) -> Option<Self> {
        let (dns_addr, dns_management) = (free_address(), free_address());
        let dns = started(
            Command::new("pebble-challtestsrv")
                .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""])
                .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""])
                .args(["-dnsserver", &dns_addr.to_string()])
                .args(["-management", &dns_management.to_string()]),
        );
        let Some(dns) = dns else {
            eprintln!("{test}: SKIPPED, pebble-challtestsrv is not installed");
            return None;
        };
        let made = generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]);
        let made = made.unwrap();
        std::fs::write(dir.join("ca.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.join("ca.key"), made.signing_key.serialize_pem()).unwrap();
        let mut authority = Self {
            dir: dir.to_owned(),
            wanted,
            addr: free_address(),
            management: free_address(),
            _dns: dns,
            dns_management,
            dns_addr,
            pebble: None,
        };
        answers(authority.dns_management).await;
        if !authority.up().await {
            eprintln!("{test}: SKIPPED, pebble is not installed");
            return None;
        }
        Some(authority)
    }

    /// Starts Pebble, which remembers nothing of before.
    pub(crate) async fn up(&mut self) -> bool {
        let config = json!({ "pebble": {
            "listenAddress": self.addr.to_string(),
            "managementListenAddress": self.management.to_string(),
            "certificate": self.dir.join("ca.pem"),
            "privateKey": self.dir.join("ca.key"),
            "httpPort": 1,
            "tlsPort": self.wanted.challenge_port,
            "domainBlocklist": [BLOCKED],
            "keyAlgorithm": "ecdsa",
            "profiles": { "default": { "description": "d", "validityPeriod": self.wanted.lifetime } },
        }});
        let file = self.dir.join("pebble.json");
        std::fs::write(&file, config.to_string()).unwrap();
        self.pebble = started(
            Command::new("pebble")
                // It would wait some seconds before it looks at a challenge.
                .env("PEBBLE_VA_NOSLEEP", "1")
                .args(["-dnsserver", &self.dns_addr.to_string()])
                .arg("-config")
                .arg(&file),
        );
        if self.pebble.is_some() {
            answers(self.addr).await;
            answers(self.management).await;
        }
        self.pebble.is_some()
    }

    /// Ends Pebble.
    pub(crate) fn down(&mut self) {
        self.pebble = None;
    }

    /// Where its directory of services is.
    pub(crate) fn directory_url(&self) -> String {
        format!("https://localhost:{}/dir", self.addr.port())
    }

    /// What its own certificate comes from.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// What the certificates that it issues come from.
    pub(crate) async fn issuer(&self) -> RootCertStore {
        let mut own = RootCertStore::empty();
        own.add(CertificateDer::from_pem_file(self.ca_file()).unwrap())
            .unwrap();
        let pem = program::https_get(self.management, "localhost", "/roots/0", own).await;
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&pem).unwrap())
            .unwrap();
        roots
    }
}
