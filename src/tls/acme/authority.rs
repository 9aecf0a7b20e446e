//! The way to the certificate authority: its address, whom it must be vouched for by, and our account there.

use std::error::Error as StdError;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{Account, BodyWrapper, BytesResponse, Error, HttpClient, NewAccount};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tracing::{info, warn};

use super::super::CertificateError;
use super::super::files::read;
use super::storage::{Storage, StoredAccount};
use super::{AcmeError, AcmeSettings, blocking};

/// How long the authority may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The certificate authority as the settings name it, for one attempt: a file that has changed is read anew by the next.
pub(super) struct Authority<'a> {
    settings: &'a AcmeSettings,
    http: Http,
}

impl<'a> Authority<'a> {
    /// Talks to nobody yet.
    pub(super) fn new(settings: &'a AcmeSettings) -> Result<Self, AcmeError> {
        let builder = HttpsConnectorBuilder::new();
        let provider = aws_lc_rs::default_provider();
        let builder = match &settings.ca_file {
            None => builder
                .with_provider_and_native_roots(provider)
                .map_err(|error| AcmeError::Roots(error.into()))?,
            Some(file) => {
                let roots = read_roots(file).map_err(|error| AcmeError::Roots(error.into()))?;
                let config = ClientConfig::builder_with_provider(Arc::new(provider))
                    .with_safe_default_protocol_versions()
                    .expect("the provider has ciphers for them")
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                builder.with_tls_config(config)
            }
        };
        let connector = builder.https_only().enable_http1().build();
        Ok(Self {
            settings,
            http: Http(Client::builder(TokioExecutor::new()).build(connector)),
        })
    }

    /// Our account: the one that is kept, or a new one.
    pub(super) async fn account(&self, storage: &Storage) -> Result<Account, AcmeError> {
        let place = storage.clone();
        let stored = match blocking(move || place.account()).await {
            Ok(stored) => stored,
            Err(error) => {
                warn!(%error, "the ACME account that was kept is of no use: making a new one");
                None
            }
        };
        let Some(StoredAccount { email, credentials }) = stored else {
            return self.new_account(storage).await;
        };
        if email != self.settings.email {
            // Accounts cost nothing, and the old one has nothing that we need.
            return self.new_account(storage).await;
        }
        let builder = Account::builder_with_http(Box::new(self.http.clone()));
        Ok(builder.from_credentials(credentials).await?)
    }

    /// Makes an account and keeps it. Whoever runs the relay has agreed to the authority's terms by asking for certificates.
    pub(super) async fn new_account(&self, storage: &Storage) -> Result<Account, AcmeError> {
        let email = &self.settings.email;
        let contact: Vec<String> = email.iter().map(|at| format!("mailto:{at}")).collect();
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let wanted = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let builder = Account::builder_with_http(Box::new(self.http.clone()));
        let url = self.settings.directory_url.clone();
        let (account, credentials) = builder.create(&wanted, url, None).await?;
        info!(
            acme.account = account.id(),
            "account made at the certificate authority"
        );
        let stored = StoredAccount {
            email: email.clone(),
            credentials,
        };
        let storage = storage.clone();
        blocking(move || storage.store_account(&stored)).await?;
        Ok(account)
    }
}

/// HTTPS whose answers do not take for ever.
#[derive(Clone)]
struct Http(Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>);

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let answer = HttpClient::request(&self.0, request);
        Box::pin(async move {
            let too_late = |_| {
                let error: Box<dyn StdError + Send + Sync> = "no answer within 30 s".into();
                Err(Error::Other(error))
            };
            tokio::time::timeout(ANSWER_TIMEOUT, answer)
                .await
                .unwrap_or_else(too_late)
        })
    }
}

/// The certificates in a PEM file, as those that an authority's own must come from.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn read_roots(file: &Path) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&read(file)?) {
        let certificate = certificate.map_err(|_| CertificateError::Damaged(file.to_owned()))?;
        roots
            .add(certificate)
            .map_err(|_| CertificateError::NotX509(file.to_owned()))?;
    }
    if roots.is_empty() {
        return Err(CertificateError::NoCertificate(file.to_owned()));
    }
    Ok(roots)
}
