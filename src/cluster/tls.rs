//! Mutual TLS between pods (cluster-protocol.md, fault 12): each end shows a certificate that chains to the cluster's CA, and, if the
//! operator wants it, carries a name.
//!
//! Pods dial addresses out of DNS, which no certificate names; so the name is one that all pods of the cluster share.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::AsyncReadExt as _;
use tokio::time::MissedTickBehavior;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower::{BoxError, Layer, Service, ServiceExt as _};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::stream::PodStream;
use crate::reload::Reload;
use crate::telemetry::log_limit::brief;
use crate::time::Clock;
use crate::tls::{Certificate, CertificateError, CertificateFiles};

/// The first byte of every TLS connection: a record of the type *handshake*. A HELLO begins with 0.
pub(super) const HANDSHAKE_RECORD: u8 = 22;

/// Where the material for TLS between pods is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodTlsFiles {
    /// What this pod shows, when it dials and when it is dialed.
    pub own: CertificateFiles,
    /// The certificates of the authorities that other pods' certificates must chain to, in PEM.
    pub ca: PathBuf,
}

/// Why the files are of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodTlsError {
    /// One of them.
    #[error(transparent)]
    File(#[from] CertificateError),
    /// The file of the authorities holds something that is no authority.
    #[error("{} holds a certificate that is no authority: {source}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// rustls does not take them.
    #[error("TLS between pods cannot be configured: {0}")]
    Config(String),
}

impl PodTlsError {
    /// Whether it is this file that is to blame; of two that do not belong together, the key's.
    #[must_use]
    pub fn is_of(&self, file: &Path) -> bool {
        match self {
            Self::File(error) => error.is_of(file),
            Self::Ca { path, .. } => path == file,
            Self::Config(_) => false,
        }
    }
}

/// What the files held at one time.
#[derive(Debug)]
struct Material {
    certificate: Certificate,
    ca: Vec<CertificateDer<'static>>,
    servers: Arc<ChainVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl PodTlsFiles {
    /// Reads the files and puts them together. Blocks on the file system.
    fn load(&self) -> Result<Material, PodTlsError> {
        let certificate = self.own.load()?;
        let text = crate::tls::read_file(&self.ca)?;
        let ca = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CertificateError::Damaged(self.ca.clone()))?;
        if ca.is_empty() {
            return Err(CertificateError::NoCertificate(self.ca.clone()).into());
        }
        let mut roots = RootCertStore::empty();
        for authority in &ca {
            roots
                .add(authority.clone())
                .map_err(|source| PodTlsError::Ca {
                    path: self.ca.clone(),
                    source,
                })?;
        }
        configure(certificate, ca, roots).map_err(PodTlsError::Config)
    }
}

fn configure(
    certificate: Certificate,
    ca: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
) -> Result<Material, String> {
    let roots = Arc::new(roots);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let shown = Arc::new(SingleCertAndKey::from(certificate.key()));
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| words(&error))?;
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| words(&error))?
        .with_client_cert_verifier(clients.clone())
        .with_cert_resolver(shown.clone());
    let chain =
        WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| words(&error))?;
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| words(&error))?;
    let servers = Arc::new(ChainVerifier {
        roots,
        provider,
        chain,
    });
    let client = client
        .dangerous()
        .with_custom_certificate_verifier(servers.clone())
        .with_client_cert_resolver(shown);
    Ok(Material {
        certificate,
        ca,
        servers,
        clients,
        client: Arc::new(client),
        server: Arc::new(server),
    })
}

/// Checks all of a server's certificate but its name, which is looked at once the handshake is done.
#[derive(Debug)]
struct ChainVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    chain: Arc<WebPkiServerVerifier>,
}

impl ChainVerifier {
    /// Whether a chain leads to one of the authorities.
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
    }
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// What pods at the addresses that were dialed have spoken.
#[derive(Debug, Default)]
struct Spoken(Mutex<HashMap<SocketAddr, Speech>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speech {
    /// TLS worked at least once.
    Tls,
    /// Only plain TCP, so far.
    Plain,
}

impl Spoken {
    fn tls(&self, address: SocketAddr) {
        self.0.lock().insert(address, Speech::Tls);
    }

    fn has_spoken_tls(&self, address: SocketAddr) -> bool {
        self.0.lock().get(&address) == Some(&Speech::Tls)
    }

    /// True the first time.
    fn plain(&self, address: SocketAddr) -> bool {
        // Where TLS has worked meanwhile, that stays known.
        let mut spoken = self.0.lock();
        let is_new = !spoken.contains_key(&address);
        spoken.entry(address).or_insert(Speech::Plain);
        is_new
    }
}

/// TLS between pods, ready to be used. Clones share the material, which [`watch`](Self::watch) replaces when the files change.
#[derive(Debug, Clone)]
pub struct PodTls {
    material: Arc<RwLock<Arc<Material>>>,
    spoken: Arc<Spoken>,
    files: PodTlsFiles,
    name: Option<String>,
    allow_plain: bool,
}

/// Why a stream that was dialed by another pod is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsRefusal {
    /// It ended without a word.
    #[error("closed without a word")]
    Nothing,
    /// It spoke without TLS.
    #[error("spoke without TLS")]
    Plain,
    /// The handshake failed.
    #[error("{0}")]
    Handshake(#[source] io::Error),
}

impl PodTls {
    /// Reads the files. `name`: a DNS name or a URI (`spiffe://...`) that the other pods' certificates must carry. `allow_plain`: streams
    /// without TLS are taken, too, and one is opened where the handshake ends without a word of TLS, as it does at a pod that does not
    /// know it; for the time of a migration. Never at an address where TLS has worked since the start.
    /// Blocks on the file system.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn load(
        files: PodTlsFiles,
        name: Option<String>,
        allow_plain: bool,
    ) -> Result<Self, PodTlsError> {
        let tls = Self {
            material: Arc::new(RwLock::new(Arc::new(files.load()?))),
            spoken: Arc::default(),
            files,
            name,
            allow_plain,
        };
        tls.tell();
        Ok(tls)
    }

    /// Logs what this pod shows, and why other pods will not take it, if they are set up as this one is.
    fn tell(&self) {
        let material = self.material();
        let (certificate, clock) = (&material.certificate, Clock::system());
        certificate.log("certificate for other pods in use", &clock);
        let key = certificate.key();
        let Some((shown, intermediates)) = key.cert.split_first() else {
            return;
        };
        if let Err(error) = self.check_name(Some(&key.cert)) {
            tracing::warn!(%error, "pods with the same --cluster-tls-name refuse the certificate of this one");
        }
        if !certificate.is_valid_at(clock.now_unix()) {
            // The log has just told.
            return;
        }
        let now = UnixTime::now();
        let taken = material.servers.verify(shown, intermediates, now);
        let taken = taken.and_then(|()| {
            let verified = material
                .clients
                .verify_client_cert(shown, intermediates, now);
            verified.map(|_| ())
        });
        if let Err(error) = taken {
            tracing::warn!(
                error = brief(&error),
                "pods with the same --cluster-tls-ca-file refuse the certificate of this one"
            );
        }
    }

    /// Keeps the material at what the files hold, for ever; streams that are up stay. Looks every `interval` and when `reload` says
    /// so. What has become useless is logged once per reason, and the old material stays. Cancel-safe.
    pub async fn watch(self, interval: Duration, mut reload: Reload) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complaint = None;
        let is_valid = || {
            let now = Clock::system().now_unix();
            self.material().certificate.is_valid_at(now)
        };
        let mut was_valid = is_valid();
        loop {
            if std::mem::replace(&mut was_valid, is_valid()) != was_valid {
                self.tell();
            }
            tokio::select! {
                _ = ticks.tick() => {}
                // Whoever asks wants to hear what is wrong, also once more.
                () = reload.asked() => complaint = None,
            }
            let files = self.files.clone();
            // They may lie on a network mount that hangs: not on a thread that carries peers.
            let Ok(loaded) = tokio::task::spawn_blocking(move || files.load()).await else {
                continue;
            };
            match loaded {
                Ok(new) => {
                    complaint = None;
                    let old = self.material();
                    if new.certificate != old.certificate || new.ca != old.ca {
                        tracing::info!(
                            "the TLS files of the cluster have changed: they are in use"
                        );
                        *self.material.write() = Arc::new(new);
                        self.tell();
                        was_valid = is_valid();
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if complaint.as_ref() != Some(&text) {
                        tracing::warn!(
                            error = %text,
                            "the TLS files of the cluster are of no use any more: the old ones stay in use"
                        );
                        complaint = Some(text);
                    }
                }
            }
        }
    }

    fn material(&self) -> Arc<Material> {
        Arc::clone(&self.material.read())
    }

    /// The server's end.
    pub(super) async fn accept(&self, mut stream: PodStream) -> Result<PodStream, TlsRefusal> {
        let mut first = [0];
        match stream.read.read(&mut first).await {
            Ok(1) => {}
            Ok(_) | Err(_) => return Err(TlsRefusal::Nothing),
        }
        let is_tls = first[0] == HANDSHAKE_RECORD;
        if !is_tls && !self.allow_plain {
            return Err(TlsRefusal::Plain);
        }
        stream.read = Box::new(io::Cursor::new(first).chain(stream.read));
        if !is_tls {
            return Ok(stream);
        }
        let acceptor = TlsAcceptor::from(Arc::clone(&self.material().server));
        let io = tokio::io::join(stream.read, stream.write);
        let tls = acceptor.accept(io).await.map_err(TlsRefusal::Handshake)?;
        self.check_name(tls.get_ref().1.peer_certificates())
            .map_err(TlsRefusal::Handshake)?;
        Ok(PodStream::new(tls, stream.remote))
    }

    /// The client's end.
    async fn connect(&self, stream: PodStream, address: SocketAddr) -> io::Result<PodStream> {
        let connector = TlsConnector::from(Arc::clone(&self.material().client));
        let io = tokio::io::join(stream.read, stream.write);
        let name = ServerName::IpAddress(address.ip().into());
        let tls = connector.connect(name, io).await?;
        self.check_name(tls.get_ref().1.peer_certificates())?;
        Ok(PodStream::new(tls, stream.remote))
    }

    /// Whether the other pod's certificate carries the name that it must.
    fn check_name(&self, certificates: Option<&[CertificateDer<'_>]>) -> io::Result<()> {
        let Some(name) = &self.name else {
            return Ok(());
        };
        let certificate = certificates.and_then(<[_]>::first);
        if certificate.is_some_and(|certificate| carries_name(certificate, name)) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the pod's certificate does not carry the name {name}"),
        ))
    }
}

fn carries_name(certificate: &CertificateDer<'_>, wanted: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    names.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(name) => name.eq_ignore_ascii_case(wanted),
        GeneralName::URI(uri) => *uri == wanted,
        _ => false,
    })
}

/// Puts TLS on what a service dials.
#[derive(Debug, Clone)]
pub(super) struct TlsDialLayer(pub(super) PodTls);

impl<S> Layer<S> for TlsDialLayer {
    type Service = TlsDial<S>;

    fn layer(&self, inner: S) -> TlsDial<S> {
        TlsDial {
            inner,
            tls: self.0.clone(),
        }
    }
}

/// The service of [`TlsDialLayer`]. Ready when the inner one is; dials once more, without TLS, where that is allowed and nothing speaks for
/// it that the pod knows TLS.
#[derive(Debug, Clone)]
pub(super) struct TlsDial<S> {
    inner: S,
    tls: PodTls,
}

impl<S> Service<SocketAddr> for TlsDial<S>
where
    S: Service<SocketAddr, Response = PodStream> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    type Response = PodStream;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<PodStream, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, address: SocketAddr) -> Self::Future {
        // The very instance that was polled ready; a clone stays behind.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let tls = self.tls.clone();
        Box::pin(async move {
            let stream = inner.call(address).await.map_err(Into::into)?;
            match tls.connect(stream, address).await {
                Ok(stream) => {
                    tls.spoken.tls(address);
                    Ok(stream)
                }
                Err(error)
                    if tls.allow_plain
                        && !speaks_tls(&error)
                        && !tls.spoken.has_spoken_tls(address) =>
                {
                    let plain = inner.ready().await.map_err(Into::into)?;
                    let stream = plain.call(address).await.map_err(Into::into)?;
                    if tls.spoken.plain(address) {
                        tracing::warn!(network.peer.address = %address, error = brief(&error),
                            "no TLS with a pod: it is spoken to in the clear, as is allowed; told once for each address");
                    }
                    Ok(stream)
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Err("the pod closed the stream in the TLS handshake: is this its cluster port, and has it cluster TLS?".into())
                }
                Err(error) => Err(error.into()),
            }
        })
    }
}

/// Whether it shows in how a handshake failed that the pod speaks TLS. A stock pod takes our first record for a bad HELLO and closes; but so
/// does one that speaks TLS and dies, or whoever cuts the stream, which nobody can tell apart.
fn speaks_tls(error: &io::Error) -> bool {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return true;
    }
    let cause = error.get_ref().and_then(|error| error.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidMessage(_)) | None => false,
        Some(_) => true,
    }
}
