//! From one datagram to its answer, without a socket.
//!
//! Owns what counts as a question. Never answers what is not a binding request, and never with much more than came.

use std::net::SocketAddr;

use stun_types::attribute::{
    Attribute as _, AttributeStaticType as _, AttributeType, ErrorCode, Fingerprint,
    MessageIntegrity, MessageIntegritySha256, UnknownAttributes, XorMappedAddress,
};
use stun_types::message::{
    BINDING, Message, MessageClass, MessageHeader, MessageType, MessageWrite as _,
    MessageWriteExt as _, MessageWriteMutSlice,
};

/// The longest question: what RFC 8489 (6.1) allows where the path's MTU is not known, in bytes.
pub(super) const QUESTION_MAX: usize = 548;

/// The room an answer may need, in bytes: no more than the longest question and [`GROWTH_MAX`].
pub(super) const ANSWER_MAX: usize = QUESTION_MAX + GROWTH_MAX;

/// How many bytes an answer may be longer than its question: an IPv6 address (24) and a fingerprint (8).
pub(super) const GROWTH_MAX: usize = 32;

/// What RFC 8489 names below 0x8000, where an attribute that is not understood must be refused. What serves
/// authentication and what only answers carry is understood, and of no consequence here.
const UNDERSTOOD: [u16; 11] = [
    0x0001, // MAPPED-ADDRESS
    0x0006, // USERNAME
    0x0008, // MESSAGE-INTEGRITY
    0x0009, // ERROR-CODE
    0x000a, // UNKNOWN-ATTRIBUTES
    0x0014, // REALM
    0x0015, // NONCE
    0x001c, // MESSAGE-INTEGRITY-SHA256
    0x001d, // PASSWORD-ALGORITHM
    0x001e, // USERHASH
    0x0020, // XOR-MAPPED-ADDRESS
];

/// Why a datagram has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ignored {
    /// Not a STUN message, or one whose lengths or fingerprint are wrong.
    Malformed,
    /// STUN, but not a binding request.
    Unsupported,
    /// Longer than a question may be.
    TooLong,
    /// Its source asks too often.
    Limited,
}

impl Ignored {
    /// The value of the label `result`.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::TooLong => "too_long",
            Self::Limited => "limited",
        }
    }
}

/// Writes the answer to `question` into `room`; returns what it is (a value of the label `result`) and its length.
pub(super) fn answer(
    question: &[u8],
    from: SocketAddr,
    room: &mut [u8; ANSWER_MAX],
) -> Result<(&'static str, usize), Ignored> {
    if question.len() > QUESTION_MAX {
        return Err(Ignored::TooLong);
    }
    let header = MessageHeader::from_bytes(question).map_err(|_| Ignored::Malformed)?;
    let kind = header.get_type();
    if !kind.has_class(MessageClass::Request) || !kind.has_method(BINDING) {
        return Err(Ignored::Unsupported);
    }
    // A datagram is one message, and attributes fill whole words.
    let length = usize::from(header.data_length());
    if question.len() != MessageHeader::LENGTH + length || !length.is_multiple_of(4) {
        return Err(Ignored::Malformed);
    }
    let request = Message::from_bytes(question).map_err(|_| Ignored::Malformed)?;
    let unknown = unknown_attributes(&request);
    let (class, result) = if unknown.is_empty() {
        (MessageClass::Success, "answered")
    } else {
        (MessageClass::Error, "unknown_attribute")
    };
    let mut writer = Message::builder(
        MessageType::from_class_method(class, BINDING),
        request.transaction_id(),
        MessageWriteMutSlice::new(room),
    );
    let written = if unknown.is_empty() {
        // A socket for both families shows IPv4 sources as IPv6 addresses.
        let seen = SocketAddr::new(from.ip().to_canonical(), from.port());
        writer.add_attribute(&XorMappedAddress::new(seen, request.transaction_id()))
    } else {
        // No phrase beside the code: it is for people, and would make the answer longer.
        ErrorCode::builder(ErrorCode::UNKNOWN_ATTRIBUTE)
            .reason("")
            .build()
            .and_then(|code| writer.add_attribute(&code))
            .and_then(|()| writer.add_attribute(&UnknownAttributes::new(&unknown)))
    };
    written
        .and_then(|()| writer.add_fingerprint())
        .expect("the room holds every answer, and no attribute is written twice");
    Ok((result, writer.finish()))
}

/// The attributes that must be understood and are not, each once, in their order. What follows an integrity is not protected by it
/// and does not count (RFC 8489, 14.5).
fn unknown_attributes(request: &Message<'_>) -> Vec<AttributeType> {
    let mut unknown = Vec::new();
    for (_, attribute) in request.iter_attributes() {
        let kind = attribute.get_type();
        if [
            MessageIntegrity::TYPE,
            MessageIntegritySha256::TYPE,
            Fingerprint::TYPE,
        ]
        .contains(&kind)
        {
            break;
        }
        if kind.comprehension_required()
            && !UNDERSTOOD.contains(&kind.value())
            && !unknown.contains(&kind)
        {
            unknown.push(kind);
        }
    }
    unknown
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
