//! Records of TLS 1.3 after the handshake, over slices of bytes (RFC 8446, sections 4.6.3, 5 and 6). Owns no socket.
//!
//! What comes is opened where it was read to and moved together, so that the data of many records is one piece without being
//! copied. What goes is sealed where it lies.

use rustls::AlertDescription;

use super::session::Sealed;
use crate::tls::{HEAD_LEN, RecordKey, TAG_LEN};

/// Data in one record, at most.
pub(super) const DATA_MAX: usize = 1 << 14;
/// What follows the head of a record that comes, at most.
const PAYLOAD_MAX: usize = DATA_MAX + 256;
/// What stands behind the data of a record that goes: its type and the tag.
pub(super) const TRAILER_LEN: usize = 1 + TAG_LEN;
/// How much longer than its data a record is, if nothing pads it.
pub(super) const OVERHEAD: usize = HEAD_LEN + TRAILER_LEN;
/// Records without data that may come in a row; each costs work and brings nothing.
const IDLE_MAX: u32 = 32;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
pub(super) const DATA: u8 = 23;

const KEY_UPDATE: u8 = 24;
/// A whole handshake message: its type, its length, and whether an answer is wanted.
const KEY_UPDATE_LEN: usize = 5;

/// Why no more records are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("TLS record that does not decrypt")]
    BadTag,
    #[error("TLS record that is too long")]
    TooLong,
    #[error("TLS record or message that has no place after the handshake")]
    Unexpected,
    #[error("TLS message of a wrong form")]
    Malformed,
    #[error("TLS key update with a wrong value")]
    Illegal,
    /// The other side has given up, and is told nothing.
    #[error("TLS alert from the other side: {0:?}")]
    Alert(AlertDescription),
    #[error("no more keys for this TLS connection")]
    NoKey,
}

impl Fault {
    /// What the other side is told.
    pub(super) fn alert(self) -> Option<AlertDescription> {
        Some(match self {
            Self::BadTag => AlertDescription::BadRecordMac,
            Self::TooLong => AlertDescription::RecordOverflow,
            Self::Unexpected => AlertDescription::UnexpectedMessage,
            Self::Malformed => AlertDescription::DecodeError,
            Self::Illegal => AlertDescription::IllegalParameter,
            Self::NoKey => AlertDescription::InternalError,
            Self::Alert(_) => return None,
        })
    }
}

/// What came to a stop at, while records were opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// All is opened but the beginning of a record.
    Starved,
    /// The next records are sealed with the next key; whether the other side wants ours changed, too.
    KeyUpdate { answer: bool },
    /// The other side says nothing more.
    Closed,
}

/// How far a piece of bytes has been opened: `..plain` is data, and `unread..` has not been looked at. In between lies nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    pub(super) plain: usize,
    pub(super) unread: usize,
}

/// The receiving direction.
#[derive(Debug)]
pub(super) struct Opener {
    key: RecordKey,
    /// The beginning of a handshake message.
    message: [u8; KEY_UPDATE_LEN],
    message_len: usize,
    idle: u32,
}

impl Opener {
    pub(super) fn new(key: RecordKey) -> Self {
        Self {
            key,
            message: [0; KEY_UPDATE_LEN],
            message_len: 0,
            idle: 0,
        }
    }

    /// After [`Stop::KeyUpdate`].
    pub(super) fn set_key(&mut self, key: RecordKey) {
        self.key = key;
    }

    /// Opens the records in `bytes` from where `progress` stands.
    pub(super) fn open(
        &mut self,
        bytes: &mut [u8],
        progress: &mut Progress,
    ) -> Result<Stop, Fault> {
        loop {
            let Some(&head) = bytes[progress.unread..].first_chunk::<HEAD_LEN>() else {
                return Ok(Stop::Starved);
            };
            // The version is not looked at, but the tag covers it.
            let [kind, _, _, high, low] = head;
            if kind != DATA {
                return Err(Fault::Unexpected);
            }
            let len = usize::from(u16::from_be_bytes([high, low]));
            if len > PAYLOAD_MAX {
                return Err(Fault::TooLong);
            }
            if len < TAG_LEN {
                return Err(Fault::BadTag);
            }
            let start = progress.unread + HEAD_LEN;
            if bytes.len() - start < len {
                return Ok(Stop::Starved);
            }
            progress.unread = start + len;
            let place = &mut bytes[progress.plain..progress.unread];
            let opened = self
                .key
                .open(head, place, start - progress.plain)
                .map_err(|_| Fault::BadTag)?;
            if opened > DATA_MAX + 1 {
                return Err(Fault::TooLong);
            }
            let inner = &place[..opened];
            // Zeros behind the type are padding.
            let Some(end) = inner.iter().rposition(|&byte| byte != 0) else {
                return Err(Fault::Unexpected);
            };
            let (content, kind) = (&inner[..end], inner[end]);
            if kind == DATA && self.message_len == 0 {
                progress.plain += content.len();
                self.idle = if content.is_empty() { self.idle + 1 } else { 0 };
            } else {
                self.idle += 1;
                if let Some(stop) = self.control(kind, content)? {
                    return Ok(stop);
                }
            }
            if self.idle > IDLE_MAX {
                return Err(Fault::Unexpected);
            }
        }
    }

    /// A record that is no data.
    fn control(&mut self, kind: u8, content: &[u8]) -> Result<Option<Stop>, Fault> {
        match (kind, content) {
            // Messages are not mixed with anything else.
            (ALERT, _) if self.message_len > 0 => Err(Fault::Unexpected),
            (ALERT, &[_, what]) => match AlertDescription::from(what) {
                AlertDescription::CloseNotify => Ok(Some(Stop::Closed)),
                AlertDescription::UserCanceled => Ok(None),
                what => Err(Fault::Alert(what)),
            },
            (ALERT, _) => Err(Fault::Malformed),
            (HANDSHAKE, &[_, ..]) => self.handshake(content),
            _ => Err(Fault::Unexpected),
        }
    }

    /// A piece of a handshake message. Only a key update has a place here: tickets are ours to send, and nobody is asked for a
    /// certificate.
    fn handshake(&mut self, content: &[u8]) -> Result<Option<Stop>, Fault> {
        let end = self.message_len + content.len();
        let known = end.min(KEY_UPDATE_LEN);
        self.message[self.message_len..known].copy_from_slice(&content[..known - self.message_len]);
        if self.message[0] != KEY_UPDATE {
            return Err(Fault::Unexpected);
        }
        if known >= 4 && self.message[1..4] != [0, 0, 1] {
            return Err(Fault::Malformed);
        }
        if end > KEY_UPDATE_LEN {
            // A message behind it would be under the old key.
            return Err(Fault::Unexpected);
        }
        self.message_len = end;
        if end < KEY_UPDATE_LEN {
            return Ok(None);
        }
        self.message_len = 0;
        // Its sender begins anew, and so do we: what is counted is what comes in a row.
        if self.idle > IDLE_MAX {
            return Err(Fault::Unexpected);
        }
        match self.message[4] {
            0 => Ok(Some(Stop::KeyUpdate { answer: false })),
            1 => Ok(Some(Stop::KeyUpdate { answer: true })),
            _ => Err(Fault::Illegal),
        }
    }
}

/// The sending direction.
#[derive(Debug)]
pub(super) struct Sealer {
    key: RecordKey,
    /// So many records one key may seal.
    limit: u64,
}

/// What stands around the data of one record.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Frame {
    pub(super) head: [u8; HEAD_LEN],
    pub(super) trailer: [u8; TRAILER_LEN],
}

impl Sealer {
    pub(super) fn new(key: RecordKey, limit: u64) -> Self {
        Self { key, limit }
    }

    /// Whether the key is to be changed before so many more records.
    pub(super) fn is_worn(&self, records: u64) -> bool {
        // One more is left for the key update itself, one for an alert.
        self.key.sequence() + records + 2 > self.limit
    }

    /// Seals `data` and the byte behind it, where they are. That byte is borrowed: it is what it was before when this returns.
    pub(super) fn seal_in_place(&mut self, data_and_one: &mut [u8]) -> Frame {
        let len = data_and_one.len() - 1;
        debug_assert!(len <= DATA_MAX, "one record's worth");
        let head = head(len);
        let borrowed = std::mem::replace(&mut data_and_one[len], DATA);
        let tag = self.key.seal(head, data_and_one);
        let mut trailer = [0; TRAILER_LEN];
        trailer[0] = std::mem::replace(&mut data_and_one[len], borrowed);
        trailer[1..].copy_from_slice(&tag);
        Frame { head, trailer }
    }

    /// Seals a copy of `data` behind what `records` holds, in records as long as they may be.
    pub(super) fn seal(&mut self, data: &[u8], records: &mut Sealed) {
        for piece in data.chunks(DATA_MAX) {
            self.push(DATA, piece, records);
        }
    }

    fn push(&mut self, kind: u8, content: &[u8], records: &mut Sealed) {
        let head = head(content.len());
        let (front, sealed) = records
            .extend(content.len() + OVERHEAD)
            .split_at_mut(HEAD_LEN);
        front.copy_from_slice(&head);
        let (inner, tag) = sealed.split_at_mut(content.len() + 1);
        inner[..content.len()].copy_from_slice(content);
        inner[content.len()] = kind;
        tag.copy_from_slice(&self.key.seal(head, inner));
    }

    /// Tells the other side something by alert.
    pub(super) fn alert(&mut self, what: AlertDescription, records: &mut Sealed) {
        // Levels mean nothing any more, but are as they have always been.
        let level = match what {
            AlertDescription::CloseNotify => 1,
            _ => 2,
        };
        self.push(ALERT, &[level, what.into()], records);
    }

    /// The last record under this key; `next` is the key from then on. No answer is asked for.
    pub(super) fn update(&mut self, next: RecordKey, records: &mut Sealed) {
        self.push(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], records);
        self.key = next;
    }
}

/// The head of a record with so much content in it (RFC 8446, section 5.2).
fn head(len: usize) -> [u8; HEAD_LEN] {
    let len = u16::try_from(len + TRAILER_LEN).expect("a record is short enough");
    let [high, low] = len.to_be_bytes();
    [DATA, 3, 3, high, low]
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
