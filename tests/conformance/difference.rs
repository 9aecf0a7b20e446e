//! Every way in which the relay and tokio-tungstenite differ, with its reason. A case that differs names one of these, and pins
//! both verdicts: a difference that appears or disappears fails the test.

/// A reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Text,
    RelayMessage,
    RegisteredCode,
    CloseBoth,
    LengthBit,
    LongControl,
    LongForm,
    RuleBeforeSize,
    Early,
}

impl Why {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 9] = [
        Self::Text,
        Self::RelayMessage,
        Self::RegisteredCode,
        Self::CloseBoth,
        Self::LengthBit,
        Self::LongControl,
        Self::LongForm,
        Self::RuleBeforeSize,
        Self::Early,
    ];

    /// What differs, who is right by the RFC, and why it is so.
    pub(crate) fn explain(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Text => (
                "text messages",
                "both, 7.4.1",
                "the relay's protocol is binary: it closes with 1003 at the first head of a text message, so it never has to look at UTF-8",
            ),
            Self::RelayMessage => (
                "messages that are no relay messages",
                "both: section 5 knows no such rule",
                "the peer protocol, not the framing, ends the connection for an empty or one-byte message without a close frame, and drops a transport message that ends inside its peer ID",
            ),
            Self::RegisteredCode => (
                "close code 1014",
                "ours, 7.4.2 and the registry",
                "registered (bad gateway) after the RFC, as 1012 and 1013, which tokio-tungstenite takes",
            ),
            Self::CloseBoth => (
                "a close frame with a forbidden code and a reason that is not UTF-8",
                "both, 7.1.7",
                "two rules are broken at once: the relay looks at the code first, tokio-tungstenite at the reason",
            ),
            Self::LengthBit => (
                "highest bit of a 64-bit length",
                "ours, 5.2",
                "such a length is malformed, so 1002; tokio-tungstenite takes it for a large one",
            ),
            Self::LongControl => (
                "control frame longer than a message may be",
                "ours, 5.5",
                "a control frame of more than 125 bytes is a protocol error whatever its length; tokio-tungstenite looks at its frame limit first",
            ),
            Self::LongForm => (
                "control frame with its length in 16 or 64 bits",
                "ours, 5.2 and 5.5",
                "125 bytes at most need 7 bits, and the shortest form must be used; tokio-tungstenite takes any form",
            ),
            Self::RuleBeforeSize => (
                "a frame that breaks a rule and is too long as well",
                "both, 7.1.7",
                "two rules are broken at once: the relay says what it finds first in the head (1002), tokio-tungstenite looks at its frame limit first",
            ),
            Self::Early => (
                "a head that can be refused before the rest of its frame is there",
                "both, 7.1.7",
                "the relay refuses what it can as soon as it can, byte by byte; tokio-tungstenite waits for the whole head or the whole frame, which here never comes",
            ),
        }
    }
}
