//! HTTP/1.1 by hand: one request, one answer.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::clock::PATIENCE;

/// What the stock clients send to get through; the key and its answer are those of RFC 6455, section 1.3.
pub(crate) const UPGRADE_REQUEST: &str = "GET /relay HTTP/1.1\r\nHost: relay.example.com\r\nUser-Agent: Go-http-client/1.1\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n";

/// An HTTP answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// Names (lower case) and values, as they came.
    pub(crate) headers: Vec<(String, String)>,
    /// All bytes behind the head.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Takes the head from the front of `bytes`, if it is there whole; the body is left in them.
    pub(crate) fn take_head(bytes: &mut Vec<u8>) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(bytes.drain(..end).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let mut status_line = lines.next().unwrap().split(' ');
        assert!(status_line.next().unwrap().starts_with("HTTP/1."), "{head}");
        let status = status_line.next().unwrap().parse().unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        Some(Self {
            status,
            headers: headers.collect(),
            body: Vec::new(),
        })
    }

    /// The values of all headers of this name.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let same = self.headers.iter().filter(|(header, _)| header == name);
        same.map(|(_, value)| value.as_str()).collect()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Sends `bytes` and reads until the other side ends the connection. None: it ended it without an answer.
pub(crate) async fn request(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Option<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        // A refusal may come before all has been written; what counts is what is read.
        let _ = stream.write_all(bytes.as_ref()).await;
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read).await;
        let mut answer = Answer::take_head(&mut read)?;
        answer.body = read;
        Some(answer)
    };
    timeout(PATIENCE, exchange)
        .await
        .expect("the connection neither answered nor ended")
}
