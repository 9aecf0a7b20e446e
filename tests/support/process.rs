//! The program itself, as an operator starts it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use trunkline::auth::{Secret, mint};
use trunkline::proto::peer::encode_auth;

use super::client::RawClient;
use super::clock::until;
use super::http::UPGRADE_REQUEST;
use super::relay::peer;

/// The program on free ports of the loopback, with a log of its own; killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
    /// What the log says when it is up.
    pub(crate) up: serde_json::Value,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Program {
    /// Starts it with these arguments besides; `dir` is where the log goes. Waits until it is up.
    pub(crate) async fn start(dir: &Path, args: &[&str]) -> Self {
        Self::start_with(dir, args, &[]).await
    }

    /// The same, with these variables.
    pub(crate) async fn start_with(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let log = dir.join("relay.log");
        let _absent = std::fs::remove_file(&log);
        let child = Command::new(env!("CARGO_BIN_EXE_trunkline"))
            .env_clear()
            .args(["-l", "127.0.0.1:0", "-H", "127.0.0.1:0", "--metrics-port=0"])
            .args(["--log-format=json", "--log-file"])
            .arg(&log)
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let mut program = Self {
            child,
            log,
            up: serde_json::Value::Null,
        };
        let mut up = serde_json::Value::Null;
        until("the log says that the relay is up", || {
            up = program.line("relay is up").unwrap_or_default();
            !up.is_null()
        })
        .await;
        program.up = up;
        program
    }

    /// Where peers connect.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.up["listen"].as_str().unwrap().parse().unwrap()
    }

    /// Where health is asked for.
    pub(crate) fn health(&self) -> SocketAddr {
        self.up["health"].as_str().unwrap().parse().unwrap()
    }

    /// Where metrics are read.
    pub(crate) fn metrics(&self) -> SocketAddr {
        self.up["metrics"].as_str().unwrap().parse().unwrap()
    }

    /// A peer over this connection, if the program's secret is `secret`.
    pub(crate) async fn peer(mut client: RawClient, name: &str, secret: &str) -> RawClient {
        client.write(UPGRADE_REQUEST.as_bytes()).await;
        client.expect_upgrade().await;
        let token = mint(&Secret::new(secret), 4_000_000_000);
        client
            .send(&encode_auth(&peer(name), &token).unwrap())
            .await;
        client.expect_auth_response().await;
        client
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// How many lines of the log hold this text.
    pub(crate) fn lines(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Tells it to stop, waits until it has, and returns its exit code.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Waits until it has ended, and returns its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        until("the program has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap().code()
    }

    /// The first line of the log that holds this text.
    pub(crate) fn line(&self, text: &str) -> Option<serde_json::Value> {
        self.line_with(&[text])
    }

    /// The first line of the log that holds all of these texts.
    pub(crate) fn line_with(&self, texts: &[&str]) -> Option<serde_json::Value> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let line = log
            .lines()
            .find(|line| texts.iter().all(|text| line.contains(text)))?;
        serde_json::from_str(line).ok()
    }
}
