//! What operators see: metric names, instruments, counters, logs. Leaf services: they know no room.

pub mod counters;
pub mod instruments;
pub mod logging;
pub mod names;
pub mod prometheus;
