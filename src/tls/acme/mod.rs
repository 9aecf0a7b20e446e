//! Certificates from an authority that speaks ACME (RFC 8555), such as Let's Encrypt: obtained, kept on disk, renewed in time.
//!
//! Owns when an order is made and what comes of a failure (this file, `backoff`), the order itself (`order`), the connection
//! to the authority (`authority`), the proof that a domain is ours (`proof`, `route53`), and the directory with account and
//! certificate (`storage`). What is obtained goes into the same [`Certificates`] that files would fill, so that metric, health
//! and log tell one story. It never keeps the relay from starting: an authority that is down is tried again.
//!
//! Source: operations.md, *Flags*; ADR 0031.

mod authority;
mod backoff;
mod error;
mod order;
mod proof;
#[cfg(feature = "route53")]
mod route53;
mod storage;

use std::path::PathBuf;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use self::authority::Authority;
pub use self::authority::read_roots;
use self::backoff::Backoff;
pub use self::error::{AcmeError, StorageError};
use self::proof::Prover;
use self::storage::Storage;
use super::{Certificate, Certificates};
use crate::reload::Reload;
use crate::telemetry::names;
use crate::time::Clock;

/// Let's Encrypt's directory of services.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// How long one attempt may take in all: DNS servers may need minutes to agree, and an authority that hangs is one that is down.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// How often the date is looked at while a certificate is good: a machine that was asleep, or whose clock was put right, is late
/// by no more than this.
const LOOK_INTERVAL: Duration = Duration::from_secs(3600);

/// A certificate is renewed when this part of its life is left: 30 of 90 days, 2 of 6.
const RENEWAL_PART: u64 = 3;

/// The label of an attempt that brought a certificate.
const SUCCESS: &str = "ok";

/// How we show the authority that a domain is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// TLS-ALPN-01 (RFC 8737): a certificate of a special kind, shown on the port where peers connect. The authority comes to port
    /// 443 of the domain.
    TlsAlpn01,
    /// DNS-01 (RFC 8555, section 8.4): a TXT record in a zone of Amazon Route 53.
    #[cfg(feature = "route53")]
    Dns01Route53,
}

/// What certificates are wanted, and from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeSettings {
    /// The domains of the certificate, lower case; the first gives it its name. Not empty.
    pub domains: Vec<String>,
    /// Where the authority may write to when something is wrong with the account.
    pub email: Option<String>,
    /// Where account and certificate are kept.
    pub data_dir: PathBuf,
    /// The authority's directory of services, an `https://` address.
    pub directory_url: String,
    /// Certificates in PEM that the authority's own must come from; None: those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// How the domains are shown to be ours.
    pub challenge: Challenge,
}

/// Keeps a store at a valid certificate.
#[derive(Debug)]
pub struct Acme {
    settings: AcmeSettings,
    storage: Storage,
    certificates: Certificates,
    orders: Counter<u64>,
    clock: Clock,
}

impl Acme {
    /// Opens the directory, and puts the certificate that is kept there into the store. Talks to nobody. Blocks on the file system.
    ///
    /// # Errors
    /// The directory cannot be made, or not written to. A certificate there that is of no use is logged, and a new one ordered.
    pub fn open(
        settings: AcmeSettings,
        certificates: Certificates,
        meter: &Meter,
        clock: Clock,
    ) -> Result<Self, StorageError> {
        let storage = Storage::open(&settings.data_dir, &settings.directory_url)?;
        let orders = meter
            .u64_counter(names::ACME_ORDERS)
            .with_description("Attempts to get a certificate by ACME, by result.")
            .build();
        for result in AcmeError::REASONS.iter().copied().chain([SUCCESS]) {
            orders.add(0, &[KeyValue::new(names::RESULT, result)]);
        }
        let acme = Self {
            settings,
            storage,
            certificates,
            orders,
            clock,
        };
        acme.adopt(acme.storage.certificate());
        Ok(acme)
    }

    /// Orders a certificate whenever one is due, for ever: when there is none for all the domains, and when a third of its life
    /// is left. Failures are logged, counted and tried again, later each time; the word to reload ends such a wait.
    ///
    /// Cancel-safe: dropping the future ends it; an order that is on its way is given up.
    pub async fn run(self, mut reload: Reload) {
        let mut backoff = Backoff::default();
        loop {
            self.until_due(&mut reload).await;
            let attempt = timeout(ATTEMPT_TIMEOUT, Box::pin(self.obtain())).await;
            let outcome = attempt
                .unwrap_or(Err(AcmeError::TimedOut))
                .and_then(|certificate| self.put_to_use(certificate));
            match outcome {
                Ok(()) => {
                    self.count(SUCCESS);
                    backoff = Backoff::default();
                }
                Err(error) => {
                    self.count(error.reason());
                    let (wait, is_new) = backoff.failed(&error);
                    self.log_failure(&error, wait, is_new);
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = reload.asked() => {}
                    }
                }
            }
        }
    }

    /// Waits until a certificate must be ordered.
    async fn until_due(&self, reload: &mut Reload) {
        loop {
            let due = self.due_in();
            if due.is_zero() {
                // Another relay with the same directory may have been faster.
                self.adopt(self.stored().await);
                if self.due_in().is_zero() {
                    return;
                }
                continue;
            }
            tokio::select! {
                () = sleep(due.min(LOOK_INTERVAL)) => {}
                () = reload.asked() => self.adopt(self.stored().await),
            }
        }
    }

    /// How long the certificate in use is good for without a thought of the next one.
    fn due_in(&self) -> Duration {
        let seconds = match self.certificates.current() {
            Some(certificate) if certificate.covers(&self.settings.domains) => {
                let lifetime = certificate.not_after() - certificate.not_before();
                let renew_at = certificate.not_after() - lifetime / RENEWAL_PART;
                renew_at.saturating_sub(self.clock.now_unix())
            }
            _ => 0,
        };
        Duration::from_secs(seconds)
    }

    async fn obtain(&self) -> Result<Certificate, AcmeError> {
        let authority = Authority::new(&self.settings)?;
        let prover = Prover::new(self.settings.challenge, &self.certificates).await;
        let account = authority.account(&self.storage).await?;
        let issued = match order::issue(&account, &self.settings.domains, &prover).await {
            // It was deleted there; or this is another authority at the old one's address.
            Err(error) if error.is_unknown_account() => {
                info!(
                    "the certificate authority does not know our account any more: making a new one"
                );
                let account = authority.new_account(&self.storage).await?;
                order::issue(&account, &self.settings.domains, &prover).await?
            }
            result => result?,
        };
        let certificate = issued.certificate()?;
        let storage = self.storage.clone();
        // It is of use, even if the disk is full; only a restart will not find it.
        if let Err(error) = blocking(move || storage.store_certificate(&issued)).await {
            warn!(%error, "the certificate cannot be kept: it is lost when this process ends");
        }
        Ok(certificate)
    }

    /// Shows the certificate from now on, and says whether it is what was ordered.
    fn put_to_use(&self, certificate: Certificate) -> Result<(), AcmeError> {
        certificate.log("certificate obtained by ACME, in use now", &self.clock);
        self.certificates.set(certificate);
        // Asking for another one at once would not help.
        if self.due_in().is_zero() {
            return Err(AcmeError::NotAsOrdered);
        }
        Ok(())
    }

    /// Puts a certificate from the directory into the store if it is newer than what is there.
    fn adopt(&self, stored: Result<Option<Certificate>, StorageError>) {
        match stored {
            Ok(Some(certificate)) => {
                let current = self.certificates.current();
                if current.is_none_or(|current| current.not_after() < certificate.not_after()) {
                    certificate.log(
                        "certificate from the ACME directory, in use now",
                        &self.clock,
                    );
                    self.certificates.set(certificate);
                }
            }
            Ok(None) => {}
            Err(error) => {
                warn!(%error, "the certificate that was kept is of no use: a new one is ordered")
            }
        }
    }

    async fn stored(&self) -> Result<Option<Certificate>, StorageError> {
        let storage = self.storage.clone();
        blocking(move || storage.certificate()).await
    }

    fn count(&self, result: &'static str) {
        self.orders.add(1, &[KeyValue::new(names::RESULT, result)]);
    }

    /// In full the first time, and as a reminder after that.
    fn log_failure(&self, error: &AcmeError, wait: Duration, is_new: bool) {
        let reason = error.reason();
        let next = humantime::format_duration(Duration::from_secs(wait.as_secs()));
        let current = self.certificates.current();
        let expires = current.map(|certificate| certificate.expires());
        let certificate = expires.as_ref().map(tracing::field::display);
        if is_new {
            warn!(error.type = reason, error = %error.text(), certificate.expires = certificate, next_attempt_in = %next, "no certificate by ACME");
        } else {
            info!(error.type = reason, certificate.expires = certificate, next_attempt_in = %next, "still no certificate by ACME, for the same reason");
        }
    }
}

/// Runs what waits for a disk, which may lie on a network that hangs, where no peer waits for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("this work does not panic, and nobody aborts it")
}
