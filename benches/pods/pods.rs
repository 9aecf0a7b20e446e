//! Three pods of one relay, as processes on free loopback ports.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use trunkline::auth::Secret;
use trunkline::load::Target;

use crate::Failure;

pub(crate) const SECRET: &str = "several-pods";
const PODS: usize = 3;
/// Pods that have not found each other after so many tries never will.
const TRIES: u32 = 1_500;
const PAUSE: Duration = Duration::from_millis(20);

/// One of them; ended when dropped.
struct Pod {
    child: Child,
    peers: SocketAddr,
    metrics: SocketAddr,
}

impl Drop for Pod {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Pods(Vec<Pod>);

impl Pods {
    /// Starts them and waits until each has a stream to all others.
    pub(crate) fn start(binary: &Path) -> Result<Self, Failure> {
        let ports = free_ports(4 * PODS)?;
        let list: Vec<String> = ports
            .chunks(4)
            .map(|ports| format!("127.0.0.1:{}", ports[3]))
            .collect();
        let mut pods = Vec::new();
        for ports in ports.chunks(4) {
            let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let (peers, metrics) = (local(ports[0]), local(ports[1]));
            let child = Command::new(binary)
                .args(["--listen-address", &peers.to_string()])
                .args(["--exposed-address", &format!("rel://{peers}")])
                .args(["--metrics-port", &ports[1].to_string()])
                .args(["--health-listen-address", &local(ports[2]).to_string()])
                .args(["--cluster-port", &ports[3].to_string()])
                .args(["--pod-ip", "127.0.0.1"])
                .args(["--cluster-peers", &list.join(",")])
                .args(["--log-level", "error"])
                // The whole load comes from one address.
                .args(["--max-connections-per-address", "0"])
                .args(["--handshake-rate-per-address", "0"])
                .env("TRUNKLINE_AUTH_SECRET", SECRET)
                .env("TRUNKLINE_CLUSTER_AUTH_SECRET", SECRET)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()?;
            pods.push(Pod {
                child,
                peers,
                metrics,
            });
        }
        let others = format!("{}", PODS - 1);
        for pod in &mut pods {
            wait_for(pod, &others)?;
        }
        Ok(Self(pods))
    }

    /// Where peers connect to one of them.
    pub(crate) fn address(&self, pod: usize) -> SocketAddr {
        self.0[pod].peers
    }

    /// The same for a load.
    pub(crate) fn target(&self, pod: usize) -> Target {
        let address = self.address(pod);
        Target::Relay {
            address,
            host: address.to_string(),
            route: "/relay".to_owned(),
            secret: Secret::new(SECRET),
        }
    }

    /// Their processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.0.iter().map(|pod| pod.child.id()).collect()
    }
}

fn wait_for(pod: &mut Pod, streams: &str) -> Result<(), Failure> {
    for _ in 0..TRIES {
        if let Some(status) = pod.child.try_wait()? {
            return Err(format!("a pod does not start ({status})").into());
        }
        let metrics = scrape(pod.metrics).unwrap_or_default();
        let value = metrics
            .lines()
            .find(|line| line.starts_with("relay_cluster_streams"))
            .and_then(|line| line.rsplit_once(' '));
        if value.is_some_and(|(_, value)| value == streams) {
            return Ok(());
        }
        sleep(PAUSE);
    }
    Err("the pods do not find each other".into())
}

fn scrape(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Loopback ports that were free a moment ago.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    // All are held until the last is known: they must differ. Pods and metrics listen on all addresses.
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))
        .collect::<Result<_, _>>()?;
    let ports = held
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()));
    ports.collect()
}
