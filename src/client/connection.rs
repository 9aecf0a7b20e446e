//! The task that owns a client's WebSocket: writes what is queued, reads what comes, answers health checks.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Frame};

use super::{ClientError, CloseReason, Event};
use crate::proto::limits::{MESSAGE_MAX, TRANSPORT_HEADER_LEN};
use crate::proto::peer::{self, CLOSE, HEALTH_CHECK, Message};

/// How long the relay may take to end a connection that this side closes.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The most messages that go out with one flush.
const BATCH: usize = 64;

/// Any stream of bytes.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(super) type Socket = WebSocketStream<Box<dyn Io>>;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// A whole message.
    Message(Bytes),
    /// *close*, then nothing more.
    Close,
}

/// Small buffers, and no message longer than the protocol has.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(16 * 1024)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
}

/// Sends the auth message and waits for the relay's instance URL.
pub(super) async fn authenticate(
    socket: &mut Socket,
    auth: Vec<u8>,
) -> Result<String, ClientError> {
    if socket.send(Frame::Binary(auth.into())).await.is_err() {
        return Err(ClientError::Refused);
    }
    loop {
        match socket.next().await {
            Some(Ok(Frame::Binary(answer))) => {
                return match peer::parse(&answer) {
                    Ok(Message::AuthResponse(url)) => Ok(url.to_owned()),
                    Ok(Message::Close) => Err(ClientError::Refused),
                    Ok(_) => Err(ClientError::Answer(None)),
                    Err(error) => Err(ClientError::Answer(Some(error))),
                };
            }
            Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
            Some(Ok(Frame::Text(_) | Frame::Frame(_))) => return Err(ClientError::Answer(None)),
            Some(Ok(Frame::Close(_)) | Err(_)) | None => return Err(ClientError::Refused),
        }
    }
}

/// Runs the connection to its end, and leaves the reason in `closed` before `events` ends.
pub(super) async fn run(
    socket: Socket,
    outgoing: mpsc::Receiver<Outgoing>,
    answers: mpsc::Sender<Outgoing>,
    events: mpsc::Sender<Event>,
    closed: Arc<OnceLock<CloseReason>>,
) {
    let (sink, stream) = socket.split();
    let read = read(stream, &events, &answers);
    tokio::pin!(read);
    let reason = tokio::select! {
        reason = &mut read => reason,
        wrote = write(sink, outgoing) => {
            // What the relay sent before it ended the connection is still worth reading.
            let rest = timeout(CLOSE_TIMEOUT, &mut read).await;
            match (wrote, rest) {
                (Wrote::Close, _) => CloseReason::ByClient,
                (Wrote::Failed, Ok(reason)) => reason,
                (Wrote::Failed, Err(_)) => CloseReason::Lost,
            }
        }
    };
    closed.get_or_init(|| reason);
}

enum Wrote {
    /// *close* is out.
    Close,
    /// The connection takes nothing any more.
    Failed,
}

async fn write(
    mut sink: impl Sink<Frame, Error = WsError> + Unpin,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> Wrote {
    let mut batch = Vec::with_capacity(BATCH);
    while outgoing.recv_many(&mut batch, BATCH).await > 0 {
        for out in batch.drain(..) {
            let (message, last) = match out {
                Outgoing::Message(message) => (message, false),
                Outgoing::Close => (Bytes::from_static(&CLOSE), true),
            };
            if sink.feed(Frame::Binary(message)).await.is_err() {
                return Wrote::Failed;
            }
            if last {
                // Flushes, and says goodbye in WebSocket's own words, too. A relay that is gone by now is just as well.
                let _ = sink.close().await;
                return Wrote::Close;
            }
        }
        if sink.flush().await.is_err() {
            return Wrote::Failed;
        }
    }
    // No handle is left, so the task is about to be aborted.
    Wrote::Close
}

async fn read(
    mut stream: impl Stream<Item = Result<Frame, WsError>> + Unpin,
    events: &mpsc::Sender<Event>,
    answers: &mpsc::Sender<Outgoing>,
) -> CloseReason {
    loop {
        let message = match stream.next().await {
            Some(Ok(Frame::Binary(message))) => message,
            Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Close(_))) => continue,
            Some(Ok(Frame::Text(_) | Frame::Frame(_))) => return CloseReason::Violation,
            Some(Err(WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                return CloseReason::Lost;
            }
            Some(Err(WsError::Protocol(_) | WsError::Capacity(_) | WsError::Utf8(_))) => {
                return CloseReason::Violation;
            }
            Some(Err(_)) | None => return CloseReason::Lost,
        };
        let event = match peer::parse(&message) {
            Ok(Message::Transport { peer, .. }) => Event::Message {
                from: peer,
                payload: message.slice(TRANSPORT_HEADER_LEN..),
            },
            Ok(Message::PeersOnline(ids)) => Event::Online(ids.iter().collect()),
            Ok(Message::PeersOffline(ids)) => Event::Offline(ids.iter().collect()),
            Ok(Message::HealthCheck) => {
                let answer = Outgoing::Message(Bytes::from_static(&HEALTH_CHECK));
                // Fails only when the writer has ended, and then this is about to end, too.
                let _ = answers.send(answer).await;
                continue;
            }
            Ok(Message::Close) => return CloseReason::ByRelay,
            Ok(_) | Err(_) => return CloseReason::Violation,
        };
        if events.send(event).await.is_err() {
            return CloseReason::ByClient;
        }
    }
}
