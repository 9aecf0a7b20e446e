//! Directories of a test's own, and certificates in them.

use std::path::{Path, PathBuf};

use rcgen::generate_simple_self_signed;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use trunkline::tls::{CertificateFiles, Certificates};

/// An empty directory of this name; what an earlier run left there is gone.
pub(crate) fn fresh_dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _absent = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// A self-signed certificate and its key.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) files: CertificateFiles,
    pub(crate) der: CertificateDer<'static>,
}

impl Pair {
    /// Makes `tls.crt` and `tls.key` in a directory, for these names.
    pub(crate) fn write<N: Into<String>>(dir: &Path, names: impl IntoIterator<Item = N>) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let made = generate_simple_self_signed(names).unwrap();
        let files = CertificateFiles {
            certificate: dir.join("tls.crt"),
            key: dir.join("tls.key"),
        };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        Self {
            files,
            der: made.cert.der().clone(),
        }
    }

    /// What shows it.
    pub(crate) fn store(&self) -> Certificates {
        let certificates = Certificates::new();
        certificates.set(self.files.load().unwrap());
        certificates
    }

    /// What trusts nothing else.
    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        roots
    }
}
