//! Pods as real processes, each in a network namespace of its own: killed, cut off, started at the same instant, restarted in turn.
//!
//! What took how long is printed: `cargo test --test netns -- --nocapture`. `TRUNKLINE_NETNS_PAIRS` says how many pairs of peers there
//! are (60 if it does not), `TRUNKLINE_NETNS_CUT` how many seconds a network stays cut when all know it (0). Skipped by name where namespaces cannot be made (they need root and `ip`).

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

#[path = "netns/network.rs"]
mod network;
#[path = "netns/pod.rs"]
mod pod;
#[path = "netns/swarm.rs"]
mod swarm;

use std::time::Duration;

use network::Network;
use pod::Pod;
use support::netns::Far;
use support::real_pause;
use swarm::{Home, Record, Swarm};
use tokio::time::{Instant, sleep, timeout};

/// Couples of pods that are started at the same instant, and how often.
const COUPLES: usize = 5;
const STARTS: usize = 10;

/// Waits until `condition` holds: for as long as no machine needs, for what takes the pods half a minute by themselves.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(180) {
        if condition().await {
            return;
        }
        for _ in 0..5 {
            real_pause().await;
        }
    }
    panic!("this never came true: {what}");
}

fn pairs() -> usize {
    number("TRUNKLINE_NETNS_PAIRS", 60)
}

fn number(variable: &str, default: usize) -> usize {
    let value = std::env::var(variable).map(|value| value.parse());
    value.unwrap_or(Ok(default)).expect("a number")
}

/// Says how long something took, beside what it should.
fn report(what: &str, began: Instant, bar: &str) {
    println!(
        "{what}: {:.2} s (bar: {bar})",
        began.elapsed().as_secs_f64()
    );
}

#[test]
fn the_peers_of_a_pod_that_is_killed_are_offline_everywhere() {
    let Some(network) = Network::make(
        "the_peers_of_a_pod_that_is_killed_are_offline_everywhere",
        3,
    ) else {
        return;
    };
    network.test(async || {
        let mut pods = Pod::start_all(&network, 3, &[]).await;
        let homes = (0..pairs()).map(|pair| [Home::Only(pair % 2), Home::Only(2)]);
        let swarm = Swarm::start("killed", 3, homes).await;
        let watchers = || swarm.all().step_by(2);
        assert!(watchers().all(|number| swarm.record(number).offline == 0));
        let killed = Instant::now();
        pods[2].kill();
        swarm.are_told_offline(watchers()).await;
        report(
            "kill -9: all peers of the pod are offline on all others",
            killed,
            "16 s",
        );
        assert!(watchers().all(|number| swarm.record(number).astray == 0));
        // Those who are left can still reach each other: see `tests/cluster`.
        for pod in &mut pods[..2] {
            pod.linked(1).await;
        }
    });
}

/// Three troubles at once, in one cluster: they take the same time and have nothing to do with each other.
#[test]
fn pods_that_do_not_hear_each_other_give_up_and_find_together_again() {
    let Some(network) = Network::make(
        "pods_that_do_not_hear_each_other_give_up_and_find_together_again",
        5,
    ) else {
        return;
    };
    network.test(async || {
        let mut pods = Pod::start_all(&network, 5, &[]).await;
        let each = (pairs() / 3).max(1);
        let homes = [(0, 1), (2, 3), (0, 4)]
            .into_iter()
            .flat_map(|(one, other)| {
                std::iter::repeat_n([Home::Only(one), Home::Only(other)], each)
            });
        let swarm = Swarm::start("cut", 5, homes).await;
        // The longer it is cut, the longer the pauses between two tries to dial.
        let cut = Duration::from_secs(number("TRUNKLINE_NETNS_CUT", 0) as u64);
        let group = |number: usize| 2 * each * number..2 * each * (number + 1);
        // From whom to whom nothing comes, and whose peers notice it.
        let trouble = async |what: &str, cuts: &[(usize, usize)], peers: std::ops::Range<usize>| {
            let began = Instant::now();
            for &(from, to) in cuts {
                network.cut(from, to);
            }
            swarm.are_told_offline(peers.clone()).await;
            let told = format!("{what}: peers at both ends of the cut are offline");
            report(&told, began, "16 s");
            sleep(cut).await;
            let began = Instant::now();
            for &(from, to) in cuts {
                network.mend(from, to);
            }
            swarm.hear_each_other(peers).await;
            let healed = format!("{what}, healed: traffic of all pairs again, both ways");
            report(&healed, began, "12 s");
        };
        let both_ways = trouble("cut both ways", &[(0, 1), (1, 0)], group(0));
        let one_way = trouble("cut one way", &[(2, 3)], group(1));
        let dead = async {
            let began = Instant::now();
            network.unplug(4);
            swarm.are_told_offline(group(2).step_by(2)).await;
            report(
                "a machine is dead, no reset comes: its peers are offline",
                began,
                "16 s",
            );
        };
        tokio::join!(both_ways, one_way, dead);
        for number in swarm.all() {
            let record = swarm.record(number);
            assert_eq!(
                (record.twice, record.astray),
                (0, 0),
                "{number}: {record:?}"
            );
        }
        for pod in &mut pods[..4] {
            pod.linked(3).await;
        }
        one_connection_each(&pods[..4], 3).await;
    });
}

/// Waits until the kernel of each pod has as many connections to other pods as it should, and no second one to any.
async fn one_connection_each(pods: &[Pod], others: usize) {
    eventually("one connection to each other pod", async || {
        pods.iter().all(|pod| pod.connections().len() == others)
    })
    .await;
}

#[test]
fn two_pods_started_at_the_same_instant_have_one_stream_each_time() {
    let Some(network) = Network::make(
        "two_pods_started_at_the_same_instant_have_one_stream_each_time",
        2 * COUPLES,
    ) else {
        return;
    };
    network.test(async || {
        for start in 0..STARTS {
            let mut pods: Vec<Pod> = (0..2 * COUPLES)
                .map(|pod| Pod::prepare(&network, pod, &[pod ^ 1], &[]))
                .collect();
            pods.iter_mut().for_each(Pod::start);
            for pod in &mut pods {
                pod.linked(1).await;
            }
            one_connection_each(&pods, 1).await;
            let homes = (0..COUPLES).map(|couple| [2 * couple, 2 * couple + 1].map(Home::Only));
            let swarm = Swarm::start(&format!("start-{start}"), 2 * COUPLES, homes).await;
            for number in swarm.all() {
                assert_eq!(swarm.record(number).offline, 0, "start {start}");
            }
            for pod in &pods {
                assert_eq!(
                    (pod.streams().await, pod.connections().len()),
                    (1, 1),
                    "start {start}"
                );
            }
        }
    });
}

#[test]
fn a_rolling_restart_is_no_matter_to_those_whose_pods_are_not_restarted() {
    const PODS: usize = 3;
    let Some(network) = Network::make(
        "a_rolling_restart_is_no_matter_to_those_whose_pods_are_not_restarted",
        PODS,
    ) else {
        return;
    };
    network.test(async || {
        let pairs = pairs();
        // As many peers a second are let go as by default with 300 pairs.
        let window = format!("{}ms", (pairs * 10_000 / 300).clamp(100, 10_000));
        let args = ["--drain-delay", "2s", "--drain-window", &window];
        let all: Vec<usize> = (0..PODS).collect();
        let mut pods = Pod::start_all(&network, PODS, &args).await;
        let homes = (0..pairs).map(|pair| [pair, pair / PODS].map(|at| Home::FirstOf(at % PODS)));
        let swarm = Swarm::start("rolling", PODS, homes).await;
        let snapshot = || swarm.all().map(|number| swarm.record(number)).collect::<Vec<Record>>();
        let (mut never_touched, mut told) = (0, 0);
        for restarted in 0..PODS {
            let before = snapshot();
            let untouched = |number: &usize| {
                [*number, number ^ 1]
                    .iter()
                    .all(|&number| before[number].pod != Some(restarted))
            };
            let untouched: Vec<usize> = swarm.all().filter(untouched).collect();
            let began = Instant::now();
            pods[restarted].stop().await;
            let stopped = began.elapsed();
            pods[restarted] = Pod::prepare(&network, restarted, &all, &args);
            pods[restarted].start();
            for pod in &mut pods {
                pod.linked(PODS as u64 - 1).await;
            }
            swarm.hear_each_other(swarm.all()).await;
            println!(
                "pod {restarted} restarted: ended after {:.2} s, all {pairs} pairs talk after {:.2} s; {} peers untouched",
                stopped.as_secs_f64(),
                began.elapsed().as_secs_f64(),
                untouched.len(),
            );
            let after = snapshot();
            for &number in &untouched {
                let (before, after) = (before[number], after[number]);
                let changed = Record {
                    sent: after.sent,
                    expected: after.expected,
                    ..before
                };
                assert_eq!(after, changed, "peer {number}, pod {restarted}: more than numbers changed");
            }
            never_touched += untouched.len();
            let notices = |records: &[Record]| records.iter().map(|record| record.offline).sum::<u32>();
            told += notices(&after) - notices(&before);
        }
        assert!(never_touched > 0, "somebody must have been left alone");
        for record in snapshot() {
            assert_eq!((record.twice, record.astray), (0, 0), "{record:?}");
        }
        println!("rolling restart: {told} notices that somebody was offline (bar: none)");
    });
}

/// A fifth of a second there and back, frames overtake each other, and two in a hundred are lost.
#[test]
fn a_far_link_loses_nothing_and_keeps_the_order() {
    let far = Far {
        delay: 50,
        jitter: 10,
        lost_percent: 1,
    };
    let test = "a_far_link_loses_nothing_and_keeps_the_order";
    let Some(mut network) = Network::make_far(test, 2, far) else {
        return;
    };
    loses_nothing(test, &network);
    for ways in network.end_far_cables() {
        for way in ways {
            let happened = way.carried.min(way.lost).min(way.overtaken) > 0;
            assert!(happened && way.shortest_ms >= 40, "no far link: {way:?}");
        }
    }
}

/// Not much wider than what the pods have to say to each other, and what does not fit into its queue is lost.
#[test]
fn a_narrow_link_loses_nothing_and_keeps_the_order() {
    let test = "a_narrow_link_loses_nothing_and_keeps_the_order";
    let Some(network) = Network::make(test, 2) else {
        return;
    };
    let tc = |pod: usize, words: &str| {
        let mut tc = network.machine(pod).command("tc");
        let output = tc.args(words.split_whitespace()).output().unwrap();
        output.status.success().then_some(output.stdout)
    };
    let narrow = "qdisc add dev pods root tbf rate 400kbit burst 3kb latency 300ms";
    if (0..2).any(|pod| tc(pod, narrow).is_none()) {
        println!("skipped: {test}: tc has no tbf");
        return;
    }
    loses_nothing(test, &network);
    for pod in 0..2 {
        let counts = tc(pod, "-s qdisc show dev pods").unwrap();
        let counts = String::from_utf8(counts).unwrap();
        let count = counts.split("overlimits ").nth(1).unwrap();
        let was_full = !count.starts_with("0 ");
        assert!(was_full, "the link was not what it should be: {counts}");
    }
}

/// Pairs on the two pods hear each other for longer than a silent stream lives, and miss nothing.
fn loses_nothing(test: &str, network: &Network) {
    // More would be more than the narrow link carries.
    const PAIRS: usize = 30;
    // One round is at least one beat of 200 ms.
    const ROUNDS: usize = 90;
    network.test(async || {
        // Late is not lost.
        let pods = Pod::start_all(network, 2, &["--queue-max-age=30s"]).await;
        let homes = std::iter::repeat_n([0, 1].map(Home::Only), PAIRS);
        let swarm = Swarm::start(test, 2, homes).await;
        let before: Vec<Record> = swarm.all().map(|number| swarm.record(number)).collect();
        one_connection_each(&pods, 1).await;
        let stream = pods[0].connections();
        let rounds = async {
            for _ in 0..ROUNDS {
                swarm.hear_each_other(swarm.all()).await;
            }
        };
        let ended = timeout(Duration::from_secs(300), rounds).await;
        ended.expect("all hear each other again and again");
        for (number, before) in before.iter().enumerate() {
            let after = swarm.record(number);
            let lost = after.missing - before.missing + after.twice - before.twice;
            assert_eq!(lost, 0, "{number}: {before:?}, then {after:?}");
        }
        assert_eq!(pods[0].connections(), stream, "another stream");
    });
}
