//! Proxies, started with the files of `deploy/proxies/` in which addresses and timeouts are replaced.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::until;

/// What the certificate is for.
pub(crate) const NAME: &str = "relay.example.com";

/// A way to stand in front of the relay.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    file: &'static str,
    /// What is changed in the file besides.
    change: (&'static str, &'static str),
    pub(crate) relay_args: &'static [&'static str],
    pub(crate) relay_has_tls: bool,
    /// Whether it gives up silent connections at all.
    pub(crate) has_timeout: bool,
    /// Whether a reload leaves connected peers alone.
    pub(crate) keeps_connections: bool,
}

impl Kind {
    /// Everything that there is a file for.
    pub(crate) const ALL: &'static [Self] = &[
        Self {
            name: "nginx",
            program: "nginx",
            file: "nginx.conf",
            ..Self::HTTP
        },
        Self {
            name: "haproxy",
            program: "haproxy",
            file: "haproxy.cfg",
            ..Self::HTTP
        },
        // HTTP/2 between proxy and relay, as the file says.
        Self {
            name: "haproxy-h2",
            program: "haproxy",
            file: "haproxy.cfg",
            change: (
                "server pod-1 127.0.0.1:33080",
                "server pod-1 127.0.0.1:33080 proto h2 ws h2",
            ),
            ..Self::HTTP
        },
        Self {
            name: "haproxy-v1",
            program: "haproxy",
            file: "haproxy-tcp.cfg",
            change: ("send-proxy-v2", "send-proxy"),
            relay_args: &["--proxy-protocol=required"],
            ..Self::HTTP
        },
        Self {
            name: "haproxy-v2",
            program: "haproxy",
            file: "haproxy-tcp.cfg",
            relay_args: &["--proxy-protocol=required"],
            relay_has_tls: true,
            ..Self::HTTP
        },
        Self {
            name: "caddy",
            program: "caddy",
            file: "Caddyfile",
            has_timeout: false,
            keeps_connections: false,
            ..Self::HTTP
        },
    ];

    const HTTP: Self = Self {
        name: "",
        program: "",
        file: "",
        change: ("", ""),
        relay_args: &[],
        relay_has_tls: false,
        has_timeout: true,
        keeps_connections: true,
    };

    pub(crate) fn is_installed(&self) -> bool {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        // Debian keeps servers where only root looks.
        let mut dirs: Vec<PathBuf> = std::env::split_paths(&paths).collect();
        dirs.push("/usr/sbin".into());
        dirs.iter().any(|dir| dir.join(self.program).is_file())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        let paths = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{paths}:/usr/sbin"));
        command
    }
}

/// A certificate of our own, and a client that trusts it.
#[derive(Debug)]
pub(crate) struct Tls {
    dir: PathBuf,
    connector: Arc<ClientConfig>,
}

impl Tls {
    /// Makes the files `tls.crt` and `tls.key`, and `relay.pem` with both.
    pub(crate) fn new(dir: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        std::fs::write(dir.join("tls.crt"), &certificate).unwrap();
        std::fs::write(dir.join("tls.key"), &key).unwrap();
        std::fs::write(dir.join("relay.pem"), certificate + &key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::clone(made.cert.der())).unwrap();
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        // What the stock clients' library offers.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            dir: dir.to_owned(),
            connector: Arc::new(config),
        }
    }

    /// Certificate and key.
    pub(crate) fn files(&self) -> [String; 2] {
        ["tls.crt", "tls.key"].map(|file| self.dir.join(file).display().to_string())
    }

    pub(crate) async fn handshake(&self, stream: TcpStream) -> TlsStream<TcpStream> {
        TlsConnector::from(Arc::clone(&self.connector))
            .connect(ServerName::try_from(NAME).unwrap(), stream)
            .await
            .unwrap()
    }
}

/// A running proxy; ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) kind: &'static Kind,
    pub(crate) name: &'static str,
    /// Where clients connect, without TLS where the proxy has it.
    pub(crate) plain: SocketAddr,
    tls_addr: SocketAddr,
    tls: Tls,
    dir: PathBuf,
    admin: SocketAddr,
    relay: SocketAddr,
    patience: &'static str,
    child: Child,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Killed at once, a master would leave its workers behind.
        signal(&self.child, "TERM");
        let _reaped = self.child.wait();
    }
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let status = Command::new("kill").args(["-s", name, &id]).status();
    assert!(status.expect("kill runs").success());
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Waits until somebody listens there.
async fn listening(name: &str, addr: SocketAddr) {
    until(&format!("{name} listens on {addr}"), || {
        std::net::TcpStream::connect(addr).is_ok()
    })
    .await;
}

impl Proxy {
    /// Starts it in front of `relay`, with this for each of its timeouts for silent connections.
    pub(crate) async fn start(
        kind: &'static Kind,
        dir: &Path,
        tls: Tls,
        relay: SocketAddr,
        patience: &'static str,
    ) -> Self {
        let config = dir.join(kind.file);
        let [plain, tls_addr, admin] = [free(), free(), free()];
        let text = configured(kind, dir, [plain, tls_addr, admin, relay], patience);
        std::fs::write(&config, text).unwrap();
        let mut command = kind.command();
        match kind.program {
            "nginx" => command.args(["-g", "daemon off;", "-p"]).arg(dir).arg("-c"),
            "haproxy" => command.args(["-W", "-db", "-f"]),
            _ => command.args(["run", "--adapter=caddyfile", "--config"]),
        };
        let log = std::fs::File::create(dir.join("proxy.log")).unwrap();
        let child = command
            .arg(&config)
            // Where Caddy keeps what it keeps.
            .env("HOME", dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        listening(kind.name, plain).await;
        Self {
            kind,
            name: kind.name,
            plain,
            tls_addr,
            tls,
            dir: dir.to_owned(),
            admin,
            relay,
            patience,
            child,
        }
    }

    /// Lets it read its file again, in which the plain listener now has another port: so it is seen when it has.
    pub(crate) async fn reload(&mut self) {
        let config = self.dir.join(self.kind.file);
        self.plain = free();
        let addrs = [self.plain, self.tls_addr, self.admin, self.relay];
        let text = configured(self.kind, &self.dir, addrs, self.patience);
        std::fs::write(&config, text).unwrap();
        let mut command = self.kind.command();
        match self.kind.program {
            "nginx" => command
                .args(["-s", "reload", "-p"])
                .arg(&self.dir)
                .arg("-c"),
            "haproxy" => {
                signal(&self.child, "USR2");
                listening(self.name, self.plain).await;
                return;
            }
            _ => command
                .args(["reload", "--adapter=caddyfile", "--address"])
                .arg(self.admin.to_string())
                .arg("--config"),
        };
        let output = command
            .arg(&config)
            .env("HOME", &self.dir)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}: {output:?}", self.name);
        listening(self.name, self.plain).await;
    }

    /// How to speak on the plain listener: TLS passes a TCP proxy through.
    pub(crate) fn plain_tls(&self) -> Option<&Tls> {
        self.kind.relay_has_tls.then_some(&self.tls)
    }

    /// Where a second client connects: with TLS, if the proxy ends it.
    pub(crate) fn second(&self) -> SocketAddr {
        if self.ends_tls() {
            self.tls_addr
        } else {
            self.plain
        }
    }

    pub(crate) fn second_tls(&self) -> Option<&Tls> {
        if self.ends_tls() {
            Some(&self.tls)
        } else {
            self.plain_tls()
        }
    }

    fn ends_tls(&self) -> bool {
        self.kind.file != "haproxy-tcp.cfg"
    }
}

/// The file of `deploy/proxies/`, with addresses, paths and timeouts of the test's.
fn configured(
    kind: &Kind,
    dir: &Path,
    [plain, tls, admin, relay]: [SocketAddr; 4],
    patience: &str,
) -> String {
    let file = Path::new("deploy/proxies").join(kind.file);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let mut text = std::fs::read_to_string(file).unwrap();
    let mut replace = |from: &str, to: String| {
        assert!(text.contains(from), "{} has no {from:?}", kind.file);
        text = text.replace(from, &to);
    };
    let dir = dir.display();
    if !kind.change.0.is_empty() {
        replace(kind.change.0, kind.change.1.to_owned());
    }
    replace("127.0.0.1:33080", relay.to_string());
    match kind.file {
        "nginx.conf" => {
            replace("listen 80;", format!("listen {plain};"));
            replace("listen 443 ssl;", format!("listen {tls} ssl;"));
            replace("/etc/nginx/tls/", format!("{dir}/"));
            replace("/var/log/nginx/", format!("{dir}/"));
            replace("/run/nginx.pid", format!("{dir}/nginx.pid"));
            replace("_timeout 60s;", format!("_timeout {patience};"));
            // Small enough for a test's limits, and where a user who is not root may write.
            replace("worker_rlimit_nofile 65536;\n", String::new());
            replace(
                "worker_connections 32768;",
                "worker_connections 256;".into(),
            );
            let temporary = ["client_body", "proxy", "fastcgi", "scgi", "uwsgi"]
                .map(|what| format!("    {what}_temp_path {dir}/{what};\n"));
            replace("http {\n", format!("http {{\n{}", temporary.concat()));
        }
        "haproxy.cfg" => {
            replace("bind :80\n", format!("bind {plain}\n"));
            replace("bind :443 ssl", format!("bind {tls} ssl"));
            replace("/etc/haproxy/", format!("{dir}/"));
            replace("tunnel 60s", format!("tunnel {patience}"));
            replace("maxconn 20000", "maxconn 100".into());
        }
        "haproxy-tcp.cfg" => {
            replace("bind :443\n", format!("bind {plain}\n"));
            replace("client 60s", format!("client {patience}"));
            replace("server 60s", format!("server {patience}"));
            replace("maxconn 20000", "maxconn 100".into());
        }
        _ => {
            replace("admin localhost:2019", format!("admin {admin}"));
            replace(":443 {", format!(":{} {{", tls.port()));
            replace(":80 {", format!(":{} {{", plain.port()));
            replace("/etc/caddy/tls/", format!("{dir}/"));
        }
    }
    text
}
