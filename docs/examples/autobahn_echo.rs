//! Brings every binary message back, over Trunkline's own frame loop: what the Autobahn suite wants to talk to.
//!
//! `cargo run --release --example autobahn_echo -- 127.0.0.1:9001`; docs/conformance.md says how the suite is run against it.

use std::error::Error;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use trunkline::outbox::QueuePolicy;
use trunkline::telemetry::counters::Counters;
use trunkline::ticks::Ticks;
use trunkline::transport::ws::Upgraded;
use trunkline::transport::{IntoTransport, MessageReader, MessageTransport, ReadError};

/// Longest message in bytes: what one read buffer holds, with room for heads. The relay's own limit is 8820.
const LIMIT: usize = 65_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(&address).await?;
    println!("echo on ws://{}", listener.local_addr()?);
    let policy = QueuePolicy::new(
        64 << 20,
        Duration::from_secs(60),
        256 << 20,
        Arc::<Counters>::default(),
        Ticks::default(),
    );
    loop {
        let (stream, _) = listener.accept().await?;
        let policy = Arc::clone(&policy);
        tokio::spawn(async move {
            if let Err(error) = serve(stream, &policy).await {
                eprintln!("connection lost: {error}");
            }
        });
    }
}

/// One connection: a bare upgrade, then message after message.
async fn serve(
    mut stream: TcpStream,
    policy: &Arc<QueuePolicy>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut request = Vec::new();
    let end = loop {
        if let Some(at) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&request[..end]).into_owned();
    let key = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| {
            name.eq_ignore_ascii_case("sec-websocket-key")
                .then(|| value.trim().to_owned())
        });
    let accept = derive_accept_key(key.ok_or("no WebSocket key")?.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;

    let already_read = request.split_off(end).into();
    let transport = Upgraded {
        stream,
        already_read,
    }
    .into_transport(policy);
    let outbox = Arc::clone(transport.outbox());
    let (mut reader, writer) = transport.split();
    let writer = tokio::spawn(writer);
    let ended = loop {
        match reader.next_message(LIMIT) {
            // A full queue drops, as it does in the relay.
            Ok(Some(message)) => drop(outbox.push(message)),
            Ok(None) => match poll_fn(|cx| reader.poll_fill(cx)).await {
                Ok(()) => {}
                Err(error) => break error,
            },
            Err(error) => break error,
        }
    };
    match ended {
        ReadError::Ended | ReadError::Io(_) => outbox.abort(),
        ref told => outbox.finish(None, told.farewell()),
    }
    writer.await?;
    let _ = tokio::time::timeout(Duration::from_secs(1), poll_fn(|cx| reader.poll_drain(cx))).await;
    Ok(())
}
