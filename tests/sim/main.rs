//! A simulation of whole clusters: pods and peers on a paused clock and a network in memory, with random schedules of connections, moves,
//! kills, breaks and partitions, each from one seed. In some of them one of the pods is a stock pod, and what can hold with it does.
//!
//! A seed that fails is printed with its story; `TRUNKLINE_SIM_SEED=N cargo test --test sim` runs it alone, and
//! `TRUNKLINE_SIM_SEEDS=N` runs as many as that, from that one on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod net;
mod pod;
mod stock;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// As many as CI has time for.
const SEEDS: u64 = 300;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// One seed on a runtime of its own.
fn run(seed: u64) -> Result<(), String> {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(world::run(seed))
    }));
    result.unwrap_or_else(|_| Err("panicked".to_owned()))
}

#[test]
fn random_schedules_keep_what_must_hold() {
    let seed = number("TRUNKLINE_SIM_SEED");
    let usual = if seed.is_some() { 1 } else { SEEDS };
    let count = number("TRUNKLINE_SIM_SEEDS").unwrap_or(usual);
    let first = seed.unwrap_or(0);
    let next = AtomicU64::new(first);
    let failed = parking_lot::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failed.lock().len() >= 3 {
                        return;
                    }
                    if let Err(story) = run(seed) {
                        failed.lock().push((seed, story));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner();
    failed.sort();
    for (seed, story) in &failed {
        eprintln!("TRUNKLINE_SIM_SEED={seed}\n{story}\n");
    }
    assert!(failed.is_empty(), "{} seeds failed", failed.len());
}
