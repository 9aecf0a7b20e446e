//! Looking at the first bytes of a connection without taking them.

use std::io;

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Waits until more than `seen` bytes have come and copies to the front of `buffer` as many of all of them as fit in, which
/// must be more than `seen`. How many that are. They stay to be read. Cancel-safe.
///
/// # Errors
/// That of the socket; `UnexpectedEof` if the other side has ended before that.
pub(crate) async fn peek_beyond(
    stream: &TcpStream,
    buffer: &mut [u8],
    seen: usize,
) -> io::Result<usize> {
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let peeked = stream.try_io(Interest::READABLE, || {
            let (count, _) = rustix::net::recv(stream, &mut *buffer, RecvFlags::PEEK)?;
            // Bytes that were there before do not count: the next ones make the stream ready again.
            if count > seen {
                Ok(count)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        });
        match peeked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if ready.is_read_closed() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            result => return result,
        }
    }
}
