//! How peers connect with TLS, if they do: with a certificate from files, or with one by ACME.

use std::path::{Path, PathBuf};

use super::super::flags;
use super::super::mistakes::{Mistake, Wrong};
use super::super::settings::TlsSettings;
use super::super::values;
use super::Reader;
use crate::tls::{AcmeSettings, CertificateFiles, Challenge, read_roots};

impl Reader<'_> {
    /// One of the two, or none.
    pub(super) fn tls(&mut self) -> Option<TlsSettings> {
        let files = self.certificate_files();
        let acme = self.acme();
        let asked = [&flags::TLS_CERT_FILE, &flags::LETSENCRYPT_DOMAINS];
        if let [Some(files), Some(acme)] = asked.map(|setting| self.given(setting)) {
            self.mistakes.push(Mistake::new(
                format!("{} and {}", files.origin, acme.origin),
                "both give the certificate",
                "keep one of them",
            ));
        }
        files
            .map(TlsSettings::Files)
            .or(acme.map(TlsSettings::Acme))
    }

    /// The certificate's files: both or none, and of use.
    fn certificate_files(&mut self) -> Option<CertificateFiles> {
        let path = |reader: &mut Self, setting| {
            let given = reader.given(setting)?;
            let text = reader.text(&given)?;
            Some((given.origin, PathBuf::from(text)))
        };
        let certificate = path(self, &flags::TLS_CERT_FILE);
        let key = path(self, &flags::TLS_KEY_FILE);
        let (present, absent) = match (certificate, key) {
            (Some((origin, certificate)), Some((key_origin, key))) => {
                let files = CertificateFiles { certificate, key };
                return match files.load() {
                    Ok(_) => Some(files),
                    Err(error) => {
                        let remedy = "give the certificate chain and its private key as PEM files";
                        let origin = if error.is_of(&files.key) {
                            key_origin
                        } else {
                            origin
                        };
                        self.wrong(&origin, Wrong::new(error.to_string(), remedy));
                        None
                    }
                };
            }
            (None, None) => return None,
            (Some((origin, _)), None) => (origin, &flags::TLS_KEY_FILE),
            (None, Some((origin, _))) => (origin, &flags::TLS_CERT_FILE),
        };
        let problem = format!("TLS needs {}, too", absent.flag());
        self.wrong(&present, Wrong::new(problem, "give both, or none"));
        None
    }

    /// The domains switch it on; the other settings only detail it, and without them there is a warning.
    fn acme(&mut self) -> Option<AcmeSettings> {
        let domains = self.read_optional(&flags::LETSENCRYPT_DOMAINS, values::domains);
        let route53 = self.read(&flags::LETSENCRYPT_AWS_ROUTE53, values::switch);
        let email = self.read_optional(&flags::LETSENCRYPT_EMAIL, values::email);
        let data_dir = self.read_optional(&flags::LETSENCRYPT_DATA_DIR, values::path);
        let directory_url = self.read(&flags::ACME_DIRECTORY_URL, values::https_url);
        let ca_file = self.read_optional(&flags::ACME_CA_FILE, |text| {
            let remedy = "give the certificates of the authority's own authority as a PEM file";
            match read_roots(Path::new(text)) {
                Ok(_) => Ok(PathBuf::from(text)),
                Err(error) => Err(Wrong::new(error.to_string(), remedy)),
            }
        });
        let challenge = self.challenge(route53?, domains.as_deref());
        let Some(given) = self.given(&flags::LETSENCRYPT_DOMAINS) else {
            if route53 == Some(true) {
                let origin = self.named(&flags::LETSENCRYPT_AWS_ROUTE53);
                let problem = format!("needs {}, too", flags::LETSENCRYPT_DOMAINS.flag());
                self.wrong(
                    &origin,
                    Wrong::new(problem, "give the domains of the certificate"),
                );
            }
            self.without_effect(
                &[
                    &flags::LETSENCRYPT_DATA_DIR,
                    &flags::LETSENCRYPT_EMAIL,
                    &flags::ACME_DIRECTORY_URL,
                    &flags::ACME_CA_FILE,
                ],
                "nothing is ordered without --letsencrypt-domains",
            );
            return None;
        };
        if self.given(&flags::LETSENCRYPT_DATA_DIR).is_none() {
            let problem = format!("needs {}, too", flags::LETSENCRYPT_DATA_DIR.flag());
            let remedy = "give a directory that outlives this process: account and certificate are kept there";
            self.wrong(&given.origin, Wrong::new(problem, remedy));
        }
        Some(AcmeSettings {
            domains: domains?,
            email,
            data_dir: data_dir?,
            directory_url: directory_url?,
            ca_file,
            challenge: challenge?,
        })
    }

    /// How the domains are shown to be ours, if this build can.
    fn challenge(&mut self, route53: bool, domains: Option<&[String]>) -> Option<Challenge> {
        if route53 {
            #[cfg(feature = "route53")]
            return Some(Challenge::Dns01Route53);
            #[cfg(not(feature = "route53"))]
            {
                let origin = self.named(&flags::LETSENCRYPT_AWS_ROUTE53);
                let remedy = "use a release build, or build it with --features route53";
                self.wrong(&origin, Wrong::new("this build has no Route 53", remedy));
                return None;
            }
        }
        if let Some(wildcard) = domains
            .into_iter()
            .flatten()
            .find(|name| name.starts_with('*'))
        {
            let origin = self.named(&flags::LETSENCRYPT_DOMAINS);
            let problem = format!("\"{wildcard}\" can only be shown to be yours in the DNS");
            let remedy = format!(
                "add {} if its zone is there, or give the domains one by one",
                flags::LETSENCRYPT_AWS_ROUTE53.flag()
            );
            self.wrong(&origin, Wrong::new(problem, remedy));
            return None;
        }
        Some(Challenge::TlsAlpn01)
    }
}
