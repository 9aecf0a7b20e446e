//! The result: everything a relay is told from outside, checked.
//!
//! Owns the types that `main` hands on. They are made by `reader` alone, and know no flag.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    listen_address::ListenAddress,
    mistakes::Mistake,
    secrets::{SecretError, SecretText, read_secrets},
};
use crate::cluster::PodTlsFiles;
use crate::cluster::discovery::Source;
use crate::proxies::{ProxyProtocol, TrustedProxies};
use crate::telemetry::logging::LogSettings;
use crate::telemetry::otlp::OtlpSettings;
use crate::tls::{AcmeSettings, CertificateFiles};

/// Where secrets come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Given directly; never empty.
    Values(Vec<SecretText>),
    /// A file with one secret a line, to be watched with [`watch_secrets`](super::watch_secrets).
    File(PathBuf),
}

impl SecretSource {
    /// The secrets as they are now, never none; the first one is the one to sign with. Blocks on the file system.
    ///
    /// # Errors
    /// Those of [`read_secrets`]: the file was readable when the settings were checked, and may not be any more.
    pub fn load(&self) -> Result<Vec<SecretText>, SecretError> {
        match self {
            Self::Values(secrets) => Ok(secrets.clone()),
            Self::File(path) => read_secrets(path),
        }
    }
}

/// Where the certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsSettings {
    /// Files that somebody else renews.
    Files(CertificateFiles),
    /// An authority that speaks ACME.
    Acme(AcmeSettings),
}

/// How pods speak TLS with each other.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterTlsSettings {
    /// What this pod shows, and whom it believes.
    pub files: PodTlsFiles,
    /// The DNS name or URI that the other pods' certificates must carry.
    pub name: Option<String>,
    /// Whether pods that speak without TLS are pods, too.
    pub allow_plain: bool,
}

/// What a pod is told about its cluster.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClusterSettings {
    /// Where the other pods are found; never empty.
    pub sources: Vec<Source>,
    /// The address this pod announces: its own, and the port where it listens on all addresses.
    pub announced: SocketAddr,
    /// The secrets pods prove themselves with; None: they need not.
    pub auth_secret: Option<SecretSource>,
    /// Whether peers' messages are sent to pods that have not proven the secret.
    pub allow_one_way: bool,
    /// TLS between pods; None: they speak without.
    pub tls: Option<ClusterTlsSettings>,
    /// What may wait for one pod, in bytes.
    pub queue_bytes: usize,
}

/// Everything a relay is told from outside, checked. `Debug` shows no secret.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Where peers connect.
    pub listen_address: ListenAddress,
    /// The path peers ask for; starts with `/`.
    pub relay_path: String,
    /// Whose word about a client's address is believed.
    pub trusted_proxies: TrustedProxies,
    /// Whether connections begin with a PROXY header; not off only where there are trusted proxies.
    pub proxy_protocol: ProxyProtocol,
    /// Where the health pages are served.
    pub health_listen_address: ListenAddress,
    /// The port of `/metrics`, on all addresses; 0 means any free one.
    pub metrics_port: u16,
    /// The public address, as given; the instance URL is made from it.
    pub exposed_address: String,
    /// The secrets tokens are checked with.
    pub auth_secret: SecretSource,
    /// Where the certificate for TLS comes from; None: peers connect without.
    pub tls: Option<TlsSettings>,
    /// Whether peers may connect with QUIC where TLS is on.
    pub quic: bool,
    /// The UDP payload that a QUIC connection starts with, in bytes.
    pub quic_initial_mtu: u16,
    /// The public `host:port` at which the relay looks whether QUIC gets through to it.
    pub probe_quic_via: Option<String>,
    /// The other pods; None: this one is alone.
    pub cluster: Option<ClusterSettings>,
    /// How long a pod of a cluster that is told to stop goes on as before.
    pub drain_delay: Duration,
    /// Over which time it then sends its peers away.
    pub drain_window: Duration,
    /// What may wait for one peer, in bytes.
    pub peer_queue_bytes: usize,
    /// What all queues together may hold, in bytes; None leaves it to the relay.
    pub memory_limit: Option<usize>,
    /// How long a message may wait in a queue.
    pub queue_max_age: Duration,
    /// How many connections may be in their handshake at once.
    pub max_handshakes: usize,
    /// How many connections there may be; None: as the open files allow; 0: no limit.
    pub max_connections: Option<usize>,
    /// How many of them one address may have; 0: no limit.
    pub max_connections_per_address: usize,
    /// How many connections a second one address may make; 0: no limit.
    pub handshake_rate_per_address: u32,
    /// How many peers one peer may be subscribed to.
    pub max_subscriptions: usize,
    /// After how many unanswered health checks a peer is disconnected; at least 1.
    pub health_check_threshold: u32,
    /// The UDP ports of the STUN server, on all addresses; none: there is no STUN server. 0 means any free one.
    pub stun_ports: Vec<u16>,
    /// Where metrics and traces are sent; None: nowhere.
    pub otlp: Option<OtlpSettings>,
    /// The log.
    pub log: LogSettings,
    /// What a relay starts with all the same, and was hardly meant so: for the log.
    pub warnings: Vec<Mistake>,
}
