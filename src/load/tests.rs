//! Whole loads, through a plain TCP forwarder of the test's own: what a load counts is what has passed.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

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

/// Passes on what each connection begins with, by which the load knows it, and nothing of what follows.
fn swallower(back: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let front = listener.local_addr().unwrap();
    thread::spawn(move || {
        for incoming in listener.incoming() {
            let (mut incoming, mut outgoing) =
                (incoming.unwrap(), TcpStream::connect(back).unwrap());
            thread::spawn(move || {
                let mut tag = [0; 8];
                incoming.read_exact(&mut tag).unwrap();
                outgoing.write_all(&tag).unwrap();
                // Ends when the load does.
                let _ = io::copy(&mut incoming, &mut io::sink());
            });
        }
    });
    front
}

/// An address where nobody listens as long as the socket lives, and this process may. The socket listens at no time: a program that
/// another test starts has what is open here until its `exec`.
fn free_address() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

fn short(load: Load) -> Settings {
    let (_held, back) = free_address();
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
    // How many of them came in the measured time is a matter of the machine.
    assert!(report.sent.unwrap() > 0, "{report}");
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
            (report.bits_per_second.unwrap() - bits).abs() <= bits * 1e-6,
            "{report}"
        );
    }
}

#[test]
fn flood_through_a_lossless_path_loses_nothing() {
    assert_all_came(&execute(&short(Load::Flood)).unwrap());
}

#[test]
fn a_load_of_which_nothing_arrives_is_an_error() {
    for load in [Load::Flow, Load::Paced, Load::Flood] {
        let mut settings = short(load);
        let Target::Proxy { front, back } = &mut settings.target else {
            unreachable!("so it is made");
        };
        *front = swallower(*back);
        let error = execute(&settings).unwrap_err();
        assert!(
            matches!(error, LoadError::NothingArrived { sent, .. } if sent > 0),
            "{error}"
        );
        let elsewhere = settings.target.address();
        settings.receivers_on = Some(elsewhere);
        let text = settings.nothing_arrived(1).to_string();
        assert!(text.contains("--receivers-on"), "{text}");
    }
}

#[test]
fn paced_keeps_its_rate_and_records_each_latency() {
    let start = Instant::now();
    let report = execute(&Settings {
        duration: Duration::from_secs(1),
        ..short(Load::Paced)
    })
    .unwrap();
    let lasted = start.elapsed();
    assert_all_came(&report);
    let samples = report.latency.map(|latency| latency.samples);
    assert_eq!(samples.unwrap_or(0), report.messages.unwrap());
    // A loopback takes some microseconds, and a beat that was held up does not vanish.
    if let Some(latency) = report.latency {
        assert!(
            latency.p50 > 1.0 && latency.max >= latency.p99 && latency.p99 >= latency.p50,
            "{latency}"
        );
    }
    // How many a busy machine makes of 600 a second is its own affair; more than the beat allows it cannot be.
    assert!(
        report.sent.unwrap() as f64 <= 600.0 * lasted.as_secs_f64() + 3.0,
        "{report}"
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
            // Each of those who connect does so once, however slow the machine is and short the time.
            duration: Duration::from_nanos(1),
            ..short(Load::Churn)
        })
        .unwrap();
        assert!(report.connects.unwrap() >= concurrency as u64, "{report}");
        assert!(report.relay_cpu_us_per_connect.is_some(), "{report}");
    }
}

#[test]
fn nobody_listens_is_an_error_that_says_where() {
    let (_held, address) = free_address();
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
fn more_connections_than_open_files_are_refused_before_the_first() {
    let nowhere = Target::Proxy {
        front: ([127, 0, 0, 1], 9).into(),
        back: ([127, 0, 0, 1], 0).into(),
    };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let peers = usize::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let error = execute(&Settings {
        peers: peers.min(1_000_000),
        ..Settings::new(Load::Idle, nowhere)
    })
    .unwrap_err();
    // A limit above what a load may have at all is a machine on which there is nothing to refuse.
    assert!(
        matches!(error, LoadError::TooManyFiles { .. }) || peers >= 2_000_000,
        "{error}"
    );
}

#[test]
fn stall_needs_a_relay() {
    assert!(execute(&short(Load::Stall)).unwrap_err().is_usage());
}
