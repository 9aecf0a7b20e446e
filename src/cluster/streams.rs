//! What all streams of this pod share, and how a stream becomes a link.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::Meter;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceBuilder;
use tracing::{debug, info, warn};

use super::dial::{DIAL_TIMEOUT, Dial, Dialer};
use super::discovery::Discovered;
use super::fabric::Fabric;
use super::hello::{
    ANSWER_WAIT, First, GreetError, HELLO_TIMEOUT, Identity, first_frame, return_to_sender,
    split_hello, whole_frame,
};
use super::inlet::Inlet;
use super::link::{self, Link};
use super::link_metrics::LinkMetrics;
use super::links::{AlreadyLinked, Links};
use super::listen::{self, Accept};
use super::reader::FrameReader;
use super::session::Session;
use super::stream::PodStream;
use super::tls::{HANDSHAKE_RECORD, PodTls, TlsDialLayer};
use crate::crosspod::PodAddr;
use crate::outbox::QueuePolicy;
use crate::proto::cluster::hello::HelloRefusal;
use crate::proto::cluster::{FRAME_HEADER_LEN, PING};
use crate::stack::drain::{Drain, Watch};
use crate::telemetry::log_limit::{LogLimit, log_rarely};

/// How long all streams together may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// Shared by the listener, the dialers and the sessions.
pub(super) struct Streams {
    pub(super) identity: Identity,
    pub(super) links: Arc<Links>,
    pub(super) metrics: LinkMetrics,
    pub(super) policy: Arc<QueuePolicy>,
    pub(super) fabric: Arc<dyn Fabric>,
    /// Whether a pod that has not proven the secret may carry peers all the same.
    pub(super) allow_one_way: bool,
    pub(super) stop: Drain,
    /// What keeps whoever reaches the port from filling the log.
    pub(super) log_limit: LogLimit,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("own", &self.identity.own.0)
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}

/// What streams need to start.
pub(super) struct StreamsConfig {
    pub(super) identity: Identity,
    pub(super) policy: Arc<QueuePolicy>,
    pub(super) meter: Meter,
    pub(super) allow_one_way: bool,
    pub(super) tls: Option<PodTls>,
    pub(super) accept: Box<dyn Accept>,
    pub(super) dial: Dial,
    /// The longest pause between two tries to reach a pod: the discovery interval.
    pub(super) backoff_most: Duration,
    /// Where the chance in those pauses comes from.
    pub(super) seed: u64,
}

/// Who is at the other end, once the first words are said.
struct Greeted {
    pod: PodAddr,
    /// It has shown that it is one of ours.
    is_ours: bool,
    /// It has proven the secret, or need not.
    carries_peers: bool,
    expects_answer: bool,
    /// What came behind its first words.
    already_read: Vec<u8>,
}

impl Streams {
    /// Listens, and dials what is discovered, until [`stop`](Self::stop).
    pub(super) fn start(
        config: StreamsConfig,
        fabric: Arc<dyn Fabric>,
        discovered: watch::Receiver<Discovered>,
    ) -> Arc<Self> {
        let own = config.identity.own.clone();
        let links = Arc::new(Links::new(own, Arc::clone(&fabric)));
        let streams = Arc::new(Self {
            metrics: LinkMetrics::new(&config.meter, &links),
            identity: config.identity,
            links,
            policy: config.policy,
            fabric,
            allow_one_way: config.allow_one_way,
            stop: Drain::default(),
            log_limit: LogLimit::default(),
        });
        let dial = ServiceBuilder::new()
            // The whole of it, TLS included.
            .timeout(DIAL_TIMEOUT)
            .option_layer(config.tls.clone().map(TlsDialLayer))
            .service(config.dial);
        let dialer = Dialer {
            streams: Arc::clone(&streams),
            dial: Dial::new(dial),
            backoff_most: config.backoff_most,
            seed: config.seed,
        };
        tokio::spawn(dialer.run(discovered));
        tokio::spawn(listen::run(Arc::clone(&streams), config.accept, config.tls));
        streams
    }

    /// Closes all streams once what is queued has been written, and waits for that, but not for long.
    pub(super) async fn stop(&self) {
        self.stop.start();
        if timeout(STOP_LIMIT, self.stop.done()).await.is_err() {
            warn!("streams to other pods did not end in time");
        }
    }

    pub(super) fn stop_watch(&self) -> Watch {
        self.stop.watch()
    }

    /// The verdict on the payload of a HELLO in answer to ours, early or late; refusals are counted. Our own proves nothing: whoever
    /// got it can send it back.
    pub(super) fn judge_answer(&self, payload: &[u8]) -> Result<PodAddr, GreetError> {
        match self.identity.judge(payload) {
            Ok(pod) if pod == self.identity.own => Err(GreetError::Ourselves),
            Ok(pod) => Ok(pod),
            Err(refusal) => {
                self.metrics.hello_refused(refusal);
                Err(GreetError::Refused(refusal))
            }
        }
    }

    /// Says HELLO on a stream that this pod dialed, and makes it a link. Waits for the answer, which a stock pod never gives.
    pub(super) async fn dialed(
        self: &Arc<Self>,
        address: SocketAddr,
        mut stream: PodStream,
    ) -> Result<Result<Arc<Link>, AlreadyLinked>, GreetError> {
        let mut hello = self.identity.hello();
        let _greeting = self.links.greet(address, &hello);
        // Tells one of ours at once that we are, too.
        hello.extend_from_slice(&PING);
        let sent = timeout(HELLO_TIMEOUT, async {
            stream.write.write_all(&hello).await?;
            stream.write.flush().await
        });
        sent.await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(GreetError::Send)?;
        let mut bytes = Vec::new();
        let first = timeout(ANSWER_WAIT, async {
            match first_frame(&mut stream.read, &mut bytes).await {
                // Whoever speaks something else says a few bytes of it, and closes.
                First::Other => whole_frame(&mut stream.read, &mut bytes).await,
                first => first,
            }
        });
        let first = first.await;
        let greeted = match first {
            Ok(First::Hello { payload }) => {
                let hello = split_hello(&mut bytes, payload);
                let pod = self.judge_answer(&hello[FRAME_HEADER_LEN..])?;
                if pod.0 != address.to_string() {
                    self.links.set_alias(address, &pod);
                }
                Greeted {
                    pod,
                    is_ours: true,
                    carries_peers: true,
                    expects_answer: false,
                    already_read: bytes,
                }
            }
            Ok(First::TooLong) => {
                self.metrics.hello_refused(HelloRefusal::Malformed);
                return Err(GreetError::Refused(HelloRefusal::Malformed));
            }
            Ok(First::Nothing) => return Err(GreetError::Closed),
            Ok(First::Cut) => return Err(GreetError::NotAPod),
            Ok(First::Other) | Err(_) => Greeted {
                pod: PodAddr(address.to_string()),
                is_ours: false,
                carries_peers: self.identity.secrets.is_empty() || self.allow_one_way,
                expects_answer: true,
                already_read: bytes,
            },
        };
        Ok(self.adopt(stream, link::Dialer::Us, greeted))
    }

    /// Waits for the HELLO on a stream that another pod dialed, and makes it a link.
    pub(super) async fn accepted(self: &Arc<Self>, mut stream: PodStream) {
        let (mut bytes, remote) = (Vec::new(), stream.remote);
        let (refusal, why) = match first_frame(&mut stream.read, &mut bytes).await {
            First::Hello { payload } => {
                let hello = split_hello(&mut bytes, payload);
                match self.identity.judge(&hello[FRAME_HEADER_LEN..]) {
                    Ok(pod) if pod == self.identity.own => {
                        let is_ourselves = self.links.greets_with(&hello);
                        return_to_sender(stream, &hello).await;
                        if is_ourselves {
                            return debug!("this pod has dialed itself: stream closed");
                        }
                        (HelloRefusal::OwnAddress, None)
                    }
                    Ok(pod) => {
                        let greeted = Greeted {
                            pod,
                            is_ours: false,
                            carries_peers: true,
                            expects_answer: false,
                            already_read: bytes,
                        };
                        // The other end alone knows whether it has dialed twice.
                        let _ = self.adopt(stream, link::Dialer::Them, greeted);
                        return;
                    }
                    Err(refusal) => (refusal, None),
                }
            }
            First::Nothing => return,
            First::Other => {
                let is_tls = bytes.first() == Some(&HANDSHAKE_RECORD);
                let why =
                    is_tls.then_some("it speaks TLS, and this pod has no --cluster-tls-cert-file");
                (HelloRefusal::FirstFrameNotHello, why)
            }
            First::TooLong | First::Cut => (HelloRefusal::Malformed, None),
        };
        self.refuse(remote, refusal, why);
    }

    /// Counts and logs a pod, or whatever it was, that dialed in vain.
    pub(super) fn refuse(
        &self,
        remote: Option<SocketAddr>,
        refusal: HelloRefusal,
        error: Option<&str>,
    ) {
        self.metrics.hello_refused(refusal);
        let remote = remote.map(tracing::field::display);
        log_rarely!(
            warn,
            self.log_limit,
            refusal.reason(),
            network.peer.address = remote,
            error,
            "pod refused: {refusal}"
        );
    }

    fn adopt(
        self: &Arc<Self>,
        stream: PodStream,
        dialer: link::Dialer,
        greeted: Greeted,
    ) -> Result<Arc<Link>, AlreadyLinked> {
        let link = Link::dialed_by(dialer, greeted.pod, &self.policy, greeted.carries_peers);
        if dialer == link::Dialer::Them {
            // The answering HELLO is the first thing the other pod reads, and its PONG tells us whose it is.
            let mut hello = self.identity.hello();
            hello.extend_from_slice(&PING);
            link.control(&hello);
        }
        if let Some(direct) = stream.direct {
            link.outbox().set_direct(direct);
        }
        let sink = Arc::clone(&self.fabric).link_up(&link);
        if let Err(already) = self.links.put(&link) {
            link.abort();
            sink.down(true);
            return Err(already);
        }
        let mut inlet = Inlet::new(&self.links, &link, sink);
        if greeted.is_ours {
            inlet.became_ours();
        } else if dialer == link::Dialer::Us && link.carries_peers() {
            info!(
                relay.pod = link.pod().0,
                "pod connected: it does not answer HELLO, as stock pods do not"
            );
        }
        self.links.settle(link.pod());
        let session = Session {
            streams: Arc::clone(self),
            link: Arc::clone(&link),
            reader: FrameReader::new(stream.read, greeted.already_read),
            inlet,
            expects_answer: greeted.expects_answer,
        };
        tokio::spawn(session.run(stream.write, self.stop.watch()));
        Ok(link)
    }
}
