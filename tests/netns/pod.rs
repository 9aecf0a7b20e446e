//! The program as a pod on a machine of its own.

use std::process::{Child, ChildStdin, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::eventually;
use crate::network::Network;
use crate::support::Metrics;

pub(crate) const SECRET: &str = "netns-secret";
const PEERS: u16 = 8080;
const HEALTH: u16 = 9000;
const METRICS: u16 = 9090;
const CLUSTER: u16 = 7090;

/// Where clients reach the pod.
pub(crate) fn address(pod: usize) -> String {
    Network::for_clients(pod, PEERS).to_string()
}

/// A process; killed when this is dropped.
pub(crate) struct Pod {
    number: usize,
    child: Child,
    /// It becomes the program when this is closed.
    gate: Option<ChildStdin>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Pod {
    /// A pod that knows these others, all but started: [`start`](Self::start) takes no time.
    pub(crate) fn prepare(
        network: &Network,
        number: usize,
        others: &[usize],
        args: &[&str],
    ) -> Self {
        let others: Vec<String> = others
            .iter()
            .map(|&pod| format!("{}:{CLUSTER}", Network::for_pods(pod)))
            .collect();
        let mut child = network
            .machine(number)
            .command("/bin/sh")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args(["-c", "read _; exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_trunkline"))
            .args(["-l", &format!(":{PEERS}"), "-H", &format!(":{HEALTH}")])
            .args(["--metrics-port", &METRICS.to_string()])
            .args(["-e", "rel://relay.example.com:80", "-s", SECRET])
            .args(["--pod-ip", &Network::for_pods(number).to_string()])
            .args(["--cluster-port", &CLUSTER.to_string()])
            .args(["--cluster-peers", &others.join(",")])
            .args(["--cluster-auth-secret", SECRET])
            // A machine with other work drops nothing for its age.
            .args(["--queue-max-age", "1m"])
            .args(["--log-level", "warn"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        Self {
            number,
            gate: child.stdin.take(),
            child,
        }
    }

    pub(crate) fn start(&mut self) {
        self.gate = None;
    }

    /// As many pods as the network has machines, when each has a stream to all others.
    pub(crate) async fn start_all(network: &Network, count: usize, args: &[&str]) -> Vec<Self> {
        let all: Vec<usize> = (0..count).collect();
        let mut pods: Vec<Self> = all
            .iter()
            .map(|&pod| Self::prepare(network, pod, &all, args))
            .collect();
        pods.iter_mut().for_each(Self::start);
        for pod in &mut pods {
            pod.linked(count as u64 - 1).await;
        }
        pods
    }

    /// Waits until it takes peers and has streams to so many others.
    pub(crate) async fn linked(&mut self, pods: u64) {
        let number = self.number;
        eventually(&format!("pod {number} has {pods} streams"), async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("pod {number} has ended: {status}");
            }
            is_ready(number).await && self.streams().await == pods
        })
        .await;
    }

    /// How many pods it has a stream to.
    pub(crate) async fn streams(&self) -> u64 {
        let metrics = Metrics::scrape(Network::for_clients(self.number, METRICS)).await;
        metrics.sum("relay_cluster_streams", &[])
    }

    /// The connections to and from other pods that its kernel has, by their two ends.
    pub(crate) fn connections(&self) -> Vec<[String; 2]> {
        const ESTABLISHED: &str = "01";
        let port = format!(":{CLUSTER:04X}");
        let mut found = Vec::new();
        for table in ["tcp", "tcp6"] {
            let file = format!("/proc/{}/net/{table}", self.child.id());
            let text = std::fs::read_to_string(file).unwrap_or_default();
            for line in text.lines().skip(1) {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let [_, local, remote, state, ..] = fields[..] else {
                    continue;
                };
                let between_pods = local.ends_with(&port) || remote.ends_with(&port);
                if state == ESTABLISHED && between_pods {
                    found.push([local, remote].map(str::to_owned));
                }
            }
        }
        found
    }

    /// What `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// What a rolling restart does: waits until it has let its peers go and ended.
    pub(crate) async fn stop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut status = None;
        eventually("a pod that was told to stop has ended", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert!(status.unwrap().success(), "{status:?}");
    }
}

/// Whether a load balancer would send peers to this pod.
pub(crate) async fn is_ready(pod: usize) -> bool {
    let asking = async {
        let mut stream = TcpStream::connect(Network::for_clients(pod, HEALTH)).await?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    asking
        .await
        .is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}
