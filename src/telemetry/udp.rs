//! What the kernel throws away of what came for our UDP sockets, because it was not read in time: nobody else says so.
//!
//! Linux counts it for each socket, in `/proc/net/udp`. Read when somebody asks for the metrics, never in between.

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use super::names;

/// A UDP socket, by the number that the kernel's tables have for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UdpInode(u64);

impl UdpInode {
    /// None where the system has no such number.
    #[cfg(target_os = "linux")]
    pub(crate) fn of(socket: impl std::os::fd::AsFd) -> Option<Self> {
        Some(Self(rustix::fs::fstat(socket).ok()?.st_ino))
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn of<S>(_socket: S) -> Option<Self> {
        None
    }
}

/// Shows what is dropped of the datagrams for these sockets, each with the name of the server that it belongs to.
pub(crate) fn observe_drops(meter: &Meter, sockets: Vec<(&'static str, UdpInode)>) {
    if sockets.is_empty() {
        return;
    }
    meter
        .u64_observable_counter(names::UDP_DROPS)
        .with_description(
            "Datagrams that the kernel dropped before the relay could read them, by server and reason.",
        )
        .with_callback(move |observer| {
            for (server, drops) in drops(&sockets, &tables()) {
                let labels = [
                    KeyValue::new(names::SERVER, server),
                    KeyValue::new(names::REASON, "receive_buffer_full"),
                ];
                observer.observe(drops, &labels);
            }
        })
        .build();
}

/// The kernel's tables of IPv4 and of IPv6.
fn tables() -> String {
    let table = |path| std::fs::read_to_string(path).unwrap_or_default();
    table("/proc/net/udp") + &table("/proc/net/udp6")
}

/// What was dropped for each server, all of its sockets together.
fn drops(sockets: &[(&'static str, UdpInode)], tables: &str) -> Vec<(&'static str, u64)> {
    let mut dropped: Vec<(&'static str, u64)> = Vec::new();
    for (inode, drops) in tables.lines().filter_map(row) {
        let Some(&(server, _)) = sockets.iter().find(|(_, ours)| ours.0 == inode) else {
            continue;
        };
        match dropped.iter_mut().find(|(known, _)| *known == server) {
            Some((_, sum)) => *sum += drops,
            None => dropped.push((server, drops)),
        }
    }
    dropped
}

/// Number and drops in one line of a table: the tenth word and the last of thirteen. A head has other words there.
fn row(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_ascii_whitespace();
    let inode = words.nth(9)?.parse().ok()?;
    let drops = words.nth(2)?.parse().ok()?;
    Some((inode, drops))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops             
  412: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 48213 2 0000000000000000 17        
  413: 00000000:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 48214 2 0000000000000000 4         
 1413: 00000000:1F92 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 48215 2 0000000000000000 0         
";

    #[test]
    fn drops_are_summed_for_each_server_and_others_are_none_of_ours() {
        let ours = [("stun", 48_214), ("stun", 48_213), ("quic", 48_215)];
        let ours = ours.map(|(server, inode)| (server, UdpInode(inode)));
        let mut dropped = drops(&ours, TABLE);
        dropped.sort_unstable();
        assert_eq!(dropped, [("quic", 0), ("stun", 21)]);
        assert_eq!(drops(&[("quic", UdpInode(1))], TABLE), []);
    }

    proptest! {
        #[test]
        fn takes_any_text(text in ".{0,200}") {
            drops(&[("quic", UdpInode(0))], &text);
        }
    }
}
