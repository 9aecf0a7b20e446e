//! The messages between a client and a relay (peer-protocol.md, *Message types*).
//!
//! [`parse`] turns the bytes of one message into a [`Message`] that borrows from them; [`message_type`],
//! [`transport_peer`] and [`stamp_source`] are the same knowledge in smaller bites, for the path where every message
//! counts. None of them allocates, and none of them panics, whatever the bytes are. The encoders make messages that
//! [`parse`] takes back, and refuse what would be too long.
//!
//! Whether a message may come at this time, and from this side, is not known here: that is the connection's business.

mod encode;
mod error;
mod kind;
mod message;
#[cfg(test)]
mod tests;

pub use encode::{
    CLOSE, EncodeError, HEALTH_CHECK, encode_auth, encode_auth_response, encode_peer_ids,
    encode_transport, stamp_source,
};
pub use error::MessageError;
pub use kind::MessageType;
pub use message::{
    AuthMessage, Message, PeerIds, PeerIdsIter, message_type, parse, transport_peer,
};
