//! Where a message goes: remembered, looked up among 20,000 peers, and what it costs when those come and go.

use std::hint::black_box;

use criterion::Criterion;
use trunkline::proto::PeerId;
use trunkline::routing::{RouteMemo, Subscriptions};

use crate::world::{World, id};

const PEERS: usize = 20_000;
/// Coprime to [`PEERS`]: a walk in steps of it visits all, and none near the last.
const STRIDE: usize = 7_919;

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut world = World::with_peers(PEERS);
    // In the order in which they are asked for, so that the benches do not measure the making of IDs.
    let walk: Vec<PeerId> = (0..PEERS).map(|step| id(step * STRIDE % PEERS)).collect();
    let strangers: Vec<PeerId> = (PEERS..2 * PEERS).map(id).collect();
    let registry = world.registry.clone();
    let mut group = criterion.benchmark_group("route");

    let mut memo = RouteMemo::default();
    group.bench_function("memo, hit", |bencher| {
        bencher.iter(|| memo.route(&registry, black_box(&walk[0])).is_some());
    });
    let mut turn = walk[..4].iter().cycle();
    group.bench_function("memo, hit, four receivers in turn", |bencher| {
        bencher.iter(|| {
            memo.route(&registry, turn.next().expect("an endless walk"))
                .is_some()
        });
    });
    let mut turn = walk.iter().cycle();
    group.bench_function("memo, miss", |bencher| {
        bencher.iter(|| {
            memo.route(&registry, turn.next().expect("an endless walk"))
                .is_some()
        });
    });
    let mut turn = walk.iter().cycle();
    group.bench_function("registry, hit", |bencher| {
        bencher.iter(|| {
            registry
                .get(turn.next().expect("an endless walk"))
                .is_some()
        });
    });
    let mut turn = strangers.iter().cycle();
    group.bench_function("registry, nobody", |bencher| {
        bencher.iter(|| {
            registry
                .get(turn.next().expect("an endless walk"))
                .is_some()
        });
    });
    let mut newcomer = PEERS;
    group.bench_function("register, unregister", |bencher| {
        bencher.iter(|| {
            newcomer += 1;
            let peer = world.connect(newcomer);
            world
                .presence
                .unregister(&peer.registration, Subscriptions::default());
        });
    });
    let mut regular = 0;
    group.bench_function("takeover", |bencher| {
        bencher.iter(|| {
            regular = (regular + STRIDE) % PEERS;
            world.connect(regular)
        });
    });
    assert_eq!(registry.len(), PEERS, "everybody is where they were");
    group.finish();
}
