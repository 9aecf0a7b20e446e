//! The real binary and its signals (operations.md, *Signals*).

use std::path::PathBuf;

use rustix::process::Signal;

use crate::support::{Program, RawClient, binary, close, peer, request, transport, until};

const SECRET: &str = "process-secret";

async fn start(test: &str) -> Program {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("process-{test}"));
    std::fs::create_dir_all(&dir).unwrap();
    let args = ["-e", "rel://relay.example.com:80", "-s", SECRET];
    Program::start(&dir, &args).await
}

#[tokio::test]
async fn the_first_signal_ends_it_well() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut process = start(&format!("first-{}", signal.as_raw())).await;
        let client = RawClient::tcp(process.addr()).await;
        let mut client = Program::peer(client, "x", SECRET).await;
        let silent = RawClient::tcp(process.addr()).await;
        process.signal(signal);
        assert_eq!(client.message().await, close());
        client.ends_silently().await;
        silent.ends_silently().await;
        assert_eq!(process.ended().await, Some(0), "{signal:?}");
    }
}

/// A peer that reads nothing keeps the first signal's end waiting for seconds; a process that waited for them would then end
/// with 0.
#[tokio::test]
async fn the_second_signal_ends_it_at_once() {
    let mut process = start("second").await;
    let sender = RawClient::tcp(process.addr()).await;
    let mut sender = Program::peer(sender, "sender", SECRET).await;
    let stalled = RawClient::narrow(process.addr()).await;
    let stalled = Program::peer(stalled, "stalled", SECRET).await;
    let message = binary(&transport(&peer("stalled"), &[0; 8000]));
    for _ in 0..20 {
        sender.write(&message.repeat(50)).await;
        sender.sync(&peer("sender")).await;
    }
    process.signal(Signal::TERM);
    assert_eq!(sender.message().await, close());
    sender.ends_silently().await;
    let get = "GET /readyz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
    let status = request(process.health(), get)
        .await
        .map(|answer| answer.status);
    assert_eq!(status, Some(503));
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await, Some(1));
    drop(stalled);
}

/// SIGHUP ends a process that does not catch it.
#[tokio::test]
async fn a_hangup_reads_files_again_and_ends_nothing() {
    let mut process = start("hangup").await;
    let client = RawClient::tcp(process.addr()).await;
    let mut client = Program::peer(client, "x", SECRET).await;
    process.signal(Signal::HUP);
    until("the log says that files are read again", || {
        process.lines("SIGHUP") > 0
    })
    .await;
    client.sync(&peer("x")).await;
    process.signal(Signal::TERM);
    assert_eq!(client.message().await, close());
    drop(client);
    assert_eq!(process.ended().await, Some(0));
}
