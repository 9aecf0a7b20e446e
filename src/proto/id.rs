//! The peer ID: 36 bytes that name a client to the relay, and their text form.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::limits::PEER_ID_LEN;

/// What every ID made from a name starts with.
const PREFIX: [u8; 4] = *b"sha-";

/// Length of 32 bytes in padded base64, in characters.
const HASH_TEXT_LEN: usize = 44;

/// The name of a peer on the wire: the four bytes `sha-`, then the SHA-256 of the peer's name (its WireGuard public
/// key as text). See peer-protocol.md, *Sizes*.
///
/// The relay compares IDs and never looks into them: an ID that a client made in another way, with other bytes in
/// place of `sha-`, is as good as any. [`Display`](fmt::Display) and [`Debug`](fmt::Debug) give the text form, `sha-`
/// and the hash in standard base64; a foreign prefix is shown escaped, so that it cannot forge a log line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId([u8; PEER_ID_LEN]);

impl PeerId {
    /// The ID of the peer with this name: the name's bytes are hashed as they are.
    pub fn from_name(name: &[u8]) -> Self {
        let mut bytes = [0; PEER_ID_LEN];
        let (prefix, hash) = bytes.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(&PREFIX);
        hash.copy_from_slice(&Sha256::digest(name));
        Self(bytes)
    }

    /// The ID with these 36 bytes; any bytes will do.
    pub const fn from_bytes(bytes: [u8; PEER_ID_LEN]) -> Self {
        Self(bytes)
    }

    /// The ID with these bytes, or `None` when they are not 36.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 36 bytes as they travel.
    pub const fn as_bytes(&self) -> &[u8; PEER_ID_LEN] {
        &self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, hash) = self.0.split_at(PREFIX.len());
        write!(
            f,
            "{}{}",
            prefix.escape_ascii(),
            Base64Display::new(hash, &STANDARD)
        )
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a peer ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePeerIdError {
    /// The text does not start with `sha-`.
    #[error("peer id does not start with sha-")]
    Prefix,
    /// What follows is not 32 bytes in padded standard base64.
    #[error("peer id is not 32 bytes of standard base64 after sha-")]
    Hash,
}

/// Reads the text form. An ID with a foreign prefix has none, and cannot be read back.
impl FromStr for PeerId {
    type Err = ParsePeerIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hash = text.strip_prefix("sha-").ok_or(ParsePeerIdError::Prefix)?;
        if hash.len() != HASH_TEXT_LEN {
            return Err(ParsePeerIdError::Hash);
        }
        let hash = STANDARD.decode(hash).map_err(|_| ParsePeerIdError::Hash)?;
        let mut bytes = [0; PEER_ID_LEN];
        if hash.len() != PEER_ID_LEN - PREFIX.len() {
            return Err(ParsePeerIdError::Hash);
        }
        bytes[..PREFIX.len()].copy_from_slice(&PREFIX);
        bytes[PREFIX.len()..].copy_from_slice(&hash);
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_prefix_cannot_forge_a_log_line() {
        let mut bytes = *PeerId::from_name(b"mallory").as_bytes();
        bytes[..4].copy_from_slice(b"\n\x1b\xff\"");
        let id = PeerId::from_bytes(bytes);
        let text = id.to_string();
        assert!(text.starts_with(r#"\n\x1b\xff\""#), "{text}");
        assert!(text.chars().all(|c| c.is_ascii_graphic()), "{text}");
        assert_eq!(text.parse::<PeerId>(), Err(ParsePeerIdError::Prefix));
        assert_eq!(format!("{id:?}"), text);
    }

    #[test]
    fn from_slice_wants_exactly_36_bytes() {
        let id = PeerId::from_name(b"alice");
        let mut long = id.as_bytes().to_vec();
        assert_eq!(PeerId::from_slice(&long), Some(id));
        assert_eq!(PeerId::from_slice(&long[..35]), None);
        long.push(0);
        assert_eq!(PeerId::from_slice(&long), None);
    }

    #[test]
    fn only_the_one_text_form_is_read() {
        use ParsePeerIdError::{Hash, Prefix};
        let good = "sha-K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbpA=";
        assert_eq!(good.parse(), Ok(PeerId::from_name(b"alice")));
        let bad = [
            ("", Prefix),
            ("SHA-K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbpA=", Prefix),
            ("K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbpA=", Prefix),
            ("sha-", Hash),
            // No padding, padding twice, URL-safe alphabet, a bit set in the padding, a space.
            ("sha-K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbpA", Hash),
            ("sha-K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbp==", Hash),
            ("sha-K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbpAA", Hash),
            ("sha-K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtb-A=", Hash),
            ("sha-K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbpB=", Hash),
            ("sha-K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbpA= ", Hash),
        ];
        for (text, why) in bad {
            assert_eq!(text.parse::<PeerId>(), Err(why), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_form_round_trips(hash: [u8; 32]) {
            let mut bytes = [0; PEER_ID_LEN];
            bytes[..4].copy_from_slice(b"sha-");
            bytes[4..].copy_from_slice(&hash);
            let id = PeerId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn two_ids_never_share_a_text(a: [u8; 32], prefix: [u8; 4]) {
            let mut bytes = [0; PEER_ID_LEN];
            bytes[4..].copy_from_slice(&a);
            bytes[..4].copy_from_slice(b"sha-");
            let ours = PeerId::from_bytes(bytes);
            bytes[..4].copy_from_slice(&prefix);
            let other = PeerId::from_bytes(bytes);
            prop_assert_eq!(ours == other, ours.to_string() == other.to_string());
        }

        #[test]
        fn reading_any_text_never_panics_and_reads_only_what_display_writes(text in "(sha-)?[\\PC]{0,60}") {
            if let Ok(id) = text.parse::<PeerId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
