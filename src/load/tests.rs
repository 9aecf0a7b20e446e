//! Whole loads, through a plain TCP forwarder of the test's own: what a load counts is what has passed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::{Load, LoadError, Report, Settings, Target, execute};
use crate::auth::Secret;

/// Passes each connection on to `back`, for as long as the test runs.
fn forwarder(back: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let front = listener.local_addr().unwrap();
    thread::spawn(move || {
        for incoming in listener.incoming() {
            let (incoming, outgoing) = (incoming.unwrap(), TcpStream::connect(back).unwrap());
            for (mut from, mut to) in [
                (incoming.try_clone().unwrap(), outgoing.try_clone().unwrap()),
                (outgoing, incoming),
            ] {
                thread::spawn(move || {
                    // Ends when either side does; the load decides when.
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    front
}

fn short(load: Load) -> Settings {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let back = free.local_addr().unwrap();
    let mut settings = Settings::new(
        load,
        Target::Proxy {
            front: forwarder(back),
            back,
        },
    );
    settings.pairs = 3;
    settings.peers = 20;
    settings.warmup = Duration::from_millis(50);
    settings.duration = Duration::from_millis(300);
    settings.pids = vec![std::process::id()];
    settings
}

fn assert_all_came(report: &Report) {
    assert!(report.messages.unwrap() > 0, "{report}");
    assert!(report.sent.unwrap() >= report.messages.unwrap(), "{report}");
    assert_eq!(report.lost, Some(0), "{report}");
    assert_eq!(report.reordered, Some(0), "{report}");
    assert_eq!(report.ended, Some(0), "{report}");
}

#[test]
fn flow_counts_what_passes() {
    for batch in [1, 16] {
        let report = execute(&Settings {
            batch,
            ..short(Load::Flow)
        })
        .unwrap();
        assert_all_came(&report);
        assert!(report.relay_cpu_us_per_message.is_some());
        assert!(report.own_cpu_us_per_message.unwrap() > 0.0, "{report}");
        assert!(report.latency.is_none());
        let bits = report.messages_per_second.unwrap() * 1280.0 * 8.0;
        assert!(
            (report.bits_per_second.unwrap() / bits - 1.0).abs() < 1e-6,
            "{report}"
        );
    }
}

#[test]
fn flood_through_a_lossless_path_loses_nothing() {
    assert_all_came(&execute(&short(Load::Flood)).unwrap());
}

#[test]
fn paced_keeps_its_rate_and_records_each_latency() {
    let report = execute(&Settings {
        duration: Duration::from_secs(1),
        ..short(Load::Paced)
    })
    .unwrap();
    assert_all_came(&report);
    let latency = report.latency.unwrap();
    assert_eq!(Some(latency.samples), report.messages);
    // A loopback takes some microseconds, and a beat that was held up does not vanish.
    assert!(
        latency.p50 > 1.0 && latency.max >= latency.p99 && latency.p99 >= latency.p50,
        "{latency}"
    );
    let rate = report.messages_per_second.unwrap();
    assert!(
        (300.0..=900.0).contains(&rate),
        "3 pairs at 200 a second made {rate}"
    );
}

#[test]
fn idle_peers_stay_and_are_weighed() {
    let report = execute(&short(Load::Idle)).unwrap();
    assert_eq!((report.peers, report.ended), (Some(20), Some(0)));
    assert!(report.relay_kib.unwrap() >= 100.0, "{report}");
}

#[test]
fn churn_connects_again_and_again() {
    for concurrency in [1, 4] {
        let report = execute(&Settings {
            concurrency,
            source_addresses: 3,
            ..short(Load::Churn)
        })
        .unwrap();
        assert!(report.connects.unwrap() > 10, "{report}");
        assert!(report.relay_cpu_us_per_connect.unwrap() > 0.0, "{report}");
    }
}

#[test]
fn nobody_listens_is_an_error_that_says_where() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let target = Target::Relay {
        address,
        host: address.to_string(),
        route: "/relay".to_owned(),
        secret: Secret::new("x"),
    };
    let error = execute(&Settings::new(Load::Flow, target)).unwrap_err();
    assert!(
        matches!(error, LoadError::Connect { address: named, .. } if named == address),
        "{error}"
    );
    assert!(!error.is_usage());
}

#[test]
fn stall_needs_a_relay() {
    assert!(execute(&short(Load::Stall)).unwrap_err().is_usage());
}
