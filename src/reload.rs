//! The word that files are to be read again now, whether they have changed or not (SIGHUP).
//!
//! Owns the way of that word from who gives it to all who wait. Knows no file and no signal.

use tokio::sync::watch;

/// Gives the word; when it is dropped, the word never comes again.
#[derive(Debug)]
pub struct Reloader(watch::Sender<()>);

/// Hears the word; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reload(watch::Receiver<()>);

impl Reloader {
    /// A pair of mouth and ear.
    #[must_use]
    pub fn new() -> (Self, Reload) {
        let (sender, receiver) = watch::channel(());
        (Self(sender), Reload(receiver))
    }

    /// Tells all who wait, and those who will ask next.
    pub fn reload(&self) {
        self.0.send_replace(());
    }
}

impl Reload {
    /// One that never hears anything.
    #[must_use]
    pub fn never() -> Self {
        Reloader::new().1
    }

    /// Resolves when the word was given since the last time, or when it is; several words may count as one. Cancel-safe.
    pub async fn asked(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
