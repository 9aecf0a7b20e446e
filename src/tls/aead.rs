//! One direction's key for records of TLS 1.3, for who moves application data without rustls (docs/adr/0048).

use std::fmt;

use aws_lc_rs::aead as lc;
use ring::aead;
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{AeadKey, Iv, NONCE_LEN};

use super::records::ring_is_faster;

/// Bytes of the tag behind what is encrypted; the same for all ciphers of TLS 1.3 that there are here.
pub(crate) const TAG_LEN: usize = 16;

/// Bytes of the head of a record, which the tag covers, too.
pub(crate) const HEAD_LEN: usize = 5;

/// The tag is wrong, or there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadTag;

/// A key and the numbers of its records. Its `Debug` shows no key.
pub(crate) struct RecordKey {
    cipher: Cipher,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

#[allow(
    clippy::large_enum_variant,
    reason = "one machine uses one of the two, and whoever holds it is in a box"
)]
enum Cipher {
    Ring(aead::LessSafeKey),
    AwsLc(lc::LessSafeKey),
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordKey")
    }
}

impl RecordKey {
    /// The key as rustls gives it away, and the number of the next record. None for a cipher that is not known here.
    pub(crate) fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Option<Self> {
        let ring = ring_is_faster();
        let (cipher, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } if ring => {
                (Cipher::ring(&aead::AES_128_GCM, key)?, iv)
            }
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } if ring => {
                (Cipher::ring(&aead::AES_256_GCM, key)?, iv)
            }
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
                (Cipher::aws_lc(&lc::AES_128_GCM, key)?, iv)
            }
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
                (Cipher::aws_lc(&lc::AES_256_GCM, key)?, iv)
            }
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (Cipher::aws_lc(&lc::CHACHA20_POLY1305, key)?, iv)
            }
            _ => return None,
        };
        Some(Self {
            cipher,
            iv: iv_bytes(iv)?,
            sequence,
        })
    }

    /// The number of the next record.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// RFC 8446, section 5.3. No number is used twice with one key.
    fn nonce(&mut self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..]
            .iter_mut()
            .zip(self.sequence.to_be_bytes())
        {
            *byte ^= number;
        }
        self.sequence += 1;
        nonce
    }

    /// Opens what lies at `from` and ends with its tag, and moves it to the front of `bytes`. Returns its length.
    pub(crate) fn open(
        &mut self,
        head: [u8; HEAD_LEN],
        bytes: &mut [u8],
        from: usize,
    ) -> Result<usize, BadTag> {
        let nonce = self.nonce();
        match &self.cipher {
            Cipher::Ring(key) => {
                let nonce = aead::Nonce::assume_unique_for_key(nonce);
                key.open_within(nonce, aead::Aad::from(head), bytes, from..)
                    .map(|plain| plain.len())
                    .map_err(|_| BadTag)
            }
            Cipher::AwsLc(key) => {
                let nonce = lc::Nonce::assume_unique_for_key(nonce);
                key.open_within(nonce, lc::Aad::from(head), bytes, from..)
                    .map(|plain| plain.len())
                    .map_err(|_| BadTag)
            }
        }
    }

    /// Seals `bytes` where they are, and returns the tag that belongs behind them.
    pub(crate) fn seal(&mut self, head: [u8; HEAD_LEN], bytes: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = self.nonce();
        let mut tag = [0; TAG_LEN];
        match &self.cipher {
            Cipher::Ring(key) => {
                let nonce = aead::Nonce::assume_unique_for_key(nonce);
                let made = key
                    .seal_in_place_separate_tag(nonce, aead::Aad::from(head), bytes)
                    .expect("a record is short enough");
                tag.copy_from_slice(made.as_ref());
            }
            Cipher::AwsLc(key) => {
                let nonce = lc::Nonce::assume_unique_for_key(nonce);
                let made = key
                    .seal_in_place_separate_tag(nonce, lc::Aad::from(head), bytes)
                    .expect("a record is short enough");
                tag.copy_from_slice(made.as_ref());
            }
        }
        tag
    }
}

impl Cipher {
    fn ring(algorithm: &'static aead::Algorithm, key: &AeadKey) -> Option<Self> {
        let key = aead::UnboundKey::new(algorithm, key.as_ref()).ok()?;
        Some(Self::Ring(aead::LessSafeKey::new(key)))
    }

    fn aws_lc(algorithm: &'static lc::Algorithm, key: &AeadKey) -> Option<Self> {
        let key = lc::UnboundKey::new(algorithm, key.as_ref()).ok()?;
        Some(Self::AwsLc(lc::LessSafeKey::new(key)))
    }
}

fn iv_bytes(iv: &Iv) -> Option<[u8; NONCE_LEN]> {
    iv.as_ref().try_into().ok()
}
