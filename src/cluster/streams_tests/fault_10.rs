//! On the reference every FWD is two writes. Here a batch of them is one.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::*;

struct Counting(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn fault_10_a_batch_of_messages_is_one_write() {
    let network = Network::default();
    let address: SocketAddr = "10.0.0.1:7090".parse().unwrap();
    let writes = Arc::new(AtomicUsize::new(0));
    let (here, there) = tokio::io::duplex(1 << 20);
    let counting = PodStream::new(Counting(there, Arc::clone(&writes)), None);
    let accept = network.listen(address);
    network.0.lock()[&address].send(counting).unwrap();
    let pod = Pod::start(address, accept, network.dialer(), Options::default());
    let mut raw = Raw(here);
    raw.hello("10.0.0.2:7090", "").await;
    raw.expect(FrameType::Hello).await;
    raw.expect(FrameType::Ping).await;
    let link = pod.link().await;
    let before = writes.load(Ordering::Relaxed);
    for number in 0..500 {
        link.forward(FrameType::Forward, &bob(), &message(number))
            .unwrap();
    }
    link.flush();
    for number in 0..500 {
        let payload = raw.expect(FrameType::Forward).await;
        assert_eq!(payload[..36], *bob().as_bytes());
        assert_eq!(payload[36..], message(number));
    }
    // 500 frames of 81 bytes fit in one slab.
    assert_eq!(writes.load(Ordering::Relaxed) - before, 1);
}
