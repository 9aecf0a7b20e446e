//! Generic tower layers and the drain, which know no protocol.

pub mod drain;
pub mod stage;
