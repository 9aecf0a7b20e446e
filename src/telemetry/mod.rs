//! What operators see: metric names, instruments, counters, logs, spans, and where they are sent. Leaf services: they know no room.

pub mod counters;
pub mod instruments;
pub(crate) mod log_limit;
pub mod logging;
pub mod names;
pub mod otlp;
pub mod process;
pub mod prometheus;
pub mod spans;
pub(crate) mod udp;
