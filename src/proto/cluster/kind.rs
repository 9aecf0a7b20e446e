//! The frame types.

/// The first byte of a frame (cluster-protocol.md, *Frame*). An unknown one is no error: that frame is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrameType {
    /// The first frame of the dialing side, and of ours when it answers.
    Hello = 0x00,
    /// Who has this peer?
    WhoHas = 0x01,
    /// The sender has this peer.
    IHave = 0x02,
    /// The sender does not have this peer, or not any more. Stock pods skip it.
    Lost = 0x03,
    /// Reserved: nothing sends it.
    Open = 0x10,
    /// Reserved: nothing sends it.
    OpenAck = 0x11,
    /// Reserved: nothing sends it.
    Data = 0x12,
    /// Reserved: nothing sends it.
    Close = 0x13,
    /// A transport message for a peer of the receiver.
    Forward = 0x14,
    /// As [`Forward`](Self::Forward), on its second hop: never forwarded again.
    Reforward = 0x15,
    /// Are you there?
    Ping = 0x20,
    /// The answer to a PING.
    Pong = 0x21,
}

impl FrameType {
    /// Every type, in the order of the numbers.
    pub const ALL: [Self; 12] = [
        Self::Hello,
        Self::WhoHas,
        Self::IHave,
        Self::Lost,
        Self::Open,
        Self::OpenAck,
        Self::Data,
        Self::Close,
        Self::Forward,
        Self::Reforward,
        Self::Ping,
        Self::Pong,
    ];

    /// The type with this number, if there is one.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x00 => Self::Hello,
            0x01 => Self::WhoHas,
            0x02 => Self::IHave,
            0x03 => Self::Lost,
            0x10 => Self::Open,
            0x11 => Self::OpenAck,
            0x12 => Self::Data,
            0x13 => Self::Close,
            0x14 => Self::Forward,
            0x15 => Self::Reforward,
            0x20 => Self::Ping,
            0x21 => Self::Pong,
            _ => return None,
        })
    }

    /// The specification's word for it, for logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "HELLO",
            Self::WhoHas => "WHO_HAS",
            Self::IHave => "I_HAVE",
            Self::Lost => "LOST",
            Self::Open => "OPEN",
            Self::OpenAck => "OPEN_ACK",
            Self::Data => "DATA",
            Self::Close => "CLOSE",
            Self::Forward => "FWD",
            Self::Reforward => "REFWD",
            Self::Ping => "PING",
            Self::Pong => "PONG",
        }
    }

    /// Whether nothing sends it yet: received ones are skipped, right or wrong.
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        matches!(self, Self::Open | Self::OpenAck | Self::Data | Self::Close)
    }
}
