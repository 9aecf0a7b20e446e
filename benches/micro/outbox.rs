//! The queue of one receiver: in by a producer, out by its writer or by the producer itself.

use std::hint::black_box;
use std::io;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use trunkline::outbox::TryWrite;

use crate::world::{World, drain, id, transport};

/// Messages in a batch; 48 of them nearly fill a slab.
const BATCHES: [usize; 3] = [1, 16, 48];

/// A socket that takes everything.
struct Null;

impl TryWrite for Null {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(black_box(bytes).len())
    }
}

pub(crate) fn benches(criterion: &mut Criterion) {
    let world = World::new();
    let message = transport(&id(1));
    let mut group = criterion.benchmark_group("outbox");
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch as u64));
        let outbox = world.outbox();
        let push = || {
            for _ in 0..batch {
                outbox
                    .push(black_box(&message))
                    .expect("the queue has room");
            }
        };
        // As with a busy writer: it finds what was pushed by itself.
        group.bench_function(
            BenchmarkId::new("push, take, delivered", batch),
            |bencher| {
                bencher.iter(|| {
                    push();
                    drain(&outbox)
                });
            },
        );
        // From here on the writer is idle, and the producer writes.
        outbox.set_direct(Arc::new(Null));
        group.bench_function(BenchmarkId::new("push, flush", batch), |bencher| {
            bencher.iter(|| {
                push();
                outbox.flush();
            });
        });
        assert_eq!(drain(&outbox), 0, "the producer has written everything");
    }
    group.throughput(Throughput::Elements(1));
    let full = world.outbox();
    while full.push(&message).is_ok() {}
    group.bench_function("push, refused", |bencher| {
        bencher.iter(|| full.push(black_box(&message)).is_err());
    });
    group.finish();
}
