//! Ports for programs that must be told theirs before they start.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use parking_lot::Mutex;
use rand::RngExt as _;
use socket2::{Domain, Socket, Type};

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Ports at which nobody listens: from below those that the kernel gives to whoever dials, and each only once, so that nobody
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
        if GIVEN.lock().insert(port) && is_free(port) {
            return port;
        }
    }
}

/// Binds, but does not listen, so as to be in no listener's way: a program that another test starts just now has what is open here,
/// too, until its `exec`.
fn is_free(port: u16) -> bool {
    let bind = |domain, any: SocketAddr| {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&any.into())
    };
    // Without IPv6 there is only the other.
    bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into())
        .or_else(|_| bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into()))
        .is_ok()
}
