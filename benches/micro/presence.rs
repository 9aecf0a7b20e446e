//! Telling who comes and goes: one peer with many watchers, one watcher with many peers.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use tokio::time::Instant;
use trunkline::proto::PeerId;
use trunkline::proto::limits::PEER_STATE_IDS_MAX;
use trunkline::routing::Subscriptions;

use crate::world::{Peer, World, drain, id};

const WATCHERS: usize = 10_000;

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("presence");
    watched(&mut group);
    watching(&mut group);
    group.finish();
}

type Group<'a> = criterion::BenchmarkGroup<'a, criterion::measurement::WallTime>;

/// One peer comes and goes, and all watchers are told both.
fn watched(group: &mut Group<'_>) {
    let mut world = World::new();
    let mut watchers: Vec<(Peer, Subscriptions)> = (1..=WATCHERS)
        .map(|number| (world.connect(number), Subscriptions::default()))
        .collect();
    group.throughput(Throughput::Elements(2 * WATCHERS as u64));
    group.sample_size(10);
    group.bench_function("a peer with 10,000 watchers comes and goes", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for _ in 0..iterations {
                // *Online* is told once for each subscription.
                for (watcher, subscriptions) in &mut watchers {
                    subscribe(&world, watcher, subscriptions, &[id(0)]);
                }
                let began = Instant::now();
                let peer = world.connect(0);
                world
                    .presence
                    .unregister(&peer.registration, Subscriptions::default());
                spent += began.elapsed();
                for (watcher, _) in &watchers {
                    assert_eq!(drain(&watcher.outbox), 1, "both notices, in one write");
                }
            }
            spent
        });
    });
}

/// One peer subscribes to as many IDs as one message holds, and then no longer.
fn watching(group: &mut Group<'_>) {
    const PEERS: usize = 20_000;
    let mut world = World::with_peers(PEERS);
    let watcher = world.connect(2 * PEERS);
    group.throughput(Throughput::Elements(PEER_STATE_IDS_MAX as u64));
    group.sample_size(20);
    for (name, first) in [
        ("subscribe to 244 online, and end it", 0),
        ("subscribe to 244 offline, and end it", PEERS),
    ] {
        let ids: Vec<PeerId> = (first..first + PEER_STATE_IDS_MAX).map(id).collect();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut subscriptions = Subscriptions::default();
                subscribe(&world, &watcher, &mut subscriptions, &ids);
                world.presence.unsubscribe(
                    &watcher.registration,
                    &mut subscriptions,
                    ids.iter().copied(),
                );
                drain(&watcher.outbox)
            });
        });
    }
    assert_eq!(world.presence.watched(), 0, "all subscriptions have ended");
}

fn subscribe(world: &World, watcher: &Peer, subscriptions: &mut Subscriptions, ids: &[PeerId]) {
    world.presence.subscribe(
        &watcher.registration,
        subscriptions,
        ids.iter().copied(),
        usize::MAX,
        &mut Vec::new(),
    );
}
