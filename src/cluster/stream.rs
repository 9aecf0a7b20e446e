//! What a link runs over: a stream of bytes in two halves.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::outbox::{self, TryWrite, set_option};

/// After how long without an acknowledgement the kernel gives a stream up (`TCP_USER_TIMEOUT`), and from when it asks a silent
/// one for a sign of life. That is all there is for stock pods, which answer no PING.
const USER_TIMEOUT: Duration = Duration::from_secs(15);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Unsent bytes that the kernel may hold for a pod: what lies there can neither be dropped for its age nor counted against
/// the budget.
const NOTSENT_LOWAT: u32 = 256 * 1024;

/// What decides how much may be on its way to a pod (`TCP_CONGESTION`), whatever the machine prefers for its clients: BBR takes the
/// turns that pods take on a CPU for the path's speed, and a message costs a tenth more (docs/adr/0074-cubic-between-pods.md).
#[cfg(target_os = "linux")]
const CONGESTION_CONTROL: &str = "cubic";

/// A stream to or from a pod, before anything was said on it.
pub struct PodStream {
    pub(super) read: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) write: Box<dyn AsyncWrite + Send + Unpin>,
    /// Where producers may write to it themselves.
    pub(super) direct: Option<Arc<dyn TryWrite>>,
    /// The other end, for logs and limits.
    pub(super) remote: Option<SocketAddr>,
}

impl PodStream {
    /// Over any stream of bytes.
    #[must_use]
    pub fn new(
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        remote: Option<SocketAddr>,
    ) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self {
            read: Box::new(read),
            write: Box::new(write),
            direct: None,
            remote: canonical(remote),
        }
    }

    /// Over plain TCP.
    ///
    /// # Errors
    /// The runtime cannot watch the socket, or there is no descriptor left for its second half.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        tune(&stream);
        let remote = canonical(stream.peer_addr().ok());
        #[cfg(unix)]
        let (read, write) = super::halves::split(stream.into_std()?)?;
        #[cfg(not(unix))]
        let (read, write) = {
            let (read, write) = stream.into_split();
            (read, crate::outbox::SharedWriteHalf::new(write))
        };
        Ok(Self {
            read: Box::new(read),
            write: Box::new(write.clone()),
            direct: Some(Arc::new(write)),
            remote,
        })
    }
}

impl fmt::Debug for PodStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodStream")
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// A socket for both families calls IPv4 addresses `::ffff:10.0.0.1`.
fn canonical(remote: Option<SocketAddr>) -> Option<SocketAddr> {
    remote.map(|mut remote| {
        remote.set_ip(remote.ip().to_canonical());
        remote
    })
}

/// Sets what a stream between pods wants beyond what every stream does.
fn tune(stream: &TcpStream) {
    outbox::tune(stream, NOTSENT_LOWAT);
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    set_option("SO_KEEPALIVE", socket.set_tcp_keepalive(&keepalive));
    #[cfg(target_os = "linux")]
    {
        let timeout = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
        set_option("TCP_USER_TIMEOUT", timeout);
        let congestion = socket.set_tcp_congestion(CONGESTION_CONTROL.as_bytes());
        set_option("TCP_CONGESTION", congestion);
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// The congestion control of a socket, without the zeros behind its name.
    fn congestion_control(stream: &TcpStream) -> String {
        let name = socket2::SockRef::from(stream).tcp_congestion().unwrap();
        String::from_utf8(name)
            .unwrap()
            .trim_end_matches('\0')
            .to_owned()
    }

    #[tokio::test]
    async fn both_ends_have_the_congestion_control_for_pods_if_the_kernel_does() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialed = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        // Reno is what every kernel has and next to none starts with.
        for stream in [&dialed, &accepted] {
            let set = socket2::SockRef::from(stream).set_tcp_congestion(b"reno");
            set.unwrap();
            tune(stream);
        }
        // A kernel may lack it, or keep it for the privileged.
        let has_it = socket2::SockRef::from(&listener)
            .set_tcp_congestion(CONGESTION_CONTROL.as_bytes())
            .is_ok();
        let expected = if has_it { CONGESTION_CONTROL } else { "reno" };
        assert_eq!(congestion_control(&dialed), expected);
        assert_eq!(congestion_control(&accepted), expected);
    }
}
