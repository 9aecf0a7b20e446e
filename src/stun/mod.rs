//! The STUN server (RFC 8489, binding requests over UDP): tells a peer the address that the internet sees it by.
//!
//! Owns what is answered (`answer`), how often (`limit`) and the loop over a socket. It knows no peers and no
//! relay, and it never sends anything but one answer to one question, so that a forged source address gains an
//! attacker next to nothing.

mod answer;
mod limit;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};
use tracing::{debug, trace};

use crate::telemetry::instruments::Instruments;
use crate::telemetry::log_limit::log_rarely;
use answer::{ANSWER_MAX, Ignored, QUESTION_MAX, answer};
use limit::Limiter;

/// How long to wait when a socket fails for a reason that is not one datagram's.
const PAUSE: Duration = Duration::from_millis(100);

/// Every value of the label `result` of `relay_stun_requests_total`.
pub(crate) const RESULTS: [&str; 7] = [
    "answered",
    "unknown_attribute",
    "malformed",
    "unsupported",
    "too_long",
    "limited",
    "send_failed",
];

/// Answers what comes to `socket`, for ever. Cancel-safe: a question that is being answered may stay without an answer.
pub(crate) async fn serve(socket: UdpSocket, instruments: Instruments) {
    let mut limiter = Limiter::new(Instant::now());
    // One byte more than is read, so that a longer datagram is seen to be one.
    let mut question = [0; QUESTION_MAX + 1];
    let mut room = [0; ANSWER_MAX];
    loop {
        match socket.recv_from(&mut question).await {
            Ok((length, from)) => {
                let reply = reply(&question[..length], from, &mut limiter, &mut room);
                let result = match reply {
                    // A full socket buffer means that there are more answers than the link takes: clients ask again.
                    Ok((result, length)) => match socket.try_send_to(&room[..length], from) {
                        Ok(_) => result,
                        Err(error) => {
                            debug!(client.address = %from, %error, "answer not sent");
                            "send_failed"
                        }
                    },
                    Err(ignored) => {
                        trace!(client.address = %from, reason = ignored.reason(), "not answered");
                        ignored.reason()
                    }
                };
                instruments.stun_request(result);
            }
            // What the kernel heard about an earlier answer: nobody listens there any more.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                log_rarely!(warn, instruments.log_limit(), "receive", %error, "cannot read STUN requests");
                sleep(PAUSE).await;
            }
        }
    }
}

fn reply(
    question: &[u8],
    from: SocketAddr,
    limiter: &mut Limiter,
    room: &mut [u8; ANSWER_MAX],
) -> Result<(&'static str, usize), Ignored> {
    // First, so that a flood costs one look into a table and no parsing.
    if !limiter.allows(from.ip().to_canonical(), Instant::now()) {
        return Err(Ignored::Limited);
    }
    answer(question, from, room)
}
