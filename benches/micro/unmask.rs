//! Taking a client's mask off: the only work that grows with a message's bytes, but for the one copy.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use trunkline::transport::ws::frame::apply_mask;

/// A keepalive's frame, a handshake initiation, a full packet, the longest message.
const SIZES: [usize; 4] = [64, 148, 1320, 8820];

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unmask");
    for size in SIZES {
        let mut bytes = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| apply_mask(black_box(&mut bytes), black_box([1, 2, 3, 4])));
        });
    }
    group.finish();
}
