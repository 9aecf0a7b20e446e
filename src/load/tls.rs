//! The load's side of TLS: what it trusts, and a stream that is plain, or TLS, or QUIC.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, RootCertStore, SupportedCipherSuite};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::LoadError;
use super::peer::closed_or;
use super::quic::QuicStream;
use crate::tls::{AnyCertificate, read_roots};

/// Whose word on the relay's certificate counts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trust<'a> {
    /// That of the authorities that this machine trusts.
    System,
    /// That of the certificates in a PEM file.
    File(&'a Path),
    /// Nobody's: whatever the relay shows is taken.
    Anything,
}

/// A client's configuration with this trust.
pub(super) fn config(trust: Trust<'_>) -> Result<Arc<ClientConfig>, LoadError> {
    let mut provider = aws_lc_rs::default_provider();
    // In the order of the stock clients, which are written in Go: on machines that have AES in hardware AES-128 comes first.
    let aes_128 =
        |suite: &SupportedCipherSuite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| !aes_128(suite));
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has ciphers for the default versions");
    let builder = match trust {
        Trust::System => builder.with_root_certificates(system_roots()?),
        Trust::File(file) => {
            let wrong = |error| LoadError::Usage(format!("--ca-file: {error}"));
            builder.with_root_certificates(read_roots(file).map_err(wrong)?)
        }
        Trust::Anything => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider))),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each connection costs what a new client's does.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, LoadError> {
    // What is found elsewhere must not hide that the file which somebody has named is of no use.
    let file = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty());
    if let Some(file) = file.filter(|file| !holds_certificates(file)) {
        return Err(LoadError::Usage(format!(
            "SSL_CERT_FILE: {} cannot be read, or there is no certificate in it: mend or unset the variable, or say whom to trust \
             with --ca-file",
            file.display()
        )));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if !roots.is_empty() {
        return Ok(roots);
    }
    let errors: Vec<_> = found
        .errors
        .iter()
        .map(|error| format!(" ({error})"))
        .collect();
    Err(LoadError::Usage(format!(
        "this machine trusts no authorities{}: say whom to trust with --ca-file, or take whatever certificate comes with --insecure",
        errors.concat()
    )))
}

fn holds_certificates(file: &OsStr) -> bool {
    CertificateDer::pem_file_iter(file).is_ok_and(|mut found| found.any(|one| one.is_ok()))
}

/// What a failed handshake is called. A self-made certificate that is its own authority is what newcomers meet first.
pub(super) fn handshake_failed(doing: &'static str) -> impl FnOnce(io::Error) -> LoadError {
    move |source| {
        let text = source.to_string();
        let why = if text.contains("CaUsedAsEndEntity") {
            "the relay shows a certificate that is itself an authority, which this client does not take; make it with \
             `-addext basicConstraints=critical,CA:FALSE`"
        } else if ["UnknownIssuer", "BadSignature", "ForPublicKeyContext"]
            .iter()
            .any(|cause| text.contains(cause))
        {
            "the relay's certificate is of an authority that is not trusted here: give --ca-file a file that holds it"
        } else if text.contains("not valid for") {
            "the relay's certificate is for another name: give --address a name of its subjectAltName (which it must have: its CN \
             is not looked at), and --connect-to where the relay is"
        } else if text.contains("corrupt message") {
            return LoadError::NotTls { source };
        } else {
            return closed_or(doing)(source);
        };
        LoadError::Certificate { why, source }
    }
}

/// The name or address in `host:port`, as a handshake has it.
pub(super) fn server_name(host: &str) -> &str {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.trim_matches(['[', ']'])
}

/// What a peer's bytes go over.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Quic(Box<QuicStream>),
}

impl Stream {
    /// The handshake with the server of this `host:port`.
    pub(super) async fn tls(
        tcp: TcpStream,
        config: &Arc<ClientConfig>,
        host: &str,
    ) -> io::Result<Self> {
        let name = ServerName::try_from(server_name(host).to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = TlsConnector::from(Arc::clone(config))
            .connect(name, tcp)
            .await?;
        Ok(Self::Tls(Box::new(stream)))
    }

    /// The TCP stream below, if there is one.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.get_ref().0),
            Self::Quic(_) => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Quic(quic) => Pin::new(quic).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            Self::Quic(quic) => Pin::new(quic).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Quic(quic) => Pin::new(quic).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Quic(quic) => Pin::new(quic).poll_shutdown(cx),
        }
    }
}
