//! The program as a pod of a cluster on loopback.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::support::{Metrics, Program, RawClient, real_pause, request};

const SECRET: &str = "process-secret";

/// A pod; killed when the test ends, however it ends.
pub(crate) struct Pod {
    pub(crate) program: Program,
}

/// A directory for what the pod of this port reads and writes.
pub(crate) fn directory(test: &str, port: u16) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cluster-{test}-{port}"));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// The file with the cluster secrets of the pod of this port.
pub(crate) fn secret_file(test: &str, port: u16) -> PathBuf {
    directory(test, port).join("secret")
}

impl Pod {
    /// One of several on these ports, with these secrets and further arguments.
    pub(crate) async fn start(
        test: &str,
        port: u16,
        ports: &[u16],
        secrets: &str,
        args: &[&str],
    ) -> Self {
        let file = secret_file(test, port);
        std::fs::write(&file, secrets).unwrap();
        let list: Vec<String> = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let usual = [
            ["-e", "rel://relay.example.com:80"],
            ["-s", SECRET],
            ["--cluster-peers", &list.join(",")],
            ["--cluster-auth-secret-file", file.to_str().unwrap()],
            ["--drain-delay=0s", "--drain-window=0s"],
        ];
        let args = [usual.as_flattened(), args].concat();
        // As an openZro release has it.
        let port = port.to_string();
        let env = [("OZ_CLUSTER_PORT", &*port), ("POD_IP", "127.0.0.1")];
        let dir = file.parent().unwrap();
        Self {
            program: Program::start_with(dir, &args, &env).await,
        }
    }

    pub(crate) async fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        Metrics::scrape(self.program.metrics())
            .await
            .sum(name, labels)
    }

    /// Waits until this metric satisfies `wanted`.
    pub(crate) async fn until(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        wanted: impl Fn(u64) -> bool,
    ) {
        for _ in 0..30_000 {
            if wanted(self.sum(name, labels).await) {
                return;
            }
            real_pause().await;
        }
        panic!("{name}{labels:?} is never as it should be");
    }

    /// Waits until it has a stream to so many pods.
    pub(crate) async fn linked(&self, pods: u64) {
        self.until("relay_cluster_streams", &[], |streams| streams == pods)
            .await;
    }

    pub(crate) async fn peer(&self, name: &str) -> RawClient {
        Program::peer(RawClient::tcp(self.program.addr()).await, name, SECRET).await
    }
}

/// The status of an answer over HTTP.
pub(crate) async fn status(addr: SocketAddr, path: &str) -> u16 {
    let question = format!("GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n");
    request(addr, question).await.expect("an answer").status
}

/// The next message of a peer but for health checks.
pub(crate) async fn next(client: &mut RawClient) -> Vec<u8> {
    loop {
        let message = client.message().await;
        if message[1] != 5 {
            return message;
        }
    }
}
