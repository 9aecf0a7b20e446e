//! What each step of the relay costs by itself: `cargo bench --bench micro [-- NAME]`.
//!
//! No socket is opened here and one thread does all, so the figures say which step a change made slower, and not what a relay
//! costs: that is `benches/compare`. Everything is reached through the library's public interface.

mod handshake;
mod local_path;
mod outbox;
mod parse;
mod presence;
mod route;
mod unmask;
mod world;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    // Short on purpose: all of it takes a minute or two. `--measurement-time 5` looks closer.
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    parse::benches(&mut criterion);
    unmask::benches(&mut criterion);
    outbox::benches(&mut criterion);
    route::benches(&mut criterion);
    presence::benches(&mut criterion);
    local_path::benches(&mut criterion);
    handshake::benches(&mut criterion);
    criterion.final_summary();
}
