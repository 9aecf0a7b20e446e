//! Limits under a paused clock, and against a model that remembers everything.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::metrics::noop::NoopMeterProvider;
use proptest::prelude::*;

use super::table::REMEMBERED_MAX;
use super::*;
use crate::telemetry::counters::Counters;

fn admission(limits: Limits) -> Admission {
    let meter = NoopMeterProvider::new().meter("test");
    let counters = Arc::<Counters>::default();
    Admission::new(limits, &Instruments::new(&meter, &counters, &["ws"]))
}

fn client(ip: &str) -> RemoteAddr {
    SocketAddr::new(ip.parse().unwrap(), 4000).into()
}

/// How many of so many attempts get a place; all are given back at once.
fn attempts(admission: &Admission, from: &str, count: usize) -> usize {
    (0..count)
        .filter(|_| admission.admit(client(from)).is_ok())
        .count()
}

#[tokio::test(start_paused = true)]
async fn an_address_may_bring_back_all_it_may_have_and_then_has_its_rate() {
    let limits = Limits::default();
    let admission = admission(limits);
    let mesh: Vec<_> = (0..20_000)
        .filter_map(|_| admission.admit(client("192.0.2.1")).ok())
        .collect();
    assert_eq!(mesh.len(), 16_384);
    assert_eq!(admission.open(), 16_384);
    let refusal = admission.admit(client("192.0.2.1")).unwrap_err();
    assert_eq!(refusal, Refusal::ConnectionsPerAddress);
    assert_eq!(admission.open(), 16_384, "who is refused holds no place");
    assert!(admission.admit(client("192.0.2.2")).is_ok());
    drop(mesh);
    assert_eq!(admission.open(), 0);
    let refusal = admission.admit(client("192.0.2.1")).unwrap_err();
    assert_eq!(refusal, Refusal::HandshakeRate);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(attempts(&admission, "192.0.2.1", 5000), 1000);
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(attempts(&admission, "192.0.2.1", 20_000), 16_384);
}

#[tokio::test(start_paused = true)]
async fn all_connections_together_have_a_limit_that_clones_of_a_permit_do_not_touch() {
    let admission = admission(Limits {
        connections: 2,
        ..Limits::default()
    });
    let first = admission.admit(client("192.0.2.1")).unwrap();
    let _second = admission.admit(RemoteAddr::unknown()).unwrap();
    let refusal = admission.admit(client("192.0.2.3")).unwrap_err();
    assert_eq!(refusal, Refusal::Connections);
    let clone = first.clone();
    drop(first);
    assert!(admission.admit(client("192.0.2.3")).is_err());
    drop(clone);
    assert!(admission.admit(client("192.0.2.3")).is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_is_behind_a_proxy_counts_once_the_proxy_has_said_so() {
    let admission = admission(Limits {
        connections_per_address: 2,
        handshake_rate_per_address: 1,
        ..Limits::default()
    });
    let places: Vec<_> = (0..10)
        .map(|_| admission.admit(RemoteAddr::unknown()).unwrap())
        .collect();
    assert!(places[0].identify(client("198.51.100.1")).is_ok());
    assert!(places[0].identify(client("198.51.100.1")).is_ok(), "again");
    assert!(places[1].identify(client("198.51.100.1")).is_ok());
    let third = places[2].identify(client("198.51.100.1"));
    assert_eq!(third, Err(Refusal::ConnectionsPerAddress));
    // Who turns out to be somebody else leaves a place behind, but no burst.
    assert!(places[1].identify(client("198.51.100.2")).is_ok());
    let fourth = places[3].identify(client("198.51.100.1"));
    assert_eq!(fourth, Err(Refusal::HandshakeRate));
    drop(places);
    assert_eq!(admission.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn zero_lifts_a_limit() {
    let admission = admission(Limits {
        connections: 0,
        connections_per_address: 0,
        handshakes: 0,
        handshake_rate_per_address: 0,
    });
    assert_eq!(attempts(&admission, "192.0.2.1", 50_000), 50_000);
}

fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn one_address_has_a_sixteenth_of_the_handshakes_and_its_others_take_turns() {
    let admission = admission(Limits::default());
    let (many, other) = (client("192.0.2.1"), client("192.0.2.2"));
    let mut begun = Vec::new();
    for _ in 0..1024 {
        let permit = admission.admit(many).unwrap();
        permit.try_begin_handshake(many).unwrap();
        permit.try_begin_handshake(many).unwrap();
        begun.push(permit);
    }
    assert_eq!(admission.handshakes(), 1024);
    let next = admission.admit(many).unwrap();
    let refusal = next.try_begin_handshake(many).unwrap_err();
    assert_eq!(refusal, Refusal::HandshakesPerAddress);
    let in_vain = next.begin_handshake(many, within(10)).await;
    assert_eq!(in_vain, Err(Refusal::HandshakesPerAddress));
    assert_eq!(admission.handshakes_waiting(), 0);
    admission
        .admit(other)
        .unwrap()
        .try_begin_handshake(other)
        .unwrap();
    // In the order in which they came, and one for each that is done.
    let waits = |permit: Permit| async move { permit.begin_handshake(many, within(10)).await };
    let first = tokio::spawn(waits(next.clone()));
    tokio::task::yield_now().await;
    let later = admission.admit(many).unwrap();
    let second = tokio::spawn(waits(later));
    tokio::task::yield_now().await;
    assert_eq!(admission.handshakes_waiting(), 2);
    begun[7].end_handshake();
    assert_eq!(first.await.unwrap(), Ok(()));
    assert_eq!(admission.handshakes_waiting(), 1);
    assert_eq!(admission.handshakes(), 1024);
    // Who goes away takes nobody's turn with him.
    second.abort();
    assert!(second.await.is_err());
    drop(begun);
    assert_eq!(admission.handshakes(), 1, "the one that waited");
    drop(next);
    assert_eq!(admission.handshakes(), 0);
    assert_eq!(admission.open(), 0);
    let again = admission.admit(many).unwrap();
    again.try_begin_handshake(many).unwrap();
}

#[tokio::test(start_paused = true)]
async fn all_handshakes_together_have_a_limit_also_those_without_an_address_or_a_place() {
    let admission = admission(Limits {
        handshakes: 3,
        ..Limits::default()
    });
    let unknown = RemoteAddr::unknown();
    let behind = admission.admit(unknown).unwrap();
    behind.try_begin_handshake(unknown).unwrap();
    let unplaced = admission.unplaced();
    unplaced.try_begin_handshake(client("192.0.2.1")).unwrap();
    let third = admission.admit(client("192.0.2.1")).unwrap();
    third
        .begin_handshake(client("192.0.2.1"), within(1))
        .await
        .unwrap();
    let fourth = admission.admit(client("192.0.2.1")).unwrap();
    let refusal = fourth.try_begin_handshake(client("192.0.2.1"));
    assert_eq!(refusal, Err(Refusal::Handshakes));
    let refusal = fourth.begin_handshake(client("192.0.2.1"), within(1)).await;
    assert_eq!(refusal, Err(Refusal::Handshakes));
    assert_eq!(admission.open(), 3);
    drop(unplaced);
    fourth.try_begin_handshake(client("192.0.2.1")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handshake_behind_a_proxy_is_one_of_its_clients_share_or_waits_once_that_is_known() {
    let admission = admission(Limits {
        handshakes: 1024,
        ..Limits::default()
    });
    let one = client("198.51.100.1");
    let mut places = Vec::new();
    for number in 1..=66 {
        let permit = admission.admit(RemoteAddr::unknown()).unwrap();
        permit.try_begin_handshake(RemoteAddr::unknown()).unwrap();
        permit.identify(one).unwrap();
        assert_eq!(admission.handshakes(), number.min(64));
        places.push(permit);
    }
    let (waits, other) = (places.pop().unwrap(), places.pop().unwrap());
    other.identify(client("198.51.100.2")).unwrap();
    other.try_begin_handshake(client("198.51.100.2")).unwrap();
    let in_vain = waits.begin_handshake(one, within(5)).await;
    assert_eq!(in_vain, Err(Refusal::HandshakesPerAddress));
    places[1].end_handshake();
    waits.begin_handshake(one, within(5)).await.unwrap();
    assert_eq!(admission.handshakes(), 65);
    // Who turns out to be somebody else leaves a turn behind.
    places[0].identify(client("198.51.100.3")).unwrap();
    let permit = admission.admit(one).unwrap();
    permit.try_begin_handshake(one).unwrap();
    drop((places, permit, waits, other));
    assert_eq!((admission.open(), admission.handshakes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn all_networks_of_an_ipv6_site_have_a_quarter_together() {
    let admission = admission(Limits {
        handshakes: 1024,
        ..Limits::default()
    });
    let network = |site: u128, network: u128| {
        let ip = Ipv6Addr::from((0x2001_0db8 << 96) | (site << 80) | (network << 64) | 1);
        RemoteAddr::from(SocketAddr::new(IpAddr::V6(ip), 1))
    };
    let begin = |client| {
        let permit = admission.admit(client).unwrap();
        permit.try_begin_handshake(client).map(|()| permit)
    };
    let mut begun = Vec::new();
    for number in 0..256 {
        begun.push(begin(network(1, number % 8)).unwrap());
    }
    let late = network(1, 9);
    assert_eq!(begin(late).unwrap_err(), Refusal::HandshakesPerAddress);
    begin(network(2, 9)).unwrap();
    let waits = admission.admit(late).unwrap();
    let permit = waits.clone();
    let waiting = tokio::spawn(async move { permit.begin_handshake(late, within(5)).await });
    tokio::task::yield_now().await;
    assert_eq!(admission.handshakes_waiting(), 1);
    begun.pop();
    waiting.await.unwrap().unwrap();
    assert_eq!(admission.handshakes(), 256);
    drop((begun, waits));
    assert_eq!((admission.open(), admission.handshakes()), (0, 0));
    assert!(admission.0.table.lock().has_no_line());
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded_and_nobody_is_refused_for_it() {
    let admission = admission(Limits::default());
    let peers: Vec<_> = ["192.0.2.1", "192.0.2.2"]
        .map(|ip| admission.admit(client(ip)).unwrap())
        .into();
    for number in 0..3 * REMEMBERED_MAX as u128 {
        let ip = Ipv6Addr::from((0x2001_0db8 << 96) | (number << 64));
        let address = SocketAddr::new(IpAddr::V6(ip), 1);
        admission.admit(address.into()).unwrap();
        assert!(admission.0.table.lock().len() <= REMEMBERED_MAX + 4);
    }
    drop(peers);
    assert_eq!(admission.open(), 0);
}

proptest! {
    /// As a table that forgets nothing and counts in whole tokens.
    #[test]
    fn counts_as_a_model_does(
        steps in proptest::collection::vec((0_u8..4, 0_u64..400, any::<bool>()), 1..300),
        connections in 1_usize..6,
        rate in 1_u32..20,
        burst in 1_u32..20,
    ) {
        let mut table = Table::new(connections, [1, 1], rate, burst);
        let refill = 1_000_000_000 / u64::from(rate);
        let mut now = 0_u64;
        // Address, to its connections and the times at which each token taken is there again.
        let mut model: HashMap<u8, (usize, u64)> = HashMap::new();
        for (address, milliseconds, leaves) in steps {
            now += milliseconds * 1_000_000;
            let source = Source::from(IpAddr::from([192, 0, 2, address]));
            let (open, debt_until) = model.entry(address).or_default();
            if leaves {
                *open = open.saturating_sub(1);
                table.leave(source);
                continue;
            }
            let owed = debt_until.saturating_sub(now);
            let expected = if *open >= connections {
                Err(Refusal::ConnectionsPerAddress)
            } else if owed + refill > refill * u64::from(burst) {
                Err(Refusal::HandshakeRate)
            } else {
                *open += 1;
                *debt_until = now + owed + refill;
                Ok(())
            };
            prop_assert_eq!(table.enter(source, Duration::from_nanos(now)), expected);
        }
    }
}
