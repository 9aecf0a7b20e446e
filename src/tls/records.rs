//! Which code encrypts records: aws-lc-rs, or ring where that is faster (docs/adr/0044).
//!
//! aws-lc has kernels of AES-GCM for AVX-512 and for ARM that ring has not; ring has one for VAES without AVX-512 that aws-lc
//! has not. All else (key exchange, signatures, hashes, TLS 1.2) is aws-lc's on every machine.

use std::sync::LazyLock;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384};
use rustls::crypto::cipher::{
    self, AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter,
    MessageEncrypter, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload,
    Tls13AeadAlgorithm, UnsupportedOperationError, make_tls13_aad,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{
    CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion,
    SupportedCipherSuite, Tls13CipherSuite,
};

/// The cryptography of a listener on this machine.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if ring_is_faster() {
        for suite in &mut provider.cipher_suites {
            if *suite == TLS13_AES_128_GCM_SHA256 {
                *suite = SupportedCipherSuite::Tls13(&AES_128);
            } else if *suite == TLS13_AES_256_GCM_SHA384 {
                *suite = SupportedCipherSuite::Tls13(&AES_256);
            }
        }
    }
    provider
}

#[cfg(target_arch = "x86_64")]
pub(super) fn ring_is_faster() -> bool {
    use std::is_x86_feature_detected as has;
    let vaes = has!("avx2") && has!("vaes") && has!("vpclmulqdq");
    let avx512 = has!("avx512f") && has!("avx512dq") && has!("avx512bw") && has!("avx512vl");
    vaes && !avx512
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn ring_is_faster() -> bool {
    false
}

static GCM_128: Gcm = Gcm(&AES_128_GCM);
static GCM_256: Gcm = Gcm(&AES_256_GCM);

static AES_128: LazyLock<Tls13CipherSuite> =
    LazyLock::new(|| with_ring(TLS13_AES_128_GCM_SHA256, &GCM_128));
static AES_256: LazyLock<Tls13CipherSuite> =
    LazyLock::new(|| with_ring(TLS13_AES_256_GCM_SHA384, &GCM_256));

/// The same suite with another code for its records.
fn with_ring(suite: SupportedCipherSuite, aead_alg: &'static Gcm) -> Tls13CipherSuite {
    let SupportedCipherSuite::Tls13(suite) = suite else {
        unreachable!("both are suites of TLS 1.3");
    };
    Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        },
        hkdf_provider: suite.hkdf_provider,
        aead_alg,
        quic: suite.quic,
    }
}

/// AES-GCM of ring, as TLS 1.3 wants it (RFC 8446, section 5.2).
struct Gcm(&'static Algorithm);

impl Gcm {
    fn records(&self, key: &AeadKey, iv: Iv) -> Records {
        let key = UnboundKey::new(self.0, key.as_ref()).expect("rustls asks for the key's length");
        Records {
            key: LessSafeKey::new(key),
            iv,
        }
    }
}

impl Tls13AeadAlgorithm for Gcm {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(self.records(&key, iv))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(self.records(&key, iv))
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        if self.0 == &AES_128_GCM {
            Ok(ConnectionTrafficSecrets::Aes128Gcm { key, iv })
        } else {
            Ok(ConnectionTrafficSecrets::Aes256Gcm { key, iv })
        }
    }
}

/// One direction of one connection.
struct Records {
    key: LessSafeKey,
    iv: Iv,
}

impl Records {
    /// Unique, as rustls never uses a number twice with one key.
    fn nonce(&self, sequence: u64) -> Nonce {
        Nonce::assume_unique_for_key(cipher::Nonce::new(&self.iv, sequence).0)
    }
}

impl MessageEncrypter for Records {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let len = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(len);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&message.typ.to_array());
        self.key
            .seal_in_place_append_tag(
                self.nonce(sequence),
                Aad::from(make_tls13_aad(len)),
                &mut payload,
            )
            .map_err(|_| Error::EncryptError)?;
        Ok(OutboundOpaqueMessage::new(
            ContentType::ApplicationData,
            ProtocolVersion::TLSv1_2,
            payload,
        ))
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        // The type's byte, and the tag.
        payload_len + 1 + self.key.algorithm().tag_len()
    }
}

impl MessageDecrypter for Records {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload = &mut message.payload;
        let aad = Aad::from(make_tls13_aad(payload.len()));
        let plain = self
            .key
            .open_in_place(self.nonce(sequence), aad, payload)
            .map_err(|_| Error::DecryptError)?
            .len();
        payload.truncate(plain);
        message.into_tls13_unpadded_message()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{InboundOpaqueMessage, OutboundChunks};

    use super::*;

    /// What one library seals the other opens, at every length that matters, and nothing that was changed on the way.
    #[test]
    fn records_are_those_of_aws_lc() {
        for (theirs, ours) in [
            (TLS13_AES_128_GCM_SHA256, &GCM_128),
            (TLS13_AES_256_GCM_SHA384, &GCM_256),
        ] {
            let theirs = theirs.tls13().unwrap().aead_alg;
            assert_eq!(ours.key_len(), theirs.key_len());
            // Keys come in the longest form, cut to length by rustls: only one of 32 bytes can be made here.
            if ours.key_len() != 32 {
                continue;
            }
            let key = || AeadKey::from([7; 32]);
            let iv = || Iv::new([9; 12]);
            for len in [0, 1, 15, 16, 17, 1280, 16_384] {
                let data: Vec<u8> = (0..len).map(|n| n as u8).collect();
                for (from, to) in [
                    (ours as &dyn Tls13AeadAlgorithm, theirs),
                    (theirs, ours as &dyn Tls13AeadAlgorithm),
                ] {
                    let plain = OutboundPlainMessage {
                        typ: ContentType::ApplicationData,
                        version: ProtocolVersion::TLSv1_3,
                        payload: OutboundChunks::Single(&data),
                    };
                    let sealed = from.encrypter(key(), iv()).encrypt(plain, 5).unwrap();
                    let mut bytes = sealed.encode()[5..].to_vec();
                    let open = |bytes: &mut [u8], sequence| {
                        let message = InboundOpaqueMessage::new(
                            ContentType::ApplicationData,
                            ProtocolVersion::TLSv1_2,
                            bytes,
                        );
                        to.decrypter(key(), iv())
                            .decrypt(message, sequence)
                            .map(|plain| plain.payload.to_vec())
                    };
                    assert_eq!(open(&mut bytes.clone(), 5).unwrap(), data);
                    assert_eq!(open(&mut bytes.clone(), 6), Err(Error::DecryptError));
                    assert_eq!(open(&mut [0; 9], 5), Err(Error::DecryptError));
                    bytes[len / 2] ^= 1;
                    assert_eq!(open(&mut bytes, 5), Err(Error::DecryptError));
                }
            }
        }
    }
}
