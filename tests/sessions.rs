//! What real openZro and NetBird clients said, replayed byte for byte against the running relay, which has to answer as the
//! relay did that they talked to.
//!
//! The recordings in `vectors/sessions/` are chunks of TCP streams with a number that counts through all connections of a
//! file. A client's chunk is sent once everything has come that the recorded relay had said before it. Compared are the
//! answer to the upgrade, the messages of each connection in their order and by their hash, and that nothing follows.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use trunkline::auth::{Secret, TokenValidator};
use trunkline::proto::peer::MessageType;
use trunkline::time::Clock;

use support::{Answer, Frame, FrozenClock, NOW, TestRelay, until};

/// A pause in the recording after which the relay has had time to act unseen.
const PAUSE_MS: f64 = 50.0;

/// How a client's bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    AsRecorded,
    SingleBytes,
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap()
}

fn seq(value: &Value) -> u64 {
    value["seq"].as_u64().unwrap()
}

/// One recorded connection and what became of it here.
#[derive(Debug)]
struct Connection<'a> {
    recorded: &'a Value,
    stream: Option<TcpStream>,
    unread: Vec<u8>,
    upgrade: Option<Answer>,
    messages: Vec<Vec<u8>>,
    ended: bool,
}

impl<'a> Connection<'a> {
    fn new(recorded: &'a Value) -> Self {
        Self {
            recorded,
            stream: None,
            unread: Vec::new(),
            upgrade: None,
            messages: Vec::new(),
            ended: false,
        }
    }

    /// The recorded relay's HTTP answer and messages, in order.
    fn answers(&self) -> impl Iterator<Item = &'a Value> {
        let messages = array(self.recorded, "messages").iter();
        messages.filter(|message| message["dir"] == "s2c")
    }

    /// Takes what has come, without waiting.
    fn read(&mut self) {
        let Some(stream) = &self.stream else { return };
        while !self.ended {
            match stream.try_read_buf(&mut self.unread) {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => self.ended = true,
            }
        }
        if self.upgrade.is_none() {
            self.upgrade = Answer::take_head(&mut self.unread);
        }
        if self.upgrade.is_some() {
            while let Some(frame) = Frame::take(&mut self.unread) {
                self.messages.push(frame.into_message());
            }
        }
    }

    /// Whether all has come that the recorded relay had sent before `seq_limit`.
    fn has_answers_before(&self, seq_limit: u64) -> bool {
        let due = self.answers().filter(|answer| seq(answer) < seq_limit);
        let come = usize::from(self.upgrade.is_some()) + self.messages.len();
        let end_due = array(self.recorded, "chunks").iter().any(|chunk| {
            chunk["dir"] == "s2c" && chunk["event"] == "fin" && seq(chunk) < seq_limit
        });
        come >= due.count() && (self.ended || !end_due)
    }

    fn was_reset(&self) -> bool {
        let chunks = array(self.recorded, "chunks");
        chunks.iter().any(|chunk| chunk["event"] == "reset")
    }

    /// Compares what came with what was recorded.
    fn check(&self) {
        let role = &self.recorded["role"];
        let mut recorded = self.answers();
        let upgrade = self.upgrade.as_ref().expect("an answer to the upgrade");
        assert_eq!(upgrade.status, 101, "{role}");
        let headers = &recorded.next().unwrap()["headers"];
        let accept = headers["Sec-Websocket-Accept"].as_str();
        let ours = upgrade.values("sec-websocket-accept");
        assert_eq!(ours, [accept.unwrap()], "{role}");
        let recorded: Vec<_> = recorded
            .map(|message| message["sha256"].as_str().unwrap().to_owned())
            .collect();
        let come: Vec<_> = self
            .messages
            .iter()
            .map(|m| hex(&Sha256::digest(m)))
            .collect();
        assert_eq!(come, recorded, "messages to {role}: {:?}", self.messages);
        let unread = &self.unread;
        assert!(unread.is_empty(), "{role}: more came: {unread:?}");
    }
}

/// How many messages all clients had sent before `seq_limit`, *auth* aside: that is no message of a connected peer yet.
fn sent_before(file: &Value, seq_limit: u64) -> u64 {
    let connections = array(file, "connections").iter();
    let messages = connections.flat_map(|connection| array(connection, "messages"));
    messages
        .filter(|message| message["dir"] == "c2s" && seq(message) < seq_limit)
        .filter(|message| {
            message["type_number"]
                .as_u64()
                .is_some_and(|kind| kind != 6)
        })
        .count() as u64
}

async fn replay(text: &str, cut: Cut) {
    let file: Value = serde_json::from_str(text).unwrap();
    let settings = &file["relay"];
    let secret = Secret::new(settings["secret"].as_str().unwrap());
    let relay = TestRelay::with(|builder| {
        builder
            .exposed_address(settings["exposed_address"].as_str().unwrap())
            .validator(TokenValidator::new(vec![secret], Clock::fixed(NOW)))
    });
    // The one session that takes a minute gets a clock that the test moves.
    let clock = (file["scenario"] == "idle-60s").then(FrozenClock::freeze);
    let mut elapsed_ms = 0.0;

    let mut connections: Vec<_> = array(&file, "connections")
        .iter()
        .map(Connection::new)
        .collect();
    let mut chunks = BTreeMap::new();
    for (at, connection) in connections.iter().enumerate() {
        for chunk in array(connection.recorded, "chunks") {
            chunks.insert(seq(chunk), (at, chunk));
        }
    }
    let mut last_ms = 0.0;
    for (&number, &(at, chunk)) in &chunks {
        let ms = chunk["ms"].as_f64().unwrap();
        let paused = ms - last_ms >= PAUSE_MS;
        last_ms = ms;
        if chunk["dir"] == "s2c" {
            continue;
        }
        let mut come = || {
            connections.iter_mut().for_each(Connection::read);
            connections.iter().all(|c| c.has_answers_before(number))
        };
        if let Some(clock) = &clock {
            while elapsed_ms < ms || !come() {
                assert!(elapsed_ms < ms + 2000.0, "chunk {number} would be too late");
                clock.advance(Duration::from_millis(250)).await;
                elapsed_ms += 250.0;
            }
        }
        until(&format!("what precedes chunk {number}"), come).await;
        if paused {
            // The recorded relay had time to act; here it is seen that ours has acted.
            let counters = relay.relay.counters();
            let received = || MessageType::ALL.map(|kind| counters.received_count(kind));
            let sent = sent_before(&file, number);
            let heard = || received().iter().sum::<u64>() == sent;
            until("the relay has taken what was sent", heard).await;
        }
        let connection = &mut connections[at];
        match (chunk["event"].as_str(), chunk["hex"].as_str()) {
            (Some("open"), _) => {
                let stream = TcpStream::connect(relay.addr).await.unwrap();
                stream.set_nodelay(true).unwrap();
                connection.stream = Some(stream);
            }
            (Some("fin"), _) => {
                // The relay may have ended the connection by now.
                let _ = connection.stream.as_mut().unwrap().shutdown().await;
            }
            (Some("reset"), _) => {
                let stream = connection.stream.take().unwrap();
                stream.set_zero_linger().unwrap();
            }
            (None, Some(bytes)) => {
                let stream = connection.stream.as_mut().unwrap();
                let bytes = unhex(bytes);
                let size = match cut {
                    Cut::AsRecorded => bytes.len(),
                    Cut::SingleBytes => 1,
                };
                for piece in bytes.chunks(size) {
                    stream.write_all(piece).await.unwrap();
                    // The relay, in this same thread, takes each piece by itself.
                    tokio::task::yield_now().await;
                }
            }
            other => panic!("chunk {number}: {other:?}"),
        }
    }
    until("the relay ends every connection", || {
        connections.iter_mut().for_each(Connection::read);
        connections.iter().all(|c| c.ended || c.was_reset())
    })
    .await;
    connections.iter().for_each(Connection::check);
    assert!(connections.iter().any(|c| c.upgrade.is_some()));
    relay.peers(0).await;
    relay.conserved().await;
    drop(clock);
    relay.stopped().await;
}

macro_rules! sessions {
    ($($client:ident { $($name:ident $file:literal $($cut:ident)+;)* })*) => {$(
        mod $client {
            use super::*;
            $(
                #[tokio::test]
                async fn $name() {
                    let text = include_str!(concat!("vectors/sessions/", stringify!($client), "-", $file, ".json"));
                    $(replay(text, Cut::$cut).await;)+
                }
            )*
        }
    )*};
}

sessions! {
    openzro {
        connect_close "connect-close" AsRecorded SingleBytes;
        exchange "exchange" AsRecorded SingleBytes;
        late_and_abrupt "late-and-abrupt" AsRecorded SingleBytes;
        wrong_secret "wrong-secret" AsRecorded SingleBytes;
        takeover "takeover" AsRecorded SingleBytes;
        idle_60s "idle-60s" AsRecorded;
    }
    netbird {
        connect_close "connect-close" AsRecorded SingleBytes;
        exchange "exchange" AsRecorded SingleBytes;
        late_and_abrupt "late-and-abrupt" AsRecorded SingleBytes;
        wrong_secret "wrong-secret" AsRecorded SingleBytes;
        takeover "takeover" AsRecorded SingleBytes;
        idle_60s "idle-60s" AsRecorded;
    }
}
