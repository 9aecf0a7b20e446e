//! Proxies, started with the files of `deploy/proxies/` in which addresses and timeouts are replaced.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Pair, Program, free_address, until};

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
    /// Whether it tells the client's port, too.
    tells_port: bool,
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
        Self {
            name: "traefik",
            program: "traefik",
            file: "traefik-relay.yaml",
            has_timeout: false,
            tells_port: false,
            ..Self::HTTP
        },
        Self {
            name: "traefik-tcp",
            program: "traefik",
            file: "traefik-tcp.yaml",
            relay_args: &["--proxy-protocol=required"],
            relay_has_tls: true,
            has_timeout: false,
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
        tells_port: true,
    };

    /// A client's address as the relay tells it behind this proxy.
    pub(crate) fn told(&self, client: SocketAddr) -> String {
        if self.tells_port {
            client.to_string()
        } else {
            client.ip().to_string()
        }
    }

    /// The file that it is started with.
    fn start_file(&self) -> &'static str {
        match self.program {
            "traefik" => "traefik.yaml",
            _ => self.file,
        }
    }

    pub(crate) fn is_installed(&self) -> bool {
        std::env::split_paths(&path()).any(|dir| dir.join(self.program).is_file())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.env("PATH", path());
        command
    }
}

/// Where proxies are looked for: also where Debian keeps servers, which only root's path has, and where `.ci/run` puts Traefik.
fn path() -> OsString {
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let more = [
        PathBuf::from("/usr/sbin"),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/deploy-venv/bin"),
    ];
    std::env::join_paths(std::env::split_paths(&usual).chain(more)).unwrap()
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
        let pair = Pair::write(dir, [NAME]);
        let read = |file: &Path| std::fs::read_to_string(file).unwrap();
        let both = read(&pair.files.certificate) + &read(&pair.files.key);
        std::fs::write(dir.join("relay.pem"), both).unwrap();
        let mut config = ClientConfig::builder()
            .with_root_certificates(pair.roots())
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
    tls: Tls,
    dir: PathBuf,
    addrs: Addrs,
    patience: &'static str,
    child: Child,
}

/// The addresses in a proxy's files.
#[derive(Clone, Copy, Debug)]
struct Addrs {
    plain: SocketAddr,
    tls: SocketAddr,
    admin: SocketAddr,
    relay: SocketAddr,
    /// Of the relay.
    health: SocketAddr,
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

impl Proxy {
    /// Starts it in front of `relay`, with this for each of its timeouts for silent connections.
    pub(crate) async fn start(
        kind: &'static Kind,
        dir: &Path,
        tls: Tls,
        relay: &Program,
        patience: &'static str,
    ) -> Self {
        let addrs = Addrs {
            plain: free_address(),
            tls: free_address(),
            admin: free_address(),
            relay: relay.addr(),
            health: relay.health(),
        };
        let mut command = kind.command();
        match kind.program {
            "nginx" => command.args(["-g", "daemon off;", "-p"]).arg(dir).arg("-c"),
            "haproxy" => command.args(["-W", "-db", "-f"]),
            "caddy" => command.args(["run", "--adapter=caddyfile", "--config"]),
            _ => command.arg("--configFile"),
        };
        let log = std::fs::File::create(dir.join("proxy.log")).unwrap();
        write(kind, kind.file, dir, &addrs, patience);
        if kind.start_file() != kind.file {
            write(kind, kind.start_file(), dir, &addrs, patience);
        }
        let child = command
            .arg(dir.join(kind.start_file()))
            // Where Caddy keeps what it keeps.
            .env("HOME", dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let proxy = Self {
            kind,
            name: kind.name,
            tls,
            dir: dir.to_owned(),
            addrs,
            patience,
            child,
        };
        proxy.listening().await;
        if kind.program == "traefik" {
            proxy.has_read("relay.example.com").await;
        }
        proxy
    }

    /// Where clients connect, without TLS if the proxy would end it, and how to speak there: TLS passes a TCP proxy through.
    pub(crate) fn plain(&self) -> (SocketAddr, Option<&Tls>) {
        let tls = self.kind.relay_has_tls.then_some(&self.tls);
        (self.addrs.plain, tls)
    }

    /// Where a second client connects: with TLS, if the proxy ends it.
    pub(crate) fn second(&self) -> (SocketAddr, Option<&Tls>) {
        if self.kind.file.contains("-tcp.") {
            self.plain()
        } else {
            (self.addrs.tls, Some(&self.tls))
        }
    }

    /// Waits until somebody listens where clients connect.
    async fn listening(&self) {
        until(&format!("{} listens", self.name), || {
            std::net::TcpStream::connect(self.addrs.plain).is_ok()
        })
        .await;
    }

    /// Waits until Traefik's own account of its configuration has this text.
    async fn has_read(&self, text: &str) {
        let addr = self.addrs.admin;
        until(&format!("{} has read {text}", self.name), || {
            let request = "GET /api/rawdata HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            std::net::TcpStream::connect(addr)
                .and_then(|mut stream| {
                    stream.write_all(request.as_bytes())?;
                    std::io::read_to_string(stream)
                })
                .is_ok_and(|answer| answer.contains(text))
        })
        .await;
    }

    /// Lets it read its file again, in which something is new, so that it is seen when it has: the plain listener's port; for
    /// Traefik, which would have to be started again for that, a rule.
    pub(crate) async fn reload(&mut self) {
        let file = self.dir.join(self.kind.file);
        if self.kind.program == "traefik" {
            let text = std::fs::read_to_string(&file).unwrap();
            let host = if self.kind.relay_has_tls {
                "HostSNI"
            } else {
                "Host"
            };
            let rule = format!("{host}(`{NAME}`)");
            let more = format!("{rule} && !{host}(`reloaded.example.com`)");
            assert!(text.contains(&rule), "{text}");
            std::fs::write(&file, text.replace(&rule, &more)).unwrap();
            return self.has_read("reloaded.example.com").await;
        }
        self.addrs.plain = free_address();
        write(
            self.kind,
            self.kind.file,
            &self.dir,
            &self.addrs,
            self.patience,
        );
        let mut command = self.kind.command();
        match self.kind.program {
            "nginx" => command
                .args(["-s", "reload", "-p"])
                .arg(&self.dir)
                .arg("-c"),
            "haproxy" => {
                signal(&self.child, "USR2");
                return self.listening().await;
            }
            _ => command
                .args(["reload", "--adapter=caddyfile", "--address"])
                .arg(self.addrs.admin.to_string())
                .arg("--config"),
        };
        let output = command.arg(&file).env("HOME", &self.dir).output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", self.name);
        self.listening().await;
    }
}

/// Writes a file of `deploy/proxies/`, with addresses, paths and timeouts of the test's.
fn write(kind: &Kind, file: &str, dir: &Path, addrs: &Addrs, patience: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/proxies");
    let mut text = std::fs::read_to_string(source.join(file)).unwrap();
    let mut replace = |from: &str, to: String| {
        assert!(text.contains(from), "{file} has no {from:?}");
        text = text.replace(from, &to);
    };
    let &Addrs {
        plain,
        tls,
        admin,
        relay,
        health,
    } = addrs;
    let target = dir.join(file);
    let dir = dir.display();
    if file == kind.file {
        if !kind.change.0.is_empty() {
            replace(kind.change.0, kind.change.1.to_owned());
        }
        replace("127.0.0.1:33080", relay.to_string());
    }
    match file {
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
        "traefik.yaml" => {
            let [web, websecure] = if kind.relay_has_tls {
                [tls, plain]
            } else {
                [plain, tls]
            };
            // Also its timeouts for requests, which must not be those for connections.
            let transport = format!(
                "transport: {{respondingTimeouts: {{readTimeout: {patience}, idleTimeout: {patience}}}}}"
            );
            let at = |addr: SocketAddr| format!("address: \"{addr}\"\n    {transport}\n");
            replace("address: \":80\"\n", at(web));
            replace("address: \":443\"\n", at(websecure));
            let api = format!("entryPoints:\n  traefik:\n    address: \"{admin}\"\n");
            replace("entryPoints:\n", format!("api: {{insecure: true}}\n{api}"));
            replace(
                "/etc/traefik/traefik-relay.yaml",
                format!("{dir}/{}", kind.file),
            );
        }
        "traefik-relay.yaml" => {
            replace("port: 9000", format!("port: {}", health.port()));
            replace("/etc/traefik/tls/", format!("{dir}/"));
        }
        "traefik-tcp.yaml" => replace("port: 9000", format!("port: {}", health.port())),
        _ => {
            replace("admin localhost:2019", format!("admin {admin}"));
            replace(":443 {", format!(":{} {{", tls.port()));
            replace(":80 {", format!(":{} {{", plain.port()));
            replace("/etc/caddy/tls/", format!("{dir}/"));
        }
    }
    std::fs::write(target, text).unwrap();
}
