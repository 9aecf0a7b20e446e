//! One connection of the load: made by hand, written from precomputed frames, read without copying.
//!
//! Does what a stock client does on the wire (upgrade, auth, health checks; peer-protocol.md, Handshake), and nothing more: it is
//! to cost less than the relay that it loads. It decides neither when to send nor what to count.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::error::LoadError;
use super::frame::{binary_frame, close_frame, health_answer, pong_frame};
use super::quic::QuicStream;
use super::scan::{Scanner, Seen};
use super::tls::{self, Stream};
use crate::proto::PeerId;
use crate::proto::limits::{AUTH_RESPONSE_MAX, PROTOCOL_VERSION};
use crate::proto::peer::{MessageType, encode_auth};

/// What a relay may take for any one step of the handshake before the load gives up.
const STEP_SECONDS: u64 = 20;
/// No relay's answer to the upgrade is longer.
const UPGRADE_MAX: usize = 8 * 1024;
/// `EMFILE` and `ENFILE` of Linux.
const TOO_MANY_FILES: [i32; 2] = [24, 23];

/// A connected socket with Nagle's delay off, from `source` (any port) if one is given.
pub(super) async fn connect(
    address: SocketAddr,
    source: Option<Ipv4Addr>,
    needed: u64,
) -> Result<TcpStream, LoadError> {
    let connecting = async {
        match source {
            None => TcpStream::connect(address).await,
            Some(source) => bound_socket(source)?.connect(address).await,
        }
    };
    let stream = within("connecting", async {
        connecting
            .await
            .map_err(|source| match source.raw_os_error() {
                Some(code) if TOO_MANY_FILES.contains(&code) => LoadError::TooManyFiles { needed },
                _ if source.kind() == io::ErrorKind::AddrNotAvailable => {
                    LoadError::NoPortLeft { address }
                }
                _ => LoadError::Connect { address, source },
            })
    })
    .await?;
    stream
        .set_nodelay(true)
        .map_err(doing("setting TCP_NODELAY"))?;
    Ok(stream)
}

fn bound_socket(source: Ipv4Addr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // A port whose last connection is still in TIME_WAIT may be taken again.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
    Ok(socket)
}

pub(super) async fn within<T>(
    doing: &'static str,
    step: impl Future<Output = Result<T, LoadError>>,
) -> Result<T, LoadError> {
    match tokio::time::timeout(Duration::from_secs(STEP_SECONDS), step).await {
        Ok(result) => result,
        Err(_) => Err(LoadError::Timeout {
            doing,
            seconds: STEP_SECONDS,
        }),
    }
}

pub(super) fn doing(doing: &'static str) -> impl FnOnce(io::Error) -> LoadError {
    move |source| LoadError::Io { doing, source }
}

/// As [`doing`], where a relay that closes the connection says so in its way.
pub(super) fn closed_or(doing: &'static str) -> impl FnOnce(io::Error) -> LoadError {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    move |source| match source.kind() {
        ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof => LoadError::Closed,
        _ => LoadError::Io { doing, source },
    }
}

/// A connection through which frames go.
#[derive(Debug)]
pub(super) struct Peer {
    stream: Stream,
    scanner: Scanner,
    /// Answers that wait for the end of the batch being written.
    control: Vec<u8>,
    control_at: usize,
    /// How much of the present batch has been written.
    batch_at: usize,
    health_checks: u64,
}

impl Peer {
    /// A connection that needs no handshake: one end of a path through a proxy.
    pub(super) fn bare(stream: Stream) -> Self {
        Self {
            stream,
            scanner: Scanner::default(),
            control: Vec::new(),
            control_at: 0,
            batch_at: 0,
            health_checks: 0,
        }
    }

    /// Upgrades the connection and authenticates, as a stock client does: one step after the other.
    pub(super) async fn join(
        mut stream: Stream,
        host: &str,
        route: &str,
        id: &PeerId,
        token: &[u8],
    ) -> Result<Self, LoadError> {
        let received = Self::upgrade(&mut stream, host, route).await?;
        Self::authenticate(stream, received, id, token).await
    }

    /// As [`Peer::join`] over QUIC, which needs no upgrade; messages with so much payload pass from then on.
    pub(super) async fn join_quic(
        stream: QuicStream,
        id: &PeerId,
        token: &[u8],
        settle: Option<usize>,
    ) -> Result<Self, LoadError> {
        let stream = Stream::Quic(Box::new(stream));
        let mut peer = Self::authenticate(stream, Vec::new(), id, token).await?;
        if let (Some(size), Stream::Quic(stream)) = (settle, &mut peer.stream) {
            within("waiting for a message of full size", async {
                let settled = stream.settle(id, size).await;
                settled.map_err(doing("finding out what the path carries"))
            })
            .await?;
        }
        Ok(peer)
    }

    /// Asks for the upgrade; returns what came behind the answer.
    async fn upgrade(stream: &mut Stream, host: &str, route: &str) -> Result<Vec<u8>, LoadError> {
        let mut received = Vec::with_capacity(512);
        let request = upgrade_request(host, route);
        within("waiting for the upgrade", async {
            stream
                .write_all(request.as_bytes())
                .await
                .map_err(closed_or("asking for the upgrade"))?;
            stream
                .flush()
                .await
                .map_err(closed_or("asking for the upgrade"))?;
            let end = loop {
                if let Some(at) = received.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
                if received.len() > UPGRADE_MAX {
                    return Err(LoadError::Upgrade {
                        answer: "a head without an end".to_owned(),
                    });
                }
                let read = stream
                    .read_buf(&mut received)
                    .await
                    .map_err(closed_or("reading the upgrade's answer"))?;
                if read == 0 {
                    return Err(LoadError::Closed);
                }
            };
            check_upgrade(&received[..end])?;
            received.drain(..end);
            Ok(received)
        })
        .await
    }

    async fn authenticate(
        mut stream: Stream,
        mut received: Vec<u8>,
        id: &PeerId,
        token: &[u8],
    ) -> Result<Self, LoadError> {
        let auth = encode_auth(id, token).expect("a token made here fits an auth message");
        let rest = within("waiting for the auth response", async {
            stream
                .write_all(&binary_frame(&auth))
                .await
                .map_err(doing("writing the auth message"))?;
            stream
                .flush()
                .await
                .map_err(doing("writing the auth message"))?;
            loop {
                if let Some(end) = auth_response(&received)? {
                    return Ok(received.split_off(end));
                }
                match stream.read_buf(&mut received).await {
                    Ok(0) => return Err(LoadError::Refused),
                    Ok(_) => {}
                    // With TLS, an end without a word is an error of its own.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
                        ) =>
                    {
                        return Err(LoadError::Refused);
                    }
                    Err(source) => {
                        return Err(LoadError::Io {
                            doing: "reading the auth response",
                            source,
                        });
                    }
                }
            }
        })
        .await?;
        let mut peer = Self::bare(stream);
        peer.take(&rest, &mut |_, _, _| {})
            .map_err(doing("reading after the auth response"))?;
        Ok(peer)
    }

    /// Says *close* and closes.
    pub(super) async fn leave(mut self) -> Result<(), LoadError> {
        self.stream
            .write_all(&close_frame())
            .await
            .map_err(doing("writing the close message"))?;
        self.stream
            .flush()
            .await
            .map_err(doing("writing the close message"))
    }

    /// The connection below, over QUIC.
    pub(super) fn quic(&self) -> Option<quinn::Connection> {
        match &self.stream {
            Stream::Quic(quic) => Some(quic.connection()),
            Stream::Plain(_) | Stream::Tls(_) => None,
        }
    }

    /// Health checks that came.
    pub(super) fn health_checks(&self) -> u64 {
        self.health_checks
    }

    /// Lets the kernel take no more than so many bytes by itself. Not over QUIC.
    pub(super) fn narrow(&self, bytes: usize) -> Result<(), LoadError> {
        let narrow = || {
            let tcp = self.stream.tcp().ok_or(io::ErrorKind::Unsupported)?;
            socket2::SockRef::from(tcp).set_recv_buffer_size(bytes)
        };
        narrow().map_err(doing("setting a small receive buffer"))
    }

    /// Reads once into `buffer`, and gives each transport message in it (payload bytes, sequence number, send time) to
    /// `deliver`. An error when the connection has ended, or is about to.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        deliver: &mut impl FnMut(usize, u64, u64),
    ) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(self.take(buffer.filled(), deliver))
    }

    fn take(&mut self, bytes: &[u8], deliver: &mut impl FnMut(usize, u64, u64)) -> io::Result<()> {
        let Self {
            scanner,
            control,
            health_checks,
            ..
        } = self;
        let mut closing = false;
        scanner.feed(bytes, |seen| match seen {
            Seen::Transport {
                payload,
                sequence,
                sent_ns,
            } => deliver(payload, sequence, sent_ns),
            Seen::HealthCheck => {
                *health_checks += 1;
                control.extend_from_slice(&health_answer());
            }
            Seen::Ping(body) => control.extend_from_slice(&pong_frame(body)),
            Seen::Close => closing = true,
            Seen::Other(_) => {}
        });
        if closing {
            Err(io::ErrorKind::ConnectionAborted.into())
        } else {
            Ok(())
        }
    }

    /// Writes `batch`; to be called again with the same bytes until it is ready. One write call unless the socket is full.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, batch: &[u8]) -> Poll<io::Result<()>> {
        if self.batch_at == 0 {
            ready!(self.poll_control(cx))?;
        }
        while self.batch_at < batch.len() {
            self.batch_at +=
                ready!(Pin::new(&mut self.stream).poll_write(cx, &batch[self.batch_at..]))?;
        }
        // For TCP nothing; TLS may hold records that the socket did not take.
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.batch_at = 0;
        Poll::Ready(Ok(()))
    }

    /// Writes the answers that are due, unless a batch is half written: they follow it then.
    pub(super) fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.control.is_empty() || self.batch_at > 0 {
            return Poll::Ready(Ok(()));
        }
        while self.control_at < self.control.len() {
            let rest = &self.control[self.control_at..];
            self.control_at += ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.control.clear();
        self.control_at = 0;
        Poll::Ready(Ok(()))
    }
}

/// TLS over a connected socket, if the load is to have it.
pub(super) async fn secured(
    tcp: TcpStream,
    tls: Option<&Arc<ClientConfig>>,
    host: &str,
) -> Result<Stream, LoadError> {
    match tls {
        None => Ok(Stream::Plain(tcp)),
        Some(config) => {
            within("waiting for the TLS handshake", async {
                Stream::tls(tcp, config, host)
                    .await
                    .map_err(tls::handshake_failed("doing the TLS handshake"))
            })
            .await
        }
    }
}

fn upgrade_request(host: &str, route: &str) -> String {
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    format!(
        "GET {route} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
}

fn check_upgrade(head: &[u8]) -> Result<(), LoadError> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let answer = String::from_utf8_lossy(line).into_owned();
    match answer.split(' ').nth(1) {
        Some("101") => Ok(()),
        Some("400") => Err(LoadError::Upgrade {
            answer: format!("{answer} (if its port wants TLS, add --tls)"),
        }),
        _ => Err(LoadError::Upgrade { answer }),
    }
}

/// Where the auth response at the head of `bytes` ends, if it is all there.
fn auth_response(bytes: &[u8]) -> Result<Option<usize>, LoadError> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    // A close frame in place of an answer: the relay has refused the token in its own way.
    if first & 0x0f == 8 {
        return Err(LoadError::Refused);
    }
    let (head, length) = match (second, rest) {
        (126, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        (126, _) => return Ok(None),
        (short, _) => (2, usize::from(*short)),
    };
    if first & 0x0f != 2 || !(2..=AUTH_RESPONSE_MAX).contains(&length) {
        return Err(LoadError::NotAnAnswer { kind: 0 });
    }
    match bytes.get(head..head + 2) {
        None => Ok(None),
        Some([PROTOCOL_VERSION, kind]) if *kind == MessageType::AuthResponse as u8 => {
            Ok((bytes.len() >= head + length).then_some(head + length))
        }
        Some([_, kind]) => Err(LoadError::NotAnAnswer { kind: *kind }),
        Some(_) => unreachable!("two bytes were asked for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_response_is_found_at_every_cut() {
        let mut short = vec![0x82, 5, 1, 7];
        short.extend_from_slice(b"url");
        let mut long = vec![0x82, 126, 0, 200, 1, 7];
        long.resize(4 + 200, b'u');
        for whole in [short, long] {
            for cut in 0..whole.len() {
                assert_eq!(auth_response(&whole[..cut]).unwrap(), None, "{cut}");
            }
            let end = whole.len();
            let more = [whole, vec![0x82, 2, 1, 5]].concat();
            assert_eq!(auth_response(&more).unwrap(), Some(end));
        }
        assert!(matches!(
            auth_response(&[0x82, 2, 1, 5]),
            Err(LoadError::NotAnAnswer { kind: 5 })
        ));
        assert!(matches!(
            auth_response(&[0x88, 2, 3, 232]),
            Err(LoadError::Refused)
        ));
    }

    #[test]
    fn only_101_is_an_upgrade() {
        assert!(check_upgrade(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").is_ok());
        let error = check_upgrade(b"HTTP/1.1 426 Upgrade Required\r\nx: 101\r\n\r\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the upgrade to WebSocket was refused: HTTP/1.1 426 Upgrade Required"
        );
    }
}
