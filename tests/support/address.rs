//! Addresses for pods of one test alone.

use std::net::SocketAddr;

/// Some address of the loopback and any port: a pod is dialed as long as its test runs, and the port of one that has stopped may be
/// given to another test.
pub(crate) fn loopback() -> SocketAddr {
    if !cfg!(target_os = "linux") {
        return SocketAddr::from(([127, 0, 0, 1], 0));
    }
    let [a, b, c]: [u8; 3] = rand::random();
    SocketAddr::from(([127, a, b, c.clamp(1, 254)], 0))
}
