//! The frames between two pods (cluster-protocol.md, *Frame* and *HELLO v2*): bytes in, views out.
//!
//! [`next_frame`] cuts the first frame off what a stream brought, [`parse`] turns its payload into a [`Frame`] that borrows from
//! it; the encoders write the same bytes. [`hello`] is the first word of a stream, with the verdict on one. None of them does I/O,
//! and none panics, whatever the bytes are.
//!
//! Whether a frame may come at this time, and what follows from it, is the fabric's business.

mod encode;
mod frame;
pub mod hello;
mod kind;
#[cfg(test)]
mod tests;

pub use encode::{
    FORWARD_HEAD_LEN, PING, PONG, encode_close, encode_data, encode_forward, encode_i_have,
    encode_lost, encode_open, encode_open_ack, encode_who_has, forward_head,
};
pub use frame::{Frame, FrameError, RawFrame, next_frame, parse};
pub use kind::FrameType;

/// Type and length: what every frame starts with, in bytes.
pub const FRAME_HEADER_LEN: usize = 3;

/// The longest payload of a frame, in bytes: its length is two bytes.
pub const FRAME_PAYLOAD_MAX: usize = u16::MAX as usize;

/// When a peer registered, as far as registrations of one peer on several pods can be ordered (cluster-protocol.md, fault 6).
/// 0 in a LOST: "not here".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seqno(pub u32);
