//! Secrets: kept out of every `Debug`, read from files, and read again when a file changes.
//!
//! Implements operations.md, *Flags*, on secret files: several secrets in a file, one a line, are how a secret is
//! rotated. Never logs or displays the content of a file, not even a part of it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::MissedTickBehavior;

use crate::files;
use crate::reload::Reload;

/// How often a secret file is looked at: a rotation is seen soon, at the price of one small read.
pub const SECRET_POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The longest secret file, in bytes: more than that is a wrong path, not secrets.
const SECRET_FILE_MAX: u64 = 64 * 1024;

/// One secret as text. Its `Debug` prints nothing of it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// Takes `text` as it is, white space included.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Never print it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// Why a secret file is of no use. The texts name the path and never the content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The file cannot be opened or read, it is no file, or longer than 64 KiB.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not UTF-8.
    #[error("{} is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    /// It has no line with a secret.
    #[error("{} holds no secret", .0.display())]
    Empty(PathBuf),
}

/// Reads a file of secrets: UTF-8, one secret a line, white space around a secret and empty lines ignored, a
/// secret that stands there twice counted once. Never returns an empty list. Blocks on the file system.
///
/// # Errors
/// See [`SecretError`].
pub fn read_secrets(path: &Path) -> Result<Vec<SecretText>, SecretError> {
    let content = files::read(path, SECRET_FILE_MAX).map_err(|source| SecretError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let Ok(text) = String::from_utf8(content) else {
        return Err(SecretError::NotText(path.to_owned()));
    };
    let mut secrets: Vec<SecretText> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if !secrets.iter().any(|known| known.expose() == line) {
            secrets.push(SecretText::new(line));
        }
    }
    if secrets.is_empty() {
        return Err(SecretError::Empty(path.to_owned()));
    }
    Ok(secrets)
}

/// Watches a file of secrets for ever, and calls `on_change` with all its secrets each time they differ from the
/// last ones; `current` are those the caller has. Looks every `interval` ([`SECRET_POLL_INTERVAL`]) and when `reload` says so, at the content
/// and not at the file's identity, because Kubernetes swaps a symbolic link above the file.
///
/// A file that has become useless is logged at `warn`, once per reason, and the old secrets stay; a change is
/// logged at `info` with the number of secrets. Cancel-safe: dropping the future ends the watch.
pub async fn watch_secrets(
    path: PathBuf,
    mut current: Vec<SecretText>,
    interval: Duration,
    mut reload: Reload,
    mut on_change: impl FnMut(Vec<SecretText>),
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complaint = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = reload.asked() => {}
        }
        let file = path.clone();
        // The file may lie on a network mount that hangs: not on a thread that carries peers.
        let Ok(read) = tokio::task::spawn_blocking(move || read_secrets(&file)).await else {
            continue;
        };
        match read {
            Ok(secrets) => {
                complaint = None;
                if secrets != current {
                    tracing::info!(
                        file.path = %path.display(),
                        secrets = secrets.len(),
                        "the secret file has changed: its secrets are in use"
                    );
                    current.clone_from(&secrets);
                    on_change(secrets);
                }
            }
            Err(error) => {
                let text = error.to_string();
                if complaint.as_ref() != Some(&text) {
                    tracing::warn!(
                        file.path = %path.display(),
                        error = %text,
                        "the secret file is of no use any more: the old secrets stay in use"
                    );
                    complaint = Some(text);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
