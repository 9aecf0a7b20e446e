//! A certificate in two PEM files: read, checked, and read again when they change.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::MissedTickBehavior;

use super::store::Unusable;
use super::{Certificate, Certificates};
use crate::files;
use crate::reload::Reload;
use crate::time::Clock;

/// How often the files are looked at: a renewal is seen soon, at the price of two small reads.
pub const CERTIFICATE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The longest file, in bytes: more than that is a wrong path, not a certificate.
const FILE_MAX: u64 = 1024 * 1024;

/// Why two files give no certificate. The texts name the file and never show what is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The file cannot be opened or read, it is no file, or longer than 1 MiB.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no PEM block for a certificate in the certificate file.
    #[error("{} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)", .0.display())]
    NoCertificate(PathBuf),
    /// There is no PEM block for a private key in the key file.
    #[error("{} holds no private key in PEM (-----BEGIN PRIVATE KEY----- or the like)", .0.display())]
    NoKey(PathBuf),
    /// A PEM block is damaged.
    #[error("{} holds a PEM block that is damaged", .0.display())]
    Damaged(PathBuf),
    /// The key needs a passphrase, which nobody could give when it is read again.
    #[error("{} is encrypted: a key without a passphrase is needed", .0.display())]
    EncryptedKey(PathBuf),
    /// What the first block holds is no certificate.
    #[error("{} begins with something other than an x509 certificate of version 3 (openssl makes one of version 1 if it is given no extension)", .0.display())]
    NotX509(PathBuf),
    /// The two do not belong together.
    #[error("the private key in {} is not that of the first certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A key of a kind or a size that TLS here has no use for.
    #[error("the private key in {} is of a kind or size that cannot be used", .0.display())]
    Key(PathBuf),
}

impl CertificateError {
    /// Whether it is this file that is to blame; of two that do not belong together, the key's.
    #[must_use]
    pub fn is_of(&self, path: &Path) -> bool {
        let blamed = match self {
            Self::Unreadable { path, .. }
            | Self::NoCertificate(path)
            | Self::NoKey(path)
            | Self::Damaged(path)
            | Self::EncryptedKey(path)
            | Self::NotX509(path)
            | Self::Key(path)
            | Self::KeyMismatch { key: path, .. } => path,
        };
        blamed == path
    }
}

/// Where a certificate is kept: the chain, the server's own certificate first, and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain in PEM.
    pub certificate: PathBuf,
    /// The key in PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Whether this is a key in PEM that needs a passphrase: PKCS#8, or the older form with a head.
fn is_encrypted(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----")
        || text.contains("Proc-Type: 4,ENCRYPTED")
}

impl CertificateFiles {
    /// Reads both files and puts them together. Dates are not judged: a relay with an expired certificate is better than none.
    /// Blocks on the file system.
    ///
    /// # Errors
    /// Those of [`CertificateError`].
    pub fn load(&self) -> Result<Certificate, CertificateError> {
        let text = read(&self.certificate)?;
        let chain = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CertificateError::Damaged(self.certificate.clone()))?;
        if chain.is_empty() {
            return Err(CertificateError::NoCertificate(self.certificate.clone()));
        }
        let text = read(&self.key)?;
        let key = match PrivateKeyDer::from_pem_slice(&text) {
            Ok(key) => key,
            _ if is_encrypted(&text) => {
                return Err(CertificateError::EncryptedKey(self.key.clone()));
            }
            Err(rustls::pki_types::pem::Error::NoItemsFound) => {
                return Err(CertificateError::NoKey(self.key.clone()));
            }
            Err(_) => return Err(CertificateError::Damaged(self.key.clone())),
        };
        Certificate::new(chain, key).map_err(|error| match error {
            Unusable::NotX509 => CertificateError::NotX509(self.certificate.clone()),
            Unusable::KeyMismatch => CertificateError::KeyMismatch {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
            },
            // What is wrong with a key is not for a log.
            Unusable::Key(_) => CertificateError::Key(self.key.clone()),
        })
    }

    /// Keeps `certificates` at what the files hold, for ever. Looks every `interval` ([`CERTIFICATE_POLL_INTERVAL`]) and when
    /// `reload` says so, at the content and not at the files' identity, because Kubernetes swaps a symbolic link above them.
    ///
    /// A pair that is of no use is logged at `warn`, once per reason, and the old certificate stays: files that are written one
    /// after the other do not match for a moment. Cancel-safe: dropping the future ends the watch.
    pub async fn watch(
        self,
        certificates: Certificates,
        interval: Duration,
        mut reload: Reload,
        clock: Clock,
    ) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complaint = None;
        loop {
            let asked = tokio::select! {
                _ = ticks.tick() => false,
                () = reload.asked() => true,
            };
            let files = self.clone();
            // They may lie on a network mount that hangs: not on a thread that carries peers.
            let Ok(loaded) = tokio::task::spawn_blocking(move || files.load()).await else {
                continue;
            };
            match loaded {
                Ok(certificate) => {
                    complaint = None;
                    let new = certificates.current().as_ref() != Some(&certificate);
                    if new {
                        certificate.log(
                            "the certificate files have changed: the new certificate is in use",
                            &clock,
                        );
                        certificates.set(certificate);
                    } else if asked {
                        tracing::info!("certificate files read again: nothing has changed");
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if asked || complaint.as_ref() != Some(&text) {
                        tracing::warn!(
                            error = %text,
                            "the certificate files are of no use any more: the old certificate stays in use"
                        );
                        complaint = Some(text);
                    }
                }
            }
        }
    }
}

impl Certificate {
    /// Logs that it is in use, and warns when it is not within its dates.
    pub fn log(&self, what: &'static str, clock: &Clock) {
        let expires = self.expires();
        let names = self.names().join(", ");
        match self.outside_its_dates(clock.now_unix()) {
            None => {
                tracing::info!(certificate.names = names, certificate.expires = %expires, "{what}");
            }
            Some(but) => tracing::warn!(
                certificate.names = names,
                certificate.expires = %expires,
                "{what}, but it {but}: it will be refused"
            ),
        }
    }

    /// What is wrong with it at `now` (Unix seconds), if anything.
    fn outside_its_dates(&self, now: u64) -> Option<String> {
        if now > self.not_after() {
            Some(format!("expired at {}", self.expires()))
        } else if now < self.not_before() {
            let begins = self.begins();
            Some(format!(
                "is not valid before {begins} (is this machine's clock right?)"
            ))
        } else {
            None
        }
    }
}

/// The content of a file that somebody has named.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    files::read(path, FILE_MAX).map_err(|source| CertificateError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_certificate_and_one_of_tomorrow_are_told_apart() {
        let mut params = rcgen::CertificateParams::new(["relay.example.com".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 3, 1);
        params.not_after = rcgen::date_time_ymd(2026, 5, 30);
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let certificate = Certificate::new(chain, key).unwrap();
        let told = |now| certificate.outside_its_dates(now);
        let (begins, expires) = (certificate.not_before(), certificate.not_after());
        assert_eq!(told(begins), None);
        assert_eq!(told(expires), None);
        assert_eq!(
            told(begins - 1).unwrap(),
            "is not valid before 2026-03-01T00:00:00Z (is this machine's clock right?)"
        );
        assert_eq!(
            told(expires + 1).unwrap(),
            "expired at 2026-05-30T00:00:00Z"
        );
    }

    #[test]
    fn the_file_to_blame_is_known() {
        let (certificate, key) = (PathBuf::from("/c"), PathBuf::from("/k"));
        let mismatch = CertificateError::KeyMismatch {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        assert!(mismatch.is_of(&key) && !mismatch.is_of(&certificate));
        assert!(CertificateError::NotX509(certificate.clone()).is_of(&certificate));
    }

    #[test]
    fn keys_with_a_passphrase_are_known_in_both_forms() {
        for head in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB",
            "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00",
        ] {
            assert!(is_encrypted(head.as_bytes()), "{head}");
        }
        assert!(!is_encrypted(b"-----BEGIN PRIVATE KEY-----\nMIIB"));
    }
}
