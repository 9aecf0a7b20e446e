//! What a server did with the bytes of a case, read off its own bytes.

use std::fmt;

/// The last bytes of a case that the server is expected to survive: a ping that no case sends itself.
pub(crate) const LAST_WORD: &[u8] = b"still there?";

/// What a server did.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The messages that came back, in order.
    pub(crate) messages: Vec<Vec<u8>>,
    /// The payloads of the pongs, in order; without that of the last word.
    pub(crate) pongs: Vec<Vec<u8>>,
    /// Its close frame.
    pub(crate) close: Close,
    /// Whether it ended the connection.
    pub(crate) ended: bool,
    /// What it may never do: the first broken rule in its own bytes.
    pub(crate) fault: Option<&'static str>,
}

/// The close frame of a server. Its reason is no part of a verdict: section 5.5.1 leaves it to the endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Close {
    /// None came.
    #[default]
    None,
    /// One without a code.
    Empty,
    /// One with this code.
    Code(u16),
}

impl Verdict {
    /// Reads one more frame off the front of what the server sent. `None`: there is no whole frame.
    /// Otherwise the rest, and whether this was the answer to the last word.
    pub(crate) fn take<'a>(&mut self, bytes: &'a [u8]) -> Option<(&'a [u8], bool)> {
        let [first, second, rest @ ..] = bytes else {
            return None;
        };
        let (length, rest) = match second & 0x7F {
            126 => {
                let (length, rest) = rest.split_first_chunk()?;
                let length = usize::from(u16::from_be_bytes(*length));
                self.check(length > 125, "length form is not the shortest");
                (length, rest)
            }
            127 => {
                let (length, rest) = rest.split_first_chunk()?;
                let length = usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX);
                self.check(length > 0xFFFF, "length form is not the shortest");
                (length, rest)
            }
            length => (usize::from(length), rest),
        };
        let (payload, rest) = rest.split_at_checked(length)?;
        self.check(second & 0x80 == 0, "masked");
        self.check(first & 0x70 == 0, "reserved bit set");
        self.check(first & 0x80 != 0, "not final");
        self.check(self.close == Close::None, "frame after the close frame");
        match first & 0x0F {
            0x1 | 0x2 => self.messages.push(payload.to_vec()),
            0x8 => {
                self.close = match payload {
                    [] => Close::Empty,
                    [high, low, reason @ ..] => {
                        self.check(std::str::from_utf8(reason).is_ok(), "reason is not UTF-8");
                        self.check(payload.len() <= 125, "control frame too long");
                        Close::Code(u16::from_be_bytes([*high, *low]))
                    }
                    [_] => {
                        self.check(false, "half a close code");
                        Close::Empty
                    }
                };
            }
            0xA if payload == LAST_WORD => return Some((rest, true)),
            0xA => self.pongs.push(payload.to_vec()),
            _ => self.check(false, "frame that no server has a reason to send"),
        }
        Some((rest, false))
    }

    pub(crate) fn check(&mut self, holds: bool, fault: &'static str) {
        if !holds && self.fault.is_none() {
            self.fault = Some(fault);
        }
    }

    /// The verdict in a few words, for the table of differences: how it ended, and what came before that.
    pub(crate) fn outcome(&self) -> String {
        match (self.close, self.ended) {
            (Close::Code(code), true) => format!("closed with {code}"),
            (Close::Empty, true) => "closed without a code".to_owned(),
            (Close::None, true) => "ended without a close frame".to_owned(),
            (_, false) if !self.messages.is_empty() => "echoed".to_owned(),
            (_, false) if !self.pongs.is_empty() => "answered with a pong".to_owned(),
            (_, false) => "nothing, connection goes on".to_owned(),
        }
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brief = |list: &[Vec<u8>]| {
            list.iter()
                .map(|bytes| {
                    let head: String = bytes
                        .iter()
                        .take(8)
                        .map(|byte| format!("{byte:02x}"))
                        .collect();
                    format!("{}:{head}", bytes.len())
                })
                .take(6)
                .collect::<Vec<_>>()
        };
        f.debug_struct("Verdict")
            .field("messages", &(self.messages.len(), brief(&self.messages)))
            .field("pongs", &(self.pongs.len(), brief(&self.pongs)))
            .field("close", &self.close)
            .field("ended", &self.ended)
            .field("fault", &self.fault)
            .finish()
    }
}
