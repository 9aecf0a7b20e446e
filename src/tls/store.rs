//! The certificate that is shown to clients, and its replacement while connections go on.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::metrics::Meter;
use parking_lot::RwLock;
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::telemetry::names;

/// What an ACME authority asks for by ALPN when it wants to see a challenge (RFC 8737, section 6.2). A listener that offers it closes
/// such a connection as soon as the handshake is done.
pub const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

/// A certificate chain with its private key, known to belong together. Its `Debug` shows no key.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    not_before: u64,
    not_after: u64,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Certificate {
    /// Whether it is the same chain: a key has one.
    fn eq(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }
}

/// Why a chain and a key make no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("the first certificate is not an x509 certificate")]
    NotX509,
    #[error("the private key does not belong to the first certificate")]
    KeyMismatch,
    #[error("the private key is of a kind or size that cannot be used: {0}")]
    Key(rustls::Error),
}

impl Certificate {
    /// Puts chain and key together; the first certificate is the server's own.
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, Unusable> {
        let first = chain.first().ok_or(Unusable::NotX509)?;
        let (_, parsed) =
            X509Certificate::from_der(first.as_ref()).map_err(|_| Unusable::NotX509)?;
        let seconds =
            |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let not_before = seconds(parsed.validity().not_before);
        let not_after = seconds(parsed.validity().not_after);
        let names = names_of(&parsed);
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(
            |error| match error {
                rustls::Error::InconsistentKeys(_) => Unusable::KeyMismatch,
                rustls::Error::InvalidCertificate(_) => Unusable::NotX509,
                other => Unusable::Key(other),
            },
        )?;
        Ok(Self {
            key: Arc::new(key),
            names,
            not_before,
            not_after,
        })
    }

    /// One that nobody has signed but itself.
    #[cfg(test)]
    pub(crate) fn self_signed(domain: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([domain.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        Self::new(vec![made.cert.into()], key).unwrap()
    }

    /// Chain and key, as rustls takes them.
    pub(crate) fn key(&self) -> CertifiedKey {
        CertifiedKey::clone(&self.key)
    }

    /// The names it is good for, for logs.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether it is good for all of these names; a wildcard is a name like another.
    #[must_use]
    pub(super) fn covers(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.names.contains(name))
    }

    /// Whether clients that have asked for this host, a DNS name or an IP address, take it.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        let Ok(host) = ServerName::try_from(host) else {
            return false;
        };
        let certificate = self
            .key
            .end_entity_cert()
            .and_then(ParsedCertificate::try_from);
        certificate.is_ok_and(|certificate| verify_server_name(&certificate, &host).is_ok())
    }

    /// From when on it is valid, in Unix seconds.
    #[must_use]
    pub const fn not_before(&self) -> u64 {
        self.not_before
    }

    /// From when on it is valid, as logs say it.
    pub(super) fn begins(&self) -> impl fmt::Display + use<> {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.not_before))
    }

    /// When it expires, as logs and health checks say it (RFC 3339).
    pub(crate) fn expires(&self) -> impl fmt::Display + use<> {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.not_after))
    }

    /// When it expires, in Unix seconds.
    #[must_use]
    pub const fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Whether `now` (Unix seconds) lies within its dates.
    #[must_use]
    pub const fn is_valid_at(&self, now: u64) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
            16 => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
            _ => None,
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

/// What listeners show. Clones are handles to the same store; what is put in is shown from the next handshake on.
#[derive(Debug, Clone, Default)]
pub struct Certificates(Arc<Store>);

#[derive(Debug, Default)]
struct Store {
    /// What clients ask for, if that is known.
    host: Option<String>,
    current: RwLock<Option<Certificate>>,
    /// What an ACME authority is shown, by domain (RFC 8737).
    challenges: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl Certificates {
    /// An empty store: every handshake fails until there is a certificate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store for a relay that clients know by this host: what is put in and is not for it is logged at `warn`.
    #[must_use]
    pub fn for_host(host: &str) -> Self {
        Self(Arc::new(Store {
            host: Some(host.to_owned()),
            ..Store::default()
        }))
    }

    /// Shows this one from now on.
    pub fn set(&self, certificate: Certificate) {
        if let Some(host) = self
            .0
            .host
            .as_deref()
            .filter(|host| !certificate.is_for(host))
        {
            tracing::warn!(
                certificate.names = certificate.names().join(", "),
                "the certificate is not for {host}, the host of the exposed address: clients that see it will refuse it"
            );
        }
        *self.0.current.write() = Some(certificate);
    }

    /// What is shown now.
    #[must_use]
    pub fn current(&self) -> Option<Certificate> {
        self.0.current.read().clone()
    }

    /// Whether there is one that is within its dates at `now` (Unix seconds).
    #[must_use]
    pub fn is_valid_at(&self, now: u64) -> bool {
        let current = self.0.current.read();
        current
            .as_ref()
            .is_some_and(|certificate| certificate.is_valid_at(now))
    }

    /// Shows this to an ACME authority that asks for the challenge of the domain.
    pub(crate) fn show_challenge(&self, domain: &str, certificate: CertifiedKey) {
        let mut challenges = self.0.challenges.write();
        challenges.insert(domain.to_owned(), Arc::new(certificate));
    }

    /// Shows it no more.
    pub(super) fn hide_challenge(&self, domain: &str) {
        self.0.challenges.write().remove(domain);
    }

    /// What picks the certificate in a handshake, for a rustls configuration of one's own.
    #[must_use]
    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.0) as Arc<dyn ResolvesServerCert>
    }

    /// Shows the expiry of the present certificate on this meter; no sample while there is none.
    pub(crate) fn observe(&self, meter: &Meter) {
        let store = Arc::downgrade(&self.0);
        meter
            .u64_observable_gauge(names::CERTIFICATE_EXPIRY)
            .with_description("When the certificate in use expires, in Unix seconds.")
            .with_callback(move |observer| {
                if let Some(store) = store.upgrade()
                    && let Some(certificate) = store.current.read().as_ref()
                {
                    observer.observe(certificate.not_after, &[]);
                }
            })
            .build();
    }
}

impl ResolvesServerCert for Store {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Who asks for a challenge gets nothing else, and nobody else gets a challenge.
        if (hello.alpn().into_iter().flatten()).any(|name| name == ACME_TLS_ALPN) {
            let domain = hello.server_name()?.to_ascii_lowercase();
            return self.challenges.read().get(&domain).cloned();
        }
        self.current
            .read()
            .as_ref()
            .map(|current| Arc::clone(&current.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_for_the_hosts_that_it_names() {
        let names = ["relay.example.com", "*.mesh.example.com", "10.0.0.1", "::1"];
        let made = rcgen::generate_simple_self_signed(names.map(str::to_owned)).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let certificate = Certificate::new(vec![made.cert.into()], key).unwrap();
        for host in [
            "relay.example.com",
            "Relay.Example.com",
            "a.mesh.example.com",
            "10.0.0.1",
            "::1",
        ] {
            assert!(certificate.is_for(host), "{host}");
        }
        for host in [
            "example.com",
            "a.b.mesh.example.com",
            "mesh.example.com",
            "10.0.0.2",
            "::2",
            "a b",
        ] {
            assert!(!certificate.is_for(host), "{host}");
        }
    }
}
