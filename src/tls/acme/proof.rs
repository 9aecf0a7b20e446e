//! What the authority is shown to see that a domain is ours.

use std::error::Error as StdError;

use instant_acme::{ChallengeType, KeyAuthorization};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::CertifiedKey;

use super::super::Certificates;
#[cfg(feature = "route53")]
use super::route53::Route53;
use super::{AcmeError, Challenge};

/// What is to be shown for one domain.
pub(super) struct Proof {
    /// The domain; `*.` in front stands for a wildcard.
    pub(super) domain: String,
    /// A token of the authority's together with our account's key.
    pub(super) key: KeyAuthorization,
}

/// Shows it in one of the ways that there are.
pub(super) enum Prover {
    /// On our own port.
    TlsAlpn01(Certificates),
    /// In the DNS.
    #[cfg(feature = "route53")]
    Route53(Box<Route53>),
}

impl Prover {
    pub(super) async fn new(challenge: Challenge, certificates: &Certificates) -> Self {
        match challenge {
            Challenge::TlsAlpn01 => Self::TlsAlpn01(certificates.clone()),
            #[cfg(feature = "route53")]
            Challenge::Dns01Route53 => Self::Route53(Box::new(Route53::new().await)),
        }
    }

    /// What it is called in the protocol.
    pub(super) fn challenge_type(&self) -> ChallengeType {
        match self {
            Self::TlsAlpn01(_) => ChallengeType::TlsAlpn01,
            #[cfg(feature = "route53")]
            Self::Route53(_) => ChallengeType::Dns01,
        }
    }

    /// What it is called in texts.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::TlsAlpn01(_) => "TLS-ALPN-01",
            #[cfg(feature = "route53")]
            Self::Route53(_) => "DNS-01",
        }
    }

    /// Shows all proofs; when it returns, the authority may look. After an error some of them may be on show.
    pub(super) async fn show(&self, proofs: &[Proof]) -> Result<(), AcmeError> {
        match self {
            Self::TlsAlpn01(certificates) => {
                for proof in proofs {
                    let certificate = challenge_certificate(proof).map_err(AcmeError::Crypto)?;
                    certificates.show_challenge(&proof.domain, certificate);
                }
                Ok(())
            }
            #[cfg(feature = "route53")]
            Self::Route53(dns) => dns.show(proofs).await,
        }
    }

    /// Shows them no more.
    pub(super) async fn take_back(&self, proofs: &[Proof]) {
        match self {
            Self::TlsAlpn01(certificates) => {
                for proof in proofs {
                    certificates.hide_challenge(&proof.domain);
                }
            }
            #[cfg(feature = "route53")]
            Self::Route53(dns) => dns.take_back(proofs).await,
        }
    }
}

/// The certificate of RFC 8737, section 3: for the one domain, signed by itself, with the proof in an extension.
fn challenge_certificate(proof: &Proof) -> Result<CertifiedKey, Box<dyn StdError + Send + Sync>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([proof.domain.clone()])?;
    let extension = CustomExtension::new_acme_identifier(proof.key.digest().as_ref());
    params.custom_extensions.push(extension);
    let certificate = params.self_signed(&key)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let key = aws_lc_rs::default_provider()
        .key_provider
        .load_private_key(key.into())?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}
