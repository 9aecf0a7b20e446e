//! One sender floods a receiver that does not keep up, many send at a modest rate (performance.md, *Rules of the message path*).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::HashMap;
use std::time::Duration;

use support::{FrozenClock, RawClient, SECRET, TestRelay, binary, peer, transport};
use trunkline::auth::{Secret, TokenValidator};
use trunkline::load::{Load, Settings, Target, execute};
use trunkline::telemetry::counters::DropReason;
use trunkline::time::Clock;

const QUEUE: usize = 1 << 20;

/// Senders besides the one that floods.
const MODEST: usize = 20;

/// What each of them sends in a round, a handshake besides; all together it is less than the receiver takes.
const EACH: u32 = 4;

/// What the receiver takes in a round.
const TAKEN: usize = 125;

/// What the flood sends in a round, messages.
const FLOOD: u32 = 150;

/// Until the queue is full, and what lies in it from before has come.
const WARM_UP: u32 = 40;

const ROUNDS: u32 = 80;

/// A numbered WireGuard packet of this type and length.
fn packet(kind: u8, number: u32, len: usize) -> Vec<u8> {
    let mut payload = vec![0; len];
    payload[0] = kind;
    payload[4..8].copy_from_slice(&number.to_be_bytes());
    binary(&transport(&peer("receiver"), &payload))
}

fn data(number: u32) -> Vec<u8> {
    packet(4, number, 1280)
}

fn handshake(number: u32) -> Vec<u8> {
    packet(1, number, 148)
}

/// What the receiver has got of one sender.
#[derive(Debug, Default, Clone)]
struct Got {
    data: u32,
    handshakes: u32,
    last: Option<u32>,
}

/// The clock stands, and whoever sends and reads does so in turn: only counts decide.
#[tokio::test]
async fn a_flood_takes_nobody_elses_share_and_handshakes_come_through() {
    let relay = TestRelay::with(|builder| builder.peer_queue_bytes(QUEUE));
    let _clock = FrozenClock::freeze();
    let mut receiver = RawClient::connected_narrowly(&relay, "receiver").await;
    let names: Vec<String> = (0..MODEST)
        .map(|number| format!("modest {number}"))
        .collect();
    let mut modest = Vec::new();
    for name in &names {
        modest.push(RawClient::connected(&relay, name).await);
    }
    let mut flood = RawClient::connected(&relay, "flood").await;
    let mut got = HashMap::<Vec<u8>, Got>::new();
    for round in 0..ROUNDS {
        let numbers = round * FLOOD..(round + 1) * FLOOD;
        flood
            .write(&numbers.flat_map(data).collect::<Vec<_>>())
            .await;
        flood.sync(&peer("flood")).await;
        for (name, sender) in names.iter().zip(&mut modest) {
            let first = round * (EACH + 1);
            let mut bytes: Vec<u8> = (first..first + EACH).flat_map(data).collect();
            bytes.extend(handshake(first + EACH));
            sender.write(&bytes).await;
            sender.sync(&peer(name)).await;
        }
        for _ in 0..TAKEN {
            let message = receiver.message().await;
            let (from, payload) = (&message[2..38], &message[38..]);
            let number = u32::from_be_bytes(payload[4..8].try_into().unwrap());
            let got = got.entry(from.to_owned()).or_default();
            assert!(got.last < Some(number), "overtaken: {got:?} {number}");
            got.last = Some(number);
            if round >= WARM_UP {
                *(if payload[0] == 4 {
                    &mut got.data
                } else {
                    &mut got.handshakes
                }) += 1;
            }
        }
    }
    let counted = ROUNDS - WARM_UP;
    let of = |name: &str| {
        got.get(&peer(name).as_bytes()[..])
            .cloned()
            .unwrap_or_default()
    };
    for name in &names {
        let got = of(name);
        // What the receiver takes in the first round that counts was sent somewhat earlier, and what it has not taken in the last is
        // not lost.
        assert!(got.data >= (counted - 1) * EACH, "{name}: {got:?}");
        assert!(got.handshakes >= counted - 1, "{name}: {got:?}");
    }
    let flood = of("flood");
    assert!(flood.data > 0, "what is left is the flood's");
    assert!(flood.data < counted * FLOOD / 4, "it floods: {flood:?}");
    assert!(relay.dropped(DropReason::QueueFull) > u64::from(counted * FLOOD / 2));
}

/// On any machine, so that only what cannot be otherwise is asserted: the shares are for `benches/compare`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fair_load_tells_what_came_of_whom() {
    let secrets = vec![Secret::new(SECRET)];
    let validator = TokenValidator::new(secrets, Clock::system());
    let relay = TestRelay::with(|builder| builder.validator(validator));
    let target = Target::Relay {
        address: relay.addr,
        host: relay.addr.to_string(),
        route: "/relay".to_owned(),
        secret: Secret::new(SECRET),
    };
    let mut settings = Settings::new(Load::Fair, target);
    settings.rate = 100.0;
    settings.receive_rate = 2000.0;
    settings.handshakes = true;
    settings.duration = Duration::from_secs(1);
    let report = tokio::task::spawn_blocking(move || execute(&settings));
    let report = report.await.unwrap().unwrap();
    let fair = report.fair.clone().unwrap();
    assert_eq!(report.ended, Some(0), "{report}");
    assert!(fair.flood_sent > fair.flood_delivered, "{report}");
    assert!(fair.modest_delivered > 0, "{report}");
    assert!(fair.handshakes_delivered > 0, "{report}");
    assert!(fair.jain > 0.0 && fair.jain <= 1.0, "{report}");
    assert_eq!(fair.reordered, 0, "{report}");
}
