//! A certificate in two PEM files: read, checked, and read again when they change.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::MissedTickBehavior;

use super::store::Unusable;
use super::{Certificate, Certificates};
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
    /// The file cannot be opened or read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    /// It is longer than 1 MiB.
    #[error("{} is larger than 1 MiB", .0.display())]
    TooLarge(PathBuf),
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
    #[error("{} begins with something other than an x509 certificate", .0.display())]
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
        if self.is_valid_at(clock.now_unix()) {
            tracing::info!(certificate.names = names, certificate.expires = %expires, "{what}");
        } else {
            tracing::warn!(
                certificate.names = names,
                certificate.expires = %expires,
                "{what}, but it has expired or is not valid yet: clients will refuse it"
            );
        }
    }
}

/// The content of a file that somebody has named.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable {
        path: path.to_owned(),
        source,
    };
    // Asked before opening: opening a pipe nobody writes to would wait for ever.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(CertificateError::NotAFile(path.to_owned()));
    }
    let mut content = Vec::new();
    File::open(path)
        .map_err(unreadable)?
        .take(FILE_MAX + 1)
        .read_to_end(&mut content)
        .map_err(unreadable)?;
    if content.len() as u64 > FILE_MAX {
        return Err(CertificateError::TooLarge(path.to_owned()));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

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
