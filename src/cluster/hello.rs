//! The first words on a stream: a HELLO from who dials, and one of ours in answer (cluster-protocol.md, *HELLO v2* and fault 11).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::stream::PodStream;
use crate::crosspod::PodAddr;
use crate::proto::cluster::hello::{ClusterSecret, HelloRefusal, check_hello, encode_hello};
use crate::proto::cluster::{FRAME_HEADER_LEN, FrameType, next_frame};
use crate::time::Clock;

/// How long a pod that dialed may take for its HELLO.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a pod that was dialed is waited for before it is taken for a stock pod, which never answers. An answer that comes
/// later still counts.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// The longest HELLO payload that is read: what is known of it has 298 bytes at most, and a later version may append to it.
const HELLO_MAX: usize = 4096;

/// The cluster secrets, to be replaced while the fabric runs. Clones are the same set. `Debug` shows nothing of them.
///
/// All of them are accepted, the first one signs; with none at all HELLOs are unsigned.
#[derive(Debug, Clone, Default)]
pub struct ClusterSecrets(Arc<RwLock<Vec<ClusterSecret>>>);

impl ClusterSecrets {
    /// These secrets.
    #[must_use]
    pub fn new(secrets: Vec<ClusterSecret>) -> Self {
        Self(Arc::new(RwLock::new(secrets)))
    }

    /// Puts these in place of the old ones, from the next HELLO on. Streams that are up stay.
    pub fn set_secrets(&self, secrets: Vec<ClusterSecret>) {
        *self.0.write() = secrets;
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }
}

/// Who we are, as far as other pods are told and judged.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// The address that this pod announces.
    pub(super) own: PodAddr,
    pub(super) secrets: ClusterSecrets,
    pub(super) clock: Clock,
}

impl Identity {
    /// Our HELLO, whole.
    pub(super) fn hello(&self) -> Vec<u8> {
        let secrets = self.secrets.0.read();
        encode_hello(&self.own.0, self.clock.now_unix(), secrets.first())
            .expect("an announced address has at most 255 bytes: the builder has checked it")
    }

    /// The verdict on a HELLO's payload: who sent it.
    pub(super) fn judge(&self, payload: &[u8]) -> Result<PodAddr, HelloRefusal> {
        let secrets = self.secrets.0.read();
        check_hello(payload, &secrets, self.clock.now_unix()).map(canonical)
    }
}

/// One way to write an address: an IPv6 address can be written in many.
pub(super) fn canonical(address: &str) -> PodAddr {
    PodAddr(
        address
            .parse::<SocketAddr>()
            .map_or_else(|_| address.to_owned(), |address| address.to_string()),
    )
}

/// What came first on a stream.
#[derive(Debug)]
pub(super) enum First {
    /// A whole HELLO; `payload` bytes of the buffer behind its header, and whatever came behind.
    Hello { payload: usize },
    /// Something that is no HELLO.
    Other,
    /// A HELLO that is longer than any may be.
    TooLong,
    /// The end, without a word: a TCP probe.
    Nothing,
    /// The end, inside the first frame.
    Cut,
}

/// Reads until it is known what comes first; what was read is in `bytes`. Cancel-safe: nothing that was read is lost.
pub(super) async fn first_frame(read: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> First {
    loop {
        if bytes
            .first()
            .is_some_and(|&kind| kind != FrameType::Hello as u8)
        {
            return First::Other;
        }
        if let Some(raw) = next_frame(bytes) {
            if raw.payload_len > HELLO_MAX {
                return First::TooLong;
            }
            if raw.len() <= bytes.len() {
                return First::Hello {
                    payload: raw.payload_len,
                };
            }
        }
        match read.read_buf(bytes).await {
            Ok(1..) => {}
            Ok(0) | Err(_) if bytes.is_empty() => return First::Nothing,
            Ok(0) | Err(_) => return First::Cut,
        }
    }
}

/// Reads on until what comes first is whole, which is no HELLO; what was read is in `bytes`. Cancel-safe: nothing that was read is lost.
pub(super) async fn whole_frame(read: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> First {
    while next_frame(bytes).is_none_or(|raw| raw.len() > bytes.len()) {
        if let Ok(0) | Err(_) = read.read_buf(bytes).await {
            return First::Cut;
        }
    }
    First::Other
}

/// Takes the HELLO off the front of what was read: the whole frame.
pub(super) fn split_hello(bytes: &mut Vec<u8>, payload: usize) -> Vec<u8> {
    let rest = bytes.split_off(FRAME_HEADER_LEN + payload);
    std::mem::replace(bytes, rest)
}

/// Sends a HELLO back as it came, by which its sender sees that this pod has the same address; nothing new is signed. Waits a moment
/// for the other end to close, so that no reset overtakes it.
pub(super) async fn return_to_sender(mut stream: PodStream, hello: &[u8]) {
    let returned = async {
        stream.write.write_all(hello).await?;
        stream.write.shutdown().await?;
        while stream.read.read(&mut [0; 64]).await? > 0 {}
        io::Result::Ok(())
    };
    // Whatever went wrong, the stream is closed.
    let _ = timeout(ANSWER_WAIT, returned).await;
}

/// Why a pod that was dialed makes no link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum GreetError {
    /// It could not even be sent.
    #[error("HELLO could not be sent: {0}")]
    Send(#[source] io::Error),
    /// It closed the stream after our HELLO, without a word.
    #[error(
        "the pod closed the stream after our HELLO: is this its cluster port, and are its cluster secret, its cluster TLS and its time as here? \
         (A pod that is just being stopped does so, too.)"
    )]
    Closed,
    /// It closed the stream after some bytes that are no frame.
    #[error("the other side closed before it had proved anything: is this a cluster port?")]
    NotAPod,
    /// Its answer does not convince.
    #[error("its HELLO is refused: {0}")]
    Refused(HelloRefusal),
    /// It is this very pod, or says so.
    #[error(
        "whoever is there announces the address of this pod: two pods have one --pod-ip, or this is another address of this pod itself"
    )]
    Ourselves,
}
