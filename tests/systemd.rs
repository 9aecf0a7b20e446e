//! Socket activation and notification with real sockets: the test plays the service manager, and the real binary is the service.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use support::{RawClient, UPGRADE_REQUEST, close, free_address, peer, until};
use tokio::net::UnixDatagram;
use tokio::time::timeout;
use trunkline::auth::{Secret, mint};
use trunkline::proto::peer::encode_auth;

/// Passes its standard input and output on as the first two sockets, as sd_listen_fds(3) wants it.
const PASS: &str = "exec 3<&0 4>&1 </dev/null >/dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\"";

/// The service as the manager starts it, with these sockets of the manager.
fn service(sockets: Vec<OwnedFd>, listen: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .env_clear()
        .env("LISTEN_FDS", sockets.len().to_string())
        .arg("-c")
        .arg(PASS)
        .arg(env!("CARGO_BIN_EXE_trunkline"))
        .args(["-H", "127.0.0.1:0", "--metrics-port=0", "-l", listen])
        .args(["-e", "rel://relay.example.com:80", "-s", "systemd-secret"])
        .stderr(Stdio::piped());
    let mut sockets = sockets.into_iter().map(Stdio::from);
    command.stdin(sockets.next().unwrap_or_else(Stdio::null));
    command.stdout(sockets.next().unwrap_or_else(Stdio::null));
    command
}

/// A started service; killed when the test ends, however it ends.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Service {
    fn start(mut command: Command) -> Self {
        Self(command.stderr(Stdio::null()).spawn().expect("a shell"))
    }

    async fn stop(self) {
        self.terminate();
        self.ended().await;
    }

    async fn ended(mut self) {
        until("the service ends", || self.0.try_wait().unwrap().is_some()).await;
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }

    fn terminate(&self) {
        let id = self.0.id().to_string();
        let status = Command::new("kill").args(["-s", "TERM", &id]).status();
        assert!(status.expect("kill runs").success());
    }
}

/// The manager's end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn listen(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{test}-{}.notify", std::process::id()));
        let _absent = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path }
    }

    async fn next(&self) -> String {
        let mut message = [0; 4096];
        let received = timeout(support::PATIENCE, self.socket.recv(&mut message)).await;
        let length = received.expect("the service says something").unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// Waits, without reading, until no more goes in.
    async fn full(&self) {
        let other = std::os::unix::net::UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        other.connect(&self.path).unwrap();
        until("the queue is full", || other.send(b"x").is_err()).await;
    }

    /// All that is said up to a message that has this line.
    async fn until(&self, line: &str) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            said.push(self.next().await);
            if said.last().unwrap().lines().any(|said| said == line) {
                return said;
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _left = std::fs::remove_file(&self.path);
    }
}

async fn authenticate(client: &mut RawClient, name: &str) {
    client.expect_upgrade().await;
    let token = mint(&Secret::new("systemd-secret"), 4_000_000_000);
    let message = encode_auth(&peer(name), &token).unwrap();
    client.send(&message).await;
    client.expect_auth_response().await;
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

fn failed(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().expect("a shell");
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    stderr
}

#[tokio::test]
async fn a_restart_refuses_no_connection() {
    let (listener, addr) = listener();
    let manager = Manager::listen("restart");
    let start = || {
        let socket = listener.try_clone().unwrap().into();
        let mut command = service(vec![socket], &addr.to_string());
        command.env("NOTIFY_SOCKET", &manager.path);
        Service::start(command)
    };
    let first = start();
    manager.until("READY=1").await;
    let mut before = RawClient::tcp(addr).await;
    before.write(UPGRADE_REQUEST.as_bytes()).await;
    authenticate(&mut before, "before").await;

    first.terminate();
    manager.until("STOPPING=1").await;
    assert_eq!(before.message().await, close());
    before.ends_silently().await;
    first.ended().await;
    let mut between = RawClient::tcp(addr).await;
    between.write(UPGRADE_REQUEST.as_bytes()).await;

    let second = start();
    authenticate(&mut between, "between").await;
    let mut after = RawClient::tcp(addr).await;
    after.write(UPGRADE_REQUEST.as_bytes()).await;
    authenticate(&mut after, "after").await;
    second.stop().await;
}

#[tokio::test]
async fn udp_sockets_are_passed_too() {
    let (listener, addr) = listener();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let manager = Manager::listen("udp");
    let sockets = vec![listener.into(), socket.try_clone().unwrap().into()];
    let mut command = service(sockets, &addr.to_string());
    command.env("NOTIFY_SOCKET", &manager.path).args([
        "--enable-stun",
        "--stun-ports",
        &port.to_string(),
    ]);
    // What comes while nobody serves waits, too.
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let question = b"\x00\x01\x00\x00\x21\x12\xa4\x42trunkline-id";
    client.send_to(question, ("127.0.0.1", port)).await.unwrap();
    let service = Service::start(command);
    let mut answer = [0; 512];
    let received = timeout(support::PATIENCE, client.recv(&mut answer)).await;
    let length = received.expect("an answer").unwrap();
    assert_eq!(answer[..2], [1, 1], "a binding response");
    assert_eq!(answer[8..20], question[8..]);
    assert!(length > 20);
    service.stop().await;
}

#[tokio::test]
async fn the_manager_hears_when_it_is_ready_that_it_lives_and_when_it_stops() {
    let (listener, addr) = listener();
    let manager = Manager::listen("notify");
    let mut command = service(vec![listener.into()], &addr.to_string());
    command
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "100000");
    let service = Service::start(command);
    assert_eq!(manager.next().await, "READY=1\nSTATUS=0 peers\n");
    let mut client = RawClient::tcp(addr).await;
    client.write(UPGRADE_REQUEST.as_bytes()).await;
    authenticate(&mut client, "x").await;
    for _ in 0..3 {
        manager.until("WATCHDOG=1").await;
    }
    manager.until("STATUS=1 peers").await;
    service.terminate();
    manager.until("STOPPING=1").await;
    service.ended().await;
}

/// A queue of such a socket holds a few messages, then whoever sends waits.
#[tokio::test]
async fn a_manager_that_does_not_read_holds_nothing_up() {
    let (listener, addr) = listener();
    let manager = Manager::listen("deaf");
    let mut command = service(vec![listener.into()], &addr.to_string());
    command
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "2");
    let service = Service::start(command);
    manager.until("READY=1").await;
    manager.full().await;
    for name in ["a", "b", "c", "d"] {
        let mut client = RawClient::tcp(addr).await;
        client.write(UPGRADE_REQUEST.as_bytes()).await;
        authenticate(&mut client, name).await;
    }
    service.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_manager_may_have_a_name_without_a_file() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::SocketAddr;
    let name = format!("trunkline-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let manager = Manager {
        socket: UnixDatagram::from_std(socket).unwrap(),
        path: PathBuf::from(format!("@{name}")),
    };
    let (listener, addr) = listener();
    let mut command = service(vec![listener.into()], &addr.to_string());
    command.env("NOTIFY_SOCKET", &manager.path);
    let service = Service::start(command);
    manager.until("READY=1").await;
    service.stop().await;
}

#[tokio::test]
async fn a_manager_that_wants_no_watchdog_hears_of_none() {
    let (listener, addr) = listener();
    let manager = Manager::listen("no-watchdog");
    let mut command = service(vec![listener.into()], &addr.to_string());
    command
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "1000")
        // Meant for another process.
        .env("WATCHDOG_PID", "1");
    let service = Service::start(command);
    manager.until("READY=1").await;
    service.terminate();
    assert_eq!(manager.until("STOPPING=1").await, ["STOPPING=1\n"]);
    service.ended().await;
}

#[test]
fn a_socket_that_no_setting_names_is_an_error() {
    let (passed, addr) = listener();
    let elsewhere = free_address();
    let same = passed.try_clone().unwrap();
    let said = failed(&mut service(vec![same.into()], &elsewhere.to_string()));
    let port = addr.port();
    let told = format!("what the service manager passed on [127.0.0.1:{port}]");
    assert!(said.contains(&told), "{said}");
    assert!(said.contains("must name the same address"), "{said}");

    // Bound for all addresses here, for one there: the address is in use, but that is not what is wrong.
    let said = failed(&mut service(vec![passed.into()], &format!(":{port}")));
    assert!(said.contains("must name the same address"), "{said}");
}

#[test]
fn what_is_no_listening_socket_is_an_error() {
    let (listener, addr) = listener();
    let connection = std::net::TcpStream::connect(addr).unwrap();
    let said = failed(&mut service(vec![connection.into()], &addr.to_string()));
    assert!(
        said.contains("socket 1 of the service manager is a single connection: Accept=no"),
        "{said}"
    );

    let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let said = failed(&mut service(
        vec![listener.into(), unix.into()],
        &addr.to_string(),
    ));
    assert!(
        said.contains("socket 2 of the service manager is neither a TCP nor a UDP socket"),
        "{said}"
    );
}
