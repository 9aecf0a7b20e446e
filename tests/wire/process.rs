//! The real binary and its signals (operations.md, *Signals*).

use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};

use trunkline::auth::{Secret, mint};
use trunkline::proto::peer::encode_auth;

use crate::support::{RawClient, UPGRADE_REQUEST, binary, close, peer, request, transport, until};

/// The binary on free ports; killed when the test ends, however it ends.
struct Process {
    child: Child,
    addr: SocketAddr,
    health: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Process {
    async fn start(test: &str) -> Self {
        let log = format!("{}/{test}.log", env!("CARGO_TARGET_TMPDIR"));
        let _absent = std::fs::remove_file(&log);
        let child = Command::new(env!("CARGO_BIN_EXE_trunkline"))
            .env_clear()
            .env("OZ_LOG_FORMAT", "json")
            .args(["-l", "127.0.0.1:0", "-H", "127.0.0.1:0", "--metrics-port=0"])
            .args(["-e", "rel://relay.example.com:80", "-s", "process-secret"])
            .args(["--log-file", &log])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut line = serde_json::Value::Null;
        until("the log says where it listens", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let up = text.lines().find(|line| line.contains("relay is up"));
            line = up
                .and_then(|line| serde_json::from_str(line).ok())
                .unwrap_or_default();
            !line.is_null()
        })
        .await;
        let addr = |name: &str| line[name].as_str().unwrap().parse().unwrap();
        Self {
            child,
            addr: addr("listen"),
            health: addr("health"),
        }
    }

    async fn peer(&self, name: &str, mut client: RawClient) -> RawClient {
        client.write(UPGRADE_REQUEST.as_bytes()).await;
        client.expect_upgrade().await;
        let token = mint(&Secret::new("process-secret"), 4_000_000_000);
        client
            .send(&encode_auth(&peer(name), &token).unwrap())
            .await;
        client.expect_auth_response().await;
        client
    }

    async fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(status.expect("kill runs").success());
    }

    async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

#[tokio::test]
async fn the_first_signal_ends_it_well() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::start(&format!("first-{signal}")).await;
        let mut client = process.peer("x", RawClient::tcp(process.addr).await).await;
        let silent = RawClient::tcp(process.addr).await;
        process.signal(signal).await;
        assert_eq!(client.message().await, close());
        client.ends_silently().await;
        silent.ends_silently().await;
        assert_eq!(process.ended().await.code(), Some(0), "{signal}");
    }
}

/// A peer that reads nothing keeps the first signal's end waiting for seconds; a process that waited for them would then end
/// with 0.
#[tokio::test]
async fn the_second_signal_ends_it_at_once() {
    let mut process = Process::start("second").await;
    let mut sender = process
        .peer("sender", RawClient::tcp(process.addr).await)
        .await;
    let stalled = process
        .peer("stalled", RawClient::narrow(process.addr).await)
        .await;
    let message = binary(&transport(&peer("stalled"), &[0; 8000]));
    for _ in 0..20 {
        sender.write(&message.repeat(50)).await;
        sender.sync(&peer("sender")).await;
    }
    process.signal("TERM").await;
    assert_eq!(sender.message().await, close());
    sender.ends_silently().await;
    let get = "GET /readyz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
    let status = request(process.health, get)
        .await
        .map(|answer| answer.status);
    assert_eq!(status, Some(503));
    process.signal("TERM").await;
    assert_eq!(process.ended().await.code(), Some(1));
    drop(stalled);
}

/// SIGHUP ends a process that does not catch it.
#[tokio::test]
async fn a_hangup_reads_files_again_and_ends_nothing() {
    let mut process = Process::start("hangup").await;
    let mut client = process.peer("x", RawClient::tcp(process.addr).await).await;
    process.signal("HUP").await;
    let log = format!("{}/hangup.log", env!("CARGO_TARGET_TMPDIR"));
    until("the log says that files are read again", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("SIGHUP"))
    })
    .await;
    client.sync(&peer("x")).await;
    process.signal("TERM").await;
    assert_eq!(client.message().await, close());
    drop(client);
    assert_eq!(process.ended().await.code(), Some(0));
}
