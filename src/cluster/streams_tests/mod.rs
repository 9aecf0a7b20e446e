//! Streams between pods in one process: over real TCP where the kernel matters, over memory and a paused clock where time does.

mod fault_03;
mod fault_04;
mod fault_05;
mod fault_09;
mod fault_10;
mod fault_11;
mod fault_12;
mod greeting;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::MeterProvider as _;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tower::service_fn;

use super::dial::{Dial, TcpDial};
use super::discovery::Discovered;
use super::fabric::{Fabric, FrameSink};
use super::hello::{ClusterSecrets, GreetError, Identity};
use super::link::{Dialer, Link};
use super::listen::Accept;
use super::stream::PodStream;
use super::streams::{Streams, StreamsConfig};
use super::tls::PodTls;
use crate::crosspod::PodAddr;
use crate::outbox::QueuePolicy;
use crate::proto::PeerId;
use crate::proto::cluster::hello::{ClusterSecret, HelloRefusal, encode_hello};
use crate::proto::cluster::{FRAME_HEADER_LEN, Frame, FrameType, next_frame};
use crate::proto::peer::encode_transport;
use crate::telemetry::counters::Counters;
use crate::ticks::Ticks;
use crate::time::Clock;

pub(super) const NOW: u64 = 1_786_752_000;

/// What a fabric was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Up(u64),
    Used(u64),
    Ours(u64),
    Frame(u64, String),
    Message(u64, Vec<u8>),
    Down(u64, bool),
}

/// Writes down what it is told.
pub(super) struct Recorder {
    told: mpsc::UnboundedSender<Told>,
    used: watch::Sender<Option<Arc<Link>>>,
}

impl Fabric for Recorder {
    fn link_up(self: Arc<Self>, link: &Arc<Link>) -> Box<dyn FrameSink> {
        let _ = self.told.send(Told::Up(link.number()));
        Box::new(Sink(link.number(), self))
    }

    fn use_link(&self, link: &Arc<Link>) {
        let _ = self.told.send(Told::Used(link.number()));
        self.used.send_replace(Some(Arc::clone(link)));
    }
}

struct Sink(u64, Arc<Recorder>);

impl FrameSink for Sink {
    fn frame(&mut self, frame: Frame<'_>) {
        let _ = self.1.told.send(match frame {
            Frame::Forward { message, .. } => Told::Message(self.0, message.to_vec()),
            frame => Told::Frame(self.0, format!("{frame:?}")),
        });
    }

    fn flush(&mut self) {}

    fn became_ours(&mut self) {
        let _ = self.1.told.send(Told::Ours(self.0));
        // Whoever waits for a link that is ours looks again.
        self.1.used.send_modify(|_| {});
    }

    fn down(self: Box<Self>, replaced: bool) {
        let _ = self.1.told.send(Told::Down(self.0, replaced));
    }
}

/// One pod, as far as streams go.
pub(super) struct Pod {
    pub(super) address: SocketAddr,
    pub(super) streams: Arc<Streams>,
    pub(super) told: mpsc::UnboundedReceiver<Told>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) discovered: watch::Sender<Discovered>,
    pub(super) metrics: prometheus::Registry,
    pub(super) counters: Arc<Counters>,
    pub(super) secrets: ClusterSecrets,
    /// The metrics go with it.
    _provider: opentelemetry_sdk::metrics::SdkMeterProvider,
}

/// How a pod is to be.
#[derive(Default)]
pub(super) struct Options {
    pub(super) secrets: Vec<&'static str>,
    pub(super) allow_one_way: bool,
    pub(super) tls: Option<PodTls>,
    pub(super) queue_bytes: Option<usize>,
    /// In place of the address that it listens on.
    pub(super) announces: Option<SocketAddr>,
}

pub(super) fn cluster_secrets(texts: &[&str]) -> Vec<ClusterSecret> {
    texts
        .iter()
        .filter_map(|text| ClusterSecret::new(text))
        .collect()
}

impl Pod {
    pub(super) fn start(
        address: SocketAddr,
        accept: impl Accept,
        dial: Dial,
        options: Options,
    ) -> Self {
        let (told_sender, told) = mpsc::unbounded_channel();
        let recorder = Arc::new(Recorder {
            told: told_sender,
            used: watch::Sender::new(None),
        });
        let counters = Arc::new(Counters::default());
        let policy = QueuePolicy::new(
            1 << 20,
            Duration::from_secs(10),
            64 << 20,
            Arc::clone(&counters),
            Ticks::default(),
        )
        .for_pods(options.queue_bytes.unwrap_or(8 << 20));
        let metrics = prometheus::Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(metrics.clone())
            .build()
            .unwrap();
        let provider = opentelemetry_sdk::metrics::SdkMeterProvider::builder()
            .with_reader(exporter)
            .build();
        let secrets = ClusterSecrets::new(cluster_secrets(&options.secrets));
        let config = StreamsConfig {
            identity: Identity {
                own: PodAddr(options.announces.unwrap_or(address).to_string()),
                secrets: secrets.clone(),
                clock: Clock::fixed(NOW),
            },
            policy,
            meter: provider.meter("test"),
            allow_one_way: options.allow_one_way,
            tls: options.tls,
            accept: Box::new(accept),
            dial,
            backoff_most: Duration::from_secs(10),
            seed: 1,
        };
        let (discovered, found) = watch::channel(Discovered::default());
        let fabric: Arc<dyn Fabric> = Arc::clone(&recorder) as _;
        Self {
            address,
            streams: Streams::start(config, fabric, found),
            told,
            recorder,
            discovered,
            metrics,
            counters,
            secrets,
            _provider: provider,
        }
    }

    /// On an address of its own.
    pub(super) async fn tcp(options: Options) -> Self {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::start(address, listener, Dial::new(tower_boxed(TcpDial)), options)
    }

    pub(super) fn discovers(&self, pods: &[SocketAddr]) {
        self.discovered.send_replace(Discovered {
            pods: pods.iter().copied().collect::<BTreeSet<_>>(),
            rounds: 1,
        });
    }

    /// The next thing that the fabric is told.
    pub(super) async fn next(&mut self) -> Told {
        within(self.told.recv()).await.expect("a fabric that lives")
    }

    /// Waits until it is told something like this.
    pub(super) async fn until(&mut self, wanted: impl Fn(&Told) -> bool) -> Told {
        loop {
            let told = self.next().await;
            if wanted(&told) {
                return told;
            }
        }
    }

    /// The link that is used, once there is one that is up.
    pub(super) async fn link(&self) -> Arc<Link> {
        let mut used = self.recorder.used.subscribe();
        let link = within(used.wait_for(|link| link.as_ref().is_some_and(|link| link.is_up())))
            .await
            .unwrap();
        Arc::clone(link.as_ref().unwrap())
    }

    /// The value of a metric with this line's beginning.
    pub(super) fn metric(&self, line: &str) -> f64 {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&self.metrics.gather())
            .unwrap();
        text.lines()
            .filter(|there| there.starts_with(line))
            .filter_map(|there| there.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    pub(super) fn rejects(&self, refusal: HelloRefusal) -> f64 {
        let families = self.metrics.gather();
        let family = families
            .iter()
            .find(|family| family.name() == "relay_cluster_hello_rejects_total")
            .expect("the metric is there from the start");
        family
            .get_metric()
            .iter()
            .filter(|metric| {
                metric
                    .get_label()
                    .iter()
                    .any(|label| label.value() == refusal.reason())
            })
            .map(|metric| metric.get_counter().get_value())
            .sum()
    }
}

/// Some address of the loopback and any port: a pod is dialed as long as its test runs, and the port of one that has stopped may be
/// given to another test.
fn loopback() -> SocketAddr {
    if !cfg!(target_os = "linux") {
        return SocketAddr::from(([127, 0, 0, 1], 0));
    }
    let [a, b, c]: [u8; 3] = rand::random();
    SocketAddr::from(([127, a, b, c.clamp(1, 254)], 0))
}

fn tower_boxed<S>(service: S) -> tower::util::MapErr<S, fn(S::Error) -> tower::BoxError>
where
    S: tower::Service<SocketAddr>,
    S::Error: Into<tower::BoxError>,
{
    tower::util::MapErr::new(service, Into::into)
}

/// Waits for what comes at once, or the test is stuck.
pub(super) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("it comes in no time")
}

/// Listens where a pod has listened that is gone, as soon as the kernel lets go of it.
pub(super) async fn listens_again(address: SocketAddr) -> TcpListener {
    within(async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await
}

/// A network in memory: who listens where.
#[derive(Clone, Default)]
pub(super) struct Network(
    Arc<Mutex<std::collections::BTreeMap<SocketAddr, mpsc::UnboundedSender<PodStream>>>>,
);

pub(super) struct MemoryAccept(mpsc::UnboundedReceiver<PodStream>);

impl Accept for MemoryAccept {
    fn poll_accept(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<PodStream>> {
        match std::task::ready!(self.0.poll_recv(cx)) {
            Some(stream) => std::task::Poll::Ready(Ok(stream)),
            None => std::task::Poll::Pending,
        }
    }
}

impl Network {
    pub(super) fn listen(&self, address: SocketAddr) -> MemoryAccept {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().insert(address, sender);
        MemoryAccept(receiver)
    }

    pub(super) fn dial(&self, to: SocketAddr) -> std::io::Result<tokio::io::DuplexStream> {
        let (here, there) = tokio::io::duplex(256 * 1024);
        self.0
            .lock()
            .get(&to)
            .and_then(|pod| pod.send(PodStream::new(there, None)).ok())
            .ok_or(std::io::ErrorKind::ConnectionRefused)?;
        Ok(here)
    }

    pub(super) fn dialer(&self) -> Dial {
        let network = self.clone();
        Dial::new(service_fn(move |to| {
            let network = network.clone();
            async move { Ok(PodStream::new(network.dial(to)?, None)) }
        }))
    }

    pub(super) fn pod(&self, address: &str, options: Options) -> Pod {
        let address = address.parse().unwrap();
        Pod::start(address, self.listen(address), self.dialer(), options)
    }
}

/// The other end of a stream, played by a test.
pub(super) struct Raw<S>(pub(super) S);

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Raw<S> {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    pub(super) async fn hello(&mut self, address: &str, secret: &str) {
        let hello = encode_hello(address, NOW, ClusterSecret::new(secret).as_ref()).unwrap();
        self.send(&hello).await;
    }

    /// The next frame; none at the end of the stream.
    pub(super) async fn frame(&mut self) -> Option<(FrameType, Vec<u8>)> {
        let mut head = [0; FRAME_HEADER_LEN];
        self.0.read_exact(&mut head).await.ok()?;
        let raw = next_frame(&head).unwrap();
        let mut payload = vec![0; raw.payload_len];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((FrameType::from_byte(raw.kind).unwrap(), payload))
    }

    pub(super) async fn expect_any(&mut self) -> FrameType {
        within(self.frame()).await.expect("a frame").0
    }

    pub(super) async fn expect(&mut self, kind: FrameType) -> Vec<u8> {
        let (came, payload) = within(self.frame()).await.expect("a frame");
        assert_eq!(came, kind);
        payload
    }
}

/// A transport message that can be told from others.
pub(super) fn message(number: u32) -> Vec<u8> {
    let mut message = Vec::new();
    encode_transport(
        &PeerId::from_name(b"alice"),
        &number.to_be_bytes(),
        &mut message,
    )
    .unwrap();
    message
}

pub(super) fn number_of(message: &[u8]) -> u32 {
    u32::from_be_bytes(*message.last_chunk().unwrap())
}

pub(super) fn bob() -> PeerId {
    PeerId::from_name(b"bob")
}

pub(super) fn is_ours(told: &Told) -> bool {
    matches!(told, Told::Ours(_))
}
