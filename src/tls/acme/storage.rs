//! The directory with account and certificate, readable by nobody else.
//!
//! Each authority has a directory of its own in it, so that a try with its staging environment leaves the real thing alone.
//! A file is written beside its place and then moved there: a crash leaves the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::super::{Certificate, CertificateFiles};
use super::StorageError;
use super::order::Issued;

/// Account number, key and address.
const ACCOUNT: &str = "account.json";

/// The certificate's private key, then its chain, in PEM.
const CERTIFICATE: &str = "certificate.pem";

/// What a file is called while it is written, at the end of its name.
const BESIDE: &str = ".new";

/// How old such a file is when nobody writes it any more: another relay may be at it just now.
const LEFT_BEHIND: Duration = Duration::from_secs(3_600);

/// One authority's directory; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    dir: PathBuf,
}

/// An account as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredAccount {
    /// The address that the authority knows.
    pub(super) email: Option<String>,
    pub(super) credentials: AccountCredentials,
}

impl Storage {
    /// Makes what is not there, and makes sure that it can be written to.
    pub(super) fn open(data_dir: &Path, directory_url: &str) -> Result<Self, StorageError> {
        let dir = data_dir.join(name_of(directory_url));
        let failed = io_error(&dir, "made");
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&dir).map_err(failed)?;
        let storage = Self { dir };
        for name in [ACCOUNT, CERTIFICATE] {
            storage.close_to_others(name)?;
        }
        storage.remove_left_behind();
        // Better now, and before anything listens, than when the first certificate is there.
        let probe = storage.dir.join(".probe");
        let written = storage.write(".probe", b"");
        let _gone = fs::remove_file(probe);
        written.map(|()| storage)
    }

    /// The account, if there is one.
    pub(super) fn account(&self) -> Result<Option<StoredAccount>, StorageError> {
        let path = self.dir.join(ACCOUNT);
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .map(Some)
                // What is wrong with it is not for a log: it holds a key.
                .map_err(|_| StorageError::Damaged(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(&path, "read")(error)),
        }
    }

    pub(super) fn store_account(&self, account: &StoredAccount) -> Result<(), StorageError> {
        let json = serde_json::to_vec_pretty(account).expect("strings are JSON");
        self.write(ACCOUNT, &json)
    }

    /// The certificate, if there is one.
    pub(super) fn certificate(&self) -> Result<Option<Certificate>, StorageError> {
        let path = self.dir.join(CERTIFICATE);
        match fs::exists(&path) {
            Ok(false) => return Ok(None),
            Ok(true) => {}
            Err(error) => return Err(io_error(&path, "read")(error)),
        }
        let files = CertificateFiles {
            certificate: path.clone(),
            key: path,
        };
        Ok(Some(files.load()?))
    }

    pub(super) fn store_certificate(&self, issued: &Issued) -> Result<(), StorageError> {
        self.write(CERTIFICATE, issued.pem().as_bytes())
    }

    /// Volumes of a cluster are often made readable for a group when they are mounted.
    fn close_to_others(&self, name: &str) -> Result<(), StorageError> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let path = self.dir.join(name);
            let Ok(metadata) = fs::metadata(&path) else {
                return Ok(());
            };
            if metadata.permissions().mode() & 0o077 != 0 {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                    .map_err(io_error(&path, "closed to others"))?;
                tracing::warn!(file = %path.display(), "others could read this file, which holds a private key: they cannot any more");
            }
        }
        Ok(())
    }

    /// Removes what a relay that was killed left beside: it may hold a private key. What cannot be removed does no other harm.
    fn remove_left_behind(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|it| it.modified()).ok();
            let age = age.and_then(|written| written.elapsed().ok());
            if entry.file_name().to_string_lossy().ends_with(BESIDE)
                && age.is_some_and(|age| age > LEFT_BEHIND)
            {
                let _gone = fs::remove_file(entry.path());
            }
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), StorageError> {
        let path = self.dir.join(name);
        // A name of its own: another relay may write to the same directory at the same time, and the later move wins.
        let (process, number) = (std::process::id(), rand::random::<u64>());
        let beside = self
            .dir
            .join(format!("{name}.{process}-{number:016x}{BESIDE}"));
        let failed = io_error(&path, "written");
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(&beside)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            // The move itself must survive a loss of power, too.
            #[cfg(unix)]
            File::open(&self.dir)?.sync_all()?;
            Ok(())
        };
        write().map_err(|error| {
            // If it is there at all; what matters is the error before.
            let _ = fs::remove_file(&beside);
            failed(error)
        })
    }
}

/// A name for an authority's directory that a person can read, and that no other address has.
fn name_of(directory_url: &str) -> String {
    let host = directory_url
        .parse::<http::Uri>()
        .ok()
        .and_then(|url| Some(url.host()?.replace(':', "_")))
        .unwrap_or_default();
    let digest = Sha256::digest(directory_url.as_bytes());
    let start = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    format!("{host}-{start:08x}")
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> StorageError + use<> {
    let path = path.to_owned();
    move |source| StorageError::Io { path, what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_relay_left_beside_goes_and_what_is_being_written_stays() {
        let name = format!("trunkline-acme-left-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let open = || Storage::open(&dir, "https://ca.example.com/dir").unwrap();
        let storage = open();
        storage.write(CERTIFICATE, b"kept").unwrap();
        let left = storage.dir.join("certificate.pem.1-0000000000000001.new");
        let written = storage.dir.join("certificate.pem.2-0000000000000002.new");
        fs::write(&written, b"half").unwrap();
        let file = File::create(&left).unwrap();
        let at = file.metadata().unwrap().modified().unwrap();
        file.set_modified(at - 2 * LEFT_BEHIND).unwrap();
        open();
        assert!(!left.exists());
        assert!(written.exists());
        assert!(storage.dir.join(CERTIFICATE).exists());
        fs::remove_dir_all(&dir).unwrap();
    }

    /// As two relays do that start at the same instant.
    #[test]
    fn several_write_to_one_directory_at_once_and_nothing_is_left_beside() {
        let name = format!("trunkline-acme-storage-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let dir = &dir;
                scope.spawn(move || {
                    let content = format!("{writer}").repeat(10_000);
                    for _ in 0..50 {
                        let storage = Storage::open(dir, "https://ca.example.com/dir").unwrap();
                        storage.write(CERTIFICATE, content.as_bytes()).unwrap();
                    }
                });
            }
        });
        let storage = Storage::open(&dir, "https://ca.example.com/dir").unwrap();
        let names = fs::read_dir(&storage.dir).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [CERTIFICATE]);
        let content = fs::read(storage.dir.join(CERTIFICATE)).unwrap();
        assert_eq!(content.len(), 10_000);
        assert!(content.iter().all(|byte| *byte == content[0]), "one whole");
        fs::remove_dir_all(&dir).unwrap();
    }
}
