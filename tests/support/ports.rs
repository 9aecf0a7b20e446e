//! Ports for programs that must be told theirs before they start.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use parking_lot::Mutex;
use rand::RngExt as _;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Ports that are free for TCP and UDP: from below those that the kernel gives to whoever dials, and each only once, so that nobody
/// takes one before its program does.
pub(crate) fn ports<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| port())
}

/// An address of the loopback with such a port.
pub(crate) fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

fn port() -> u16 {
    loop {
        let port = rand::rng().random_range(12_000..32_000);
        // Without IPv6 there is only the one.
        let tcp = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
        let udp = UdpSocket::bind(("0.0.0.0", port));
        if tcp.is_ok() && udp.is_ok() && GIVEN.lock().insert(port) {
            return port;
        }
    }
}
