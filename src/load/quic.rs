//! The load's side of QUIC: a connection that looks like a stream of WebSocket frames, so that the loads know no difference.
//!
//! Each frame that is written leaves as one datagram, without its head and mask; each datagram that comes is read as one frame.
//! Every peer has a socket of its own, as real ones do.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, TokioRuntime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, timeout};

use super::frame::OPCODE_BINARY;
use super::tls::server_name;
use crate::proto::PeerId;
use crate::proto::peer::{HEALTH_CHECK, encode_transport};
use crate::transport::quic::{ALPN, client_config};

/// The path MTU that stock clients of openZro begin with.
const INITIAL_MTU: u16 = 1452;

/// Room for a window of messages in the kernel: what is lost there is the load's own fault, and not the relay's.
const SOCKET_BUFFER: usize = 2 * 1024 * 1024;

/// How long a message of full size may take before it counts as dropped by a relay that does not know the path yet.
const TRY: Duration = Duration::from_millis(20);

/// When nobody has answered for so long, nobody will.
const ANSWER: Duration = Duration::from_secs(3);

/// What a frame's head may be at most.
const HEAD_MAX: usize = 4;

/// How QUIC is spoken, from how TLS is.
pub(super) fn config(tls: &rustls::ClientConfig) -> ClientConfig {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    client_config(Arc::new(tls), INITIAL_MTU)
        .expect("the provider has the cipher that QUIC begins with")
}

/// Which of these connections get no answer any more. QUIC's own clock is too slow for it, and its keep-alive is nothing that a
/// measured relay should have to answer: each one says that it lives, and some datagram must come back.
pub(super) async fn unanswered(connections: &[&Connection]) -> Vec<bool> {
    let came = |connection: &Connection| connection.stats().udp_rx.datagrams;
    let mut waiting: Vec<_> = connections
        .iter()
        .map(|connection| {
            let before = came(connection);
            let asked = connection.send_datagram(Bytes::from_static(&HEALTH_CHECK));
            asked.is_ok().then_some(before)
        })
        .collect();
    let mut silent: Vec<bool> = waiting.iter().map(Option::is_none).collect();
    let mut quiet = Duration::ZERO;
    while quiet < ANSWER && waiting.iter().any(Option::is_some) {
        sleep(TRY).await;
        quiet += TRY;
        for (connection, before) in connections.iter().zip(&mut waiting) {
            if before.is_some_and(|before| came(connection) > before) {
                *before = None;
                quiet = Duration::ZERO;
            }
        }
    }
    for (silent, waiting) in silent.iter_mut().zip(waiting) {
        *silent |= waiting.is_some();
    }
    silent
}

type Datagrams = Pin<Box<dyn Stream<Item = Result<Bytes, ConnectionError>>>>;
type Sending = Pin<Box<dyn Future<Output = io::Result<()>>>>;

/// A QUIC connection as a stream of frames.
pub(super) struct QuicStream {
    connection: Connection,
    datagrams: Datagrams,
    /// What did not fit into the reader's buffer.
    left: Bytes,
    /// A datagram that waits for room.
    sending: Option<Sending>,
    /// Keeps the socket.
    _endpoint: Endpoint,
}

/// The sequence number in the messages of [`QuicStream::settle`]: one that comes late is none of the load's.
pub(super) const SETTLING: u64 = u64::MAX;

impl fmt::Debug for QuicStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicStream")
    }
}

impl QuicStream {
    /// The handshake with the server of this `host:port`.
    pub(super) async fn connect(
        config: ClientConfig,
        address: SocketAddr,
        source: Option<Ipv4Addr>,
        host: &str,
    ) -> io::Result<Self> {
        let any = match (source, address) {
            (Some(source), _) => SocketAddr::new(source.into(), 0),
            (None, SocketAddr::V4(_)) => SocketAddr::from(([0; 4], 0)),
            (None, SocketAddr::V6(_)) => SocketAddr::from(([0; 16], 0)),
        };
        let socket = std::net::UdpSocket::bind(any)?;
        let options = socket2::SockRef::from(&socket);
        options.set_recv_buffer_size(SOCKET_BUFFER)?;
        options.set_send_buffer_size(SOCKET_BUFFER)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, runtime)?;
        let connection = endpoint
            .connect_with(config, address, server_name(host))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?
            .await?;
        let datagrams = stream::unfold(connection.clone(), async |connection| {
            Some((connection.read_datagram().await, connection))
        });
        Ok(Self {
            connection,
            datagrams: Box::pin(datagrams),
            left: Bytes::new(),
            sending: None,
            _endpoint: endpoint,
        })
    }

    /// The connection below.
    pub(super) fn connection(&self) -> Connection {
        self.connection.clone()
    }

    /// Waits until the relay has found out that the path to this authenticated peer carries messages with so much payload: by
    /// one to itself.
    pub(super) async fn settle(&mut self, id: &PeerId, size: usize) -> io::Result<()> {
        let mut message = Vec::new();
        let payload = vec![SETTLING as u8; size];
        encode_transport(id, &payload, &mut message).expect("the options check the size");
        let message = Bytes::from(message);
        loop {
            self.connection
                .send_datagram(message.clone())
                .map_err(io::Error::other)?;
            match timeout(TRY, self.connection.read_datagram()).await {
                Ok(Ok(answer)) if answer.len() == message.len() => return Ok(()),
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// Sends the frame at the head of `bytes`, and says how long it is.
    fn poll_send_frame(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let (message, len) = message_of(bytes)?;
        if let Some(message) = message {
            if self.sending.is_none() {
                if self.connection.datagram_send_buffer_space() >= message.len() {
                    self.connection
                        .send_datagram(message)
                        .map_err(io::Error::other)?;
                    return Poll::Ready(Ok(len));
                }
                let connection = self.connection.clone();
                self.sending = Some(Box::pin(async move {
                    let sent = connection.send_datagram_wait(message).await;
                    sent.map_err(io::Error::other)
                }));
            }
            if let Some(sending) = &mut self.sending {
                let sent = ready!(sending.as_mut().poll(cx));
                self.sending = None;
                sent?;
            }
        }
        Poll::Ready(Ok(len))
    }
}

/// The message in a whole masked frame, if it is one of the protocol, and the length of the frame.
fn message_of(frame: &[u8]) -> io::Result<(Option<Bytes>, usize)> {
    let whole = || {
        let short = usize::from(frame.get(1)? & 0x7f);
        let (head, len) = match short {
            126 => (
                4,
                usize::from(u16::from_be_bytes([*frame.get(2)?, *frame.get(3)?])),
            ),
            short => (2, short),
        };
        let mask: [u8; 4] = frame.get(head..head + 4)?.try_into().ok()?;
        Some((mask, frame.get(head + 4..head + 4 + len)?, head + 4 + len))
    };
    let (mask, body, len) =
        whole().ok_or_else(|| io::Error::other("a frame was written in pieces"))?;
    let binary = frame[0] & 0x0f == OPCODE_BINARY;
    let clear = || {
        let mut clear = BytesMut::from(body);
        let mut chunks = clear.chunks_exact_mut(4);
        for chunk in &mut chunks {
            for (byte, key) in chunk.iter_mut().zip(mask) {
                *byte ^= key;
            }
        }
        for (byte, key) in chunks.into_remainder().iter_mut().zip(mask) {
            *byte ^= key;
        }
        clear.freeze()
    };
    Ok((binary.then(clear), len))
}

impl AsyncRead for QuicStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            let fits = self.left.len().min(buf.remaining());
            buf.put_slice(&self.left.split_to(fits));
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match self.datagrams.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(datagram))) => {
                    let mut head = [0x80 | OPCODE_BINARY, 126, 0, 0];
                    let len = u16::try_from(datagram.len()).expect("a datagram is below 64 KiB");
                    head[2..].copy_from_slice(&len.to_be_bytes());
                    if buf.remaining() >= HEAD_MAX + datagram.len() {
                        buf.put_slice(&head);
                        buf.put_slice(&datagram);
                    } else {
                        self.left = [&head[..], &datagram].concat().into();
                    }
                }
                // The other side's close is the end of the stream.
                Poll::Ready(Some(Err(ConnectionError::ApplicationClosed(_))) | None) => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                Poll::Pending if buf.filled().len() > before => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        while written < bytes.len() {
            match self.poll_send_frame(cx, &bytes[written..]) {
                Poll::Ready(len) => written += len?,
                Poll::Pending if written > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.close(0_u8.into(), &[]);
        Poll::Ready(Ok(()))
    }
}
