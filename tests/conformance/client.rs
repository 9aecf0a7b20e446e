//! The client of a case: writes its bytes, reads what the server makes of them.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::case::{Case, Then};
use crate::frame::{close, ping};
use crate::verdict::{Close, LAST_WORD, Verdict};

/// No server takes that long, on the slowest machine; who does has stopped answering.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every client asks for.
pub(crate) const UPGRADE: &str = "GET /relay HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// What else is to be said and heard before the case begins.
pub(crate) struct Prelude {
    /// Whether the stream starts with HTTP.
    pub(crate) http: bool,
    /// What the client sends to be let in.
    pub(crate) hello: Vec<u8>,
    /// Frames that the server sends before it brings anything back.
    pub(crate) frames: usize,
    /// Whether the client sends everything at once, without waiting for an answer.
    pub(crate) glued: bool,
}

/// Runs a case over a stream.
pub(crate) async fn run<S: AsyncRead + AsyncWrite>(
    stream: S,
    prelude: &Prelude,
    case: &Case,
) -> Verdict {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let http = if prelude.http { UPGRADE } else { "" };
    let mut opening = [http.as_bytes(), &prelude.hello].concat();
    let mut rest = case.bytes.clone();
    if case.then == Then::Ping {
        rest.extend(ping(LAST_WORD).bytes());
    }
    let mut received = Vec::new();
    if prelude.glued {
        opening.append(&mut rest);
    }
    if !opening.is_empty() {
        let _ = writer.write_all(&opening).await;
    }
    if !prelude.glued {
        listen(&mut reader, &mut received, |bytes| {
            skip_prelude(bytes, prelude).map(|_| ())
        })
        .await
        .expect("the server lets the client in");
    }
    // The server may end while this is still writing: that is its verdict, not a failure.
    let write = async {
        let _ = writer.write_all(&rest).await;
        if case.then == Then::End {
            let _ = writer.shutdown().await;
        }
    };
    let alive = |bytes: &[u8]| judge(skip_prelude(bytes, prelude)?).1.then_some(());
    let (_, mut heard) = tokio::join!(write, listen(&mut reader, &mut received, alive));
    if heard.is_ok() {
        // Pongs overtake messages. A close frame does not: its answer is behind all that the case brought about.
        let _ = writer.write_all(&close(1000, "").bytes()).await;
        heard = listen(&mut reader, &mut received, |_| None).await;
    }
    let behind = skip_prelude(&received, prelude).unwrap_or_default();
    let (mut verdict, alive, whole) = judge(behind);
    verdict.check(heard != Err(Silent::Open), "neither an answer nor an end");
    verdict.check(whole, "connection ended inside a frame");
    if alive {
        let answer = std::mem::take(&mut verdict.close);
        verdict.check(
            answer == Close::Code(1000),
            "the client's close frame was not answered",
        );
    } else {
        verdict.ended = true;
    }
    verdict
}

/// Why nothing more comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Silent {
    /// The stream ended.
    Ended,
    /// It did not even end.
    Open,
}

/// Reads until `done` finds what it looks for, or nothing more comes.
async fn listen<T>(
    reader: &mut (impl AsyncRead + Unpin),
    received: &mut Vec<u8>,
    done: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, Silent> {
    loop {
        if let Some(found) = done(received) {
            return Ok(found);
        }
        match timeout(PATIENCE, reader.read_buf(received)).await {
            Err(_) => return Err(Silent::Open),
            Ok(Ok(0) | Err(_)) => return Err(Silent::Ended),
            Ok(Ok(_)) => {}
        }
    }
}

/// What comes behind the prelude's answers; none if they are not all there.
fn skip_prelude<'a>(mut bytes: &'a [u8], prelude: &Prelude) -> Option<&'a [u8]> {
    if prelude.http {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        assert!(
            bytes.starts_with(b"HTTP/1.1 101 "),
            "the upgrade was refused"
        );
        bytes = &bytes[end + 4..];
    }
    for _ in 0..prelude.frames {
        bytes = Verdict::default().take(bytes)?.0;
    }
    Some(bytes)
}

/// The verdict so far, whether the last word was answered, and whether the bytes end with a frame.
fn judge(mut bytes: &[u8]) -> (Verdict, bool, bool) {
    let mut verdict = Verdict::default();
    let mut answered = false;
    while let Some((rest, last_word)) = verdict.take(bytes) {
        answered |= last_word;
        bytes = rest;
    }
    (verdict, answered, bytes.is_empty())
}
