//! Both ends over real sockets: a client of rustls, whose bytes can be held back, cut and changed on the way.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::ServerName;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, SupportedCipherSuite, version,
};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::TcpListener;

use super::record::OVERHEAD;
use super::*;
use crate::outbox::{Framing, Outbox, QueuePolicy, TryWrite as _, write_out};
use crate::telemetry::counters::Counters;
use crate::ticks::Ticks;
use crate::tls::{AnyCertificate, Certificate, Certificates, server_config};

const SUITES: [SupportedCipherSuite; 3] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];

fn server() -> Arc<ServerConfig> {
    let certificates = Certificates::new();
    certificates.set(Certificate::self_signed("localhost"));
    server_config(&certificates, &[])
}

struct TestClient {
    tcp: TcpStream,
    tls: ClientConnection,
    /// Bytes of the wire that have come.
    received: usize,
    /// Data that has come and was not asked for.
    plain: Vec<u8>,
}

impl TestClient {
    /// A client of this suite, and the accepted other end, with nothing said yet.
    async fn pair(suite: SupportedCipherSuite) -> (Self, TcpStream) {
        Self::pair_with_records_of(None, suite).await
    }

    /// The same with records of at most so many bytes.
    async fn pair_with_records_of(
        most: Option<usize>,
        suite: SupportedCipherSuite,
    ) -> (Self, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![suite];
        let version = match suite {
            SupportedCipherSuite::Tls13(_) => &version::TLS13,
            SupportedCipherSuite::Tls12(_) => &version::TLS12,
        };
        let mut config = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(
                aws_lc_rs::default_provider().into(),
            )))
            .with_no_client_auth();
        config.max_fragment_size = most;
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(config.into(), name).unwrap();
        tls.set_buffer_limit(None);
        let client = Self {
            tcp,
            tls,
            received: 0,
            plain: Vec::new(),
        };
        (client, listener.accept().await.unwrap().0)
    }

    /// A pair that has shaken hands.
    async fn open(suite: SupportedCipherSuite, config: &Arc<ServerConfig>) -> (Self, TlsStream) {
        let (mut client, tcp) = Self::pair(suite).await;
        let accept = TlsStream::accept(tcp, Arc::clone(config));
        let (stream, ()) = tokio::join!(accept, client.shake_hands());
        (client, stream.unwrap())
    }

    async fn shake_hands(&mut self) {
        while self.tls.is_handshaking() {
            let out = self.out();
            self.tcp.write_all(&out).await.unwrap();
            if self.tls.is_handshaking() {
                self.fill().await.unwrap();
            }
        }
        let out = self.out();
        self.tcp.write_all(&out).await.unwrap();
    }

    /// What the client would send now.
    fn out(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        out
    }

    fn sealed(&mut self, data: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(data).unwrap();
        self.out()
    }

    async fn send(&mut self, data: &[u8]) {
        let out = self.sealed(data);
        self.tcp.write_all(&out).await.unwrap();
    }

    /// One look at the socket.
    async fn fill(&mut self) -> Result<usize, Error> {
        let mut bytes = [0; 4096];
        let count = self.tcp.read(&mut bytes).await.unwrap();
        self.received += count;
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest).unwrap();
            let state = self.tls.process_new_packets()?;
            let start = self.plain.len();
            self.plain
                .resize(start + state.plaintext_bytes_to_read(), 0);
            let _closed = self.tls.reader().read_exact(&mut self.plain[start..]);
        }
        Ok(count)
    }

    async fn read(&mut self, len: usize) -> Vec<u8> {
        while self.plain.len() < len {
            assert!(self.fill().await.unwrap() > 0, "the other side has ended");
        }
        self.plain.drain(..len).collect()
    }

    /// Why the other side ends.
    async fn alert(&mut self) -> Error {
        loop {
            match self.fill().await {
                Ok(0) => panic!("an end without a word"),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }
}

fn numbers(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 3) as u8).collect()
}

fn is_ours(stream: &TlsStream) -> bool {
    matches!(*stream.read.shared.keys.lock(), Keys::Ours(_))
}

/// Reads all of `len` bytes with buffers of `step` bytes.
async fn read_all(read: &mut TlsReadHalf, len: usize, step: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    let mut at = 0;
    while at < len {
        let to = len.min(at + step);
        let count = read.read(&mut data[at..to]).await.unwrap();
        assert!(count > 0, "the other side has ended");
        at += count;
    }
    data
}

#[tokio::test]
async fn each_suite_carries_data_both_ways_into_buffers_of_any_size() {
    let config = server();
    let tls12 = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    for suite in SUITES.into_iter().chain([tls12]) {
        let (mut client, stream) = TestClient::open(suite, &config).await;
        assert_eq!(is_ours(&stream), suite.tls13().is_some());
        let (mut read, mut write) = stream.into_split();
        for step in [1 << 20, 40_000, 1000, 7] {
            let sent = numbers(200_000);
            let back = async {
                let data = read_all(&mut read, sent.len(), step).await;
                write.write_all(&data).await.unwrap();
                write.flush().await.unwrap();
            };
            let there = async {
                client.send(&sent).await;
                client.read(sent.len()).await
            };
            let ((), data) = tokio::join!(back, there);
            assert!(data == sent, "{suite:?} in steps of {step}");
        }
    }
}

/// The socket brings what it brings: any part of a record, and the rest later.
#[tokio::test]
async fn records_may_be_cut_anywhere() {
    let config = server();
    let (mut client, stream) = TestClient::open(SUITES[0], &config).await;
    let (mut read, _write) = stream.into_split();
    let data = numbers(90);
    let mut space = vec![0; BUFFER];
    let len = 2 * (data.len() + OVERHEAD);
    for cut in 1..len {
        let out = [client.sealed(&data), client.sealed(&data)].concat();
        assert_eq!(out.len(), len);
        client.tcp.write_all(&out[..cut]).await.unwrap();
        let mut got = 0;
        if cut >= len / 2 {
            got = read.read(&mut space).await.unwrap();
        } else {
            // The beginning is read, and put aside.
            read.shared.tcp.ready(Interest::READABLE).await.unwrap();
            let mut early = Box::pin(read.read(&mut space));
            let waits = poll_fn(|cx| Poll::Ready(early.as_mut().poll(cx).is_pending()));
            assert!(waits.await);
        }
        client.tcp.write_all(&out[cut..]).await.unwrap();
        while got < 2 * data.len() {
            got += read.read(&mut space[got..]).await.unwrap();
        }
        assert_eq!(space[..got], [&data[..], &data].concat());
    }
}

/// As long as a reader's buffer, so that records are opened in it.
const BUFFER: usize = 62 * 1024;

/// What a client sends in one piece with the end of its handshake is not lost, nor what it sends half of. Records of 32 bytes cut its
/// last message, too (RFC 8446, section 5.1).
#[tokio::test]
async fn data_that_comes_with_the_end_of_the_handshake_is_kept() {
    let config = server();
    for (most, half) in [None, Some(32)]
        .into_iter()
        .flat_map(|most| [(most, false), (most, true)])
    {
        let (mut client, tcp) = TestClient::pair_with_records_of(most, SUITES[0]).await;
        let data = numbers(3000);
        let hello = client.out();
        client.tcp.write_all(&hello).await.unwrap();
        let there = async {
            while client.tls.is_handshaking() {
                client.fill().await.unwrap();
            }
            let mut out = client.out();
            if most.is_some() {
                // The record of its last message that comes first is alone for a while.
                let first = out.drain(..out.len().min(6 + 32)).collect::<Vec<_>>();
                client.tcp.write_all(&first).await.unwrap();
                tokio::task::yield_now().await;
            }
            out.extend(client.sealed(&data));
            out.extend(client.sealed(&data));
            let cut = if half { out.len() - 100 } else { out.len() };
            client.tcp.write_all(&out[..cut]).await.unwrap();
            out.split_off(cut)
        };
        let accept = TlsStream::accept(tcp, Arc::clone(&config));
        let (stream, rest) = tokio::join!(accept, there);
        let stream = stream.unwrap();
        assert!(is_ours(&stream));
        client.tcp.write_all(&rest).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let got = read_all(&mut read, 6000, BUFFER).await;
        assert_eq!(got, [&data[..], &data].concat());
        write.write_all(b"heard").await.unwrap();
        assert_eq!(client.read(5).await, b"heard");
    }
}

#[tokio::test]
async fn keys_are_changed_and_the_answer_comes_before_the_next_data() {
    let config = server();
    for suite in SUITES {
        let (mut client, stream) = TestClient::open(suite, &config).await;
        let (mut read, mut write) = stream.into_split();
        for round in 0..5 {
            client.send(b"before").await;
            // rustls asks for an answer.
            client.tls.refresh_traffic_keys().unwrap();
            client.send(b"after").await;
            assert_eq!(read_all(&mut read, 11, BUFFER).await, b"beforeafter");
            let before = client.received;
            write.write_all(b"answer").await.unwrap();
            assert_eq!(client.read(6).await, b"answer", "round {round}");
            // The tickets have come in the first round.
            if round > 0 {
                assert_eq!(client.received - before, 5 + OVERHEAD + 6 + OVERHEAD);
            }
        }
    }
}

/// A client that has its key changed again and again and takes nothing makes nothing grow.
#[tokio::test]
async fn who_takes_no_answer_gets_one() {
    let config = server();
    let (mut client, stream) = TestClient::open(SUITES[0], &config).await;
    let (mut read, mut write) = stream.into_split();
    // Until the socket takes nothing more.
    let full = vec![0; 1 << 16];
    let mut count = 0;
    while write.try_write(&full).is_ok() {
        count += 1;
    }
    let pending = write.shared.write.lock().pending_len();
    assert!(pending > 0);
    for _ in 0..100 {
        client.tls.refresh_traffic_keys().unwrap();
        client.send(b"x").await;
        assert_eq!(read_all(&mut read, 1, BUFFER).await, b"x");
    }
    assert_eq!(write.shared.write.lock().pending_len(), pending);
    // The writer comes with the same bytes, as it does, and then with others.
    let writing = async {
        write.write_all(&full).await.unwrap();
        write.write_all(b"end").await.unwrap();
        write.flush().await.unwrap();
    };
    let (data, ()) = tokio::join!(client.read((count + 1) * full.len() + 3), writing);
    assert!(data.ends_with(b"end"));
}

type Change = fn(&mut Vec<u8>);

#[tokio::test]
async fn a_changed_or_too_long_record_is_answered_by_alert_and_ends_all() {
    let config = server();
    let tamper: [(Change, AlertDescription); 4] = [
        (
            |out| *out.last_mut().unwrap() ^= 1,
            AlertDescription::BadRecordMac,
        ),
        (|out| out[2] = 4, AlertDescription::BadRecordMac),
        (|out| out[3] = 0x42, AlertDescription::RecordOverflow),
        (|out| out[0] = 20, AlertDescription::UnexpectedMessage),
    ];
    for (change, alert) in tamper {
        let (mut client, stream) = TestClient::open(SUITES[0], &config).await;
        let (mut read, mut write) = stream.into_split();
        let mut out = client.sealed(b"good");
        let mut bad = client.sealed(b"bad");
        change(&mut bad);
        out.extend(bad);
        client.tcp.write_all(&out).await.unwrap();
        let mut space = vec![0; BUFFER];
        let count = read.read(&mut space).await.unwrap();
        assert_eq!(space[..count], *b"good", "what came before is heard");
        for _ in 0..2 {
            let error = read.read(&mut space).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert!(write.write_all(b"more").await.is_err());
        assert_eq!(client.alert().await, Error::AlertReceived(alert));
    }
}

#[tokio::test]
async fn both_sides_say_when_they_end() {
    let config = server();
    let (mut client, stream) = TestClient::open(SUITES[0], &config).await;
    let (mut read, mut write) = stream.into_split();
    client.send(b"last").await;
    client.tls.send_close_notify();
    let out = client.out();
    client.tcp.write_all(&out).await.unwrap();
    assert_eq!(read_all(&mut read, 4, BUFFER).await, b"last");
    assert_eq!(read.read(&mut [0; 9]).await.unwrap(), 0);
    // One direction is closed; the other is not.
    write.write_all(b"still").await.unwrap();
    assert_eq!(client.read(5).await, b"still");
    write.shutdown().await.unwrap();
    while client.fill().await.unwrap() > 0 {}
    assert_eq!(
        client.tls.reader().read(&mut [0; 9]).unwrap(),
        0,
        "close_notify"
    );
}

/// Slabs are sealed where they lie; a socket that takes only a part, and a writer that goes on, lose and double nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slabs_of_producers_and_of_the_writer_arrive_in_order() {
    let config = server();
    let (mut client, stream) = TestClient::open(SUITES[0], &config).await;
    let socket = socket2::SockRef::from(stream.tcp());
    socket.set_send_buffer_size(8 * 1024).unwrap();
    let (_read, write) = stream.into_split();
    let policy = QueuePolicy::new(
        1 << 22,
        Duration::from_secs(60),
        1 << 24,
        Arc::<Counters>::default(),
        Ticks::default(),
    );
    let outbox = Outbox::new(Framing::Length, &policy);
    outbox.set_direct(Arc::new(write.clone()));
    let writer = tokio::spawn(write_out(write, Arc::clone(&outbox)));
    let sender = Arc::clone(&outbox);
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    for round in 0..300_usize {
        // From one small message to a full slab and more.
        for number in 0..=round % 60 {
            let message = numbers(1 + (round * 37 + number * 11) % 1400);
            sender.push(&message).unwrap();
            expected.extend((message.len() as u16).to_be_bytes());
            expected.extend(message);
        }
        sender.flush();
        if round % 4 == 0 {
            let due = expected.len() - got.len();
            got.extend(client.read(due).await);
            assert!(got == expected, "round {round}");
        }
    }
    got.extend(client.read(expected.len() - got.len()).await);
    assert!(got == expected);
    outbox.abort();
    writer.await.unwrap();
}
