//! On the reference every FWD is two writes. Here a batch of them is one, made by the producer itself when the link is idle.

use super::*;
use crate::outbox::TryWrite;
use crate::proto::cluster::parse;

/// Writes down each write.
#[derive(Default)]
struct Writes(Mutex<Vec<Vec<u8>>>);

impl TryWrite for Writes {
    fn try_write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().push(bytes.to_vec());
        Ok(bytes.len())
    }
}

/// The writer's socket, whose writes are written down, too.
struct Socket(Arc<Writes>);

impl tokio::io::AsyncWrite for Socket {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(self.0.try_write(bytes))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn fault_10_a_batch_that_the_writer_sends_is_one_write_too() {
    let network = Network::default();
    let address: SocketAddr = "10.0.0.1:7090".parse().unwrap();
    let writes = Arc::new(Writes::default());
    let (here, there) = tokio::io::duplex(1 << 20);
    let mut stream = PodStream::new(there, None);
    // As over TLS: there is no socket that a producer could write to itself.
    stream.write = Box::new(Socket(Arc::clone(&writes)));
    let accept = network.listen(address);
    network.0.lock()[&address].send(stream).unwrap();
    let mut pod = Pod::start(address, accept, network.dialer(), Options::default());
    let mut raw = Raw(here);
    raw.hello("10.0.0.2:7090", "").await;
    raw.send(&crate::proto::cluster::PONG).await;
    pod.until(is_ours).await;
    let link = pod.link().await;
    // Its HELLO is out.
    tokio::time::sleep(Duration::from_millis(1)).await;
    writes.0.lock().clear();
    for number in 0..500 {
        link.forward(FrameType::Forward, &bob(), &message(number))
            .unwrap();
    }
    link.flush();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(pod.counters.forwarded_count(), 500);
    assert_eq!(writes.0.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn fault_10_a_batch_of_messages_is_one_write() {
    let network = Network::default();
    let address: SocketAddr = "10.0.0.1:7090".parse().unwrap();
    let writes = Arc::new(Writes::default());
    let (here, there) = tokio::io::duplex(1 << 20);
    let mut stream = PodStream::new(there, None);
    stream.direct = Some(Arc::clone(&writes) as Arc<dyn TryWrite>);
    let accept = network.listen(address);
    network.0.lock()[&address].send(stream).unwrap();
    let pod = Pod::start(address, accept, network.dialer(), Options::default());
    let mut raw = Raw(here);
    raw.hello("10.0.0.2:7090", "").await;
    raw.expect(FrameType::Hello).await;
    raw.expect(FrameType::Ping).await;
    let link = pod.link().await;
    for number in 0..500 {
        link.forward(FrameType::Forward, &bob(), &message(number))
            .unwrap();
    }
    link.flush();
    // 500 frames of 81 bytes fit in one slab.
    let writes = writes.0.lock();
    assert_eq!(writes.len(), 1);
    let mut rest = &writes[0][..];
    for number in 0..500 {
        let raw = next_frame(rest).unwrap();
        let (frame, later) = rest.split_at(raw.len());
        let expected = message(number);
        assert_eq!(
            parse(raw.kind, &frame[FRAME_HEADER_LEN..]),
            Ok(Frame::Forward {
                destination: bob(),
                message: &expected
            })
        );
        rest = later;
    }
    assert!(rest.is_empty());
    assert_eq!(pod.counters.forwarded_count(), 500);
}
