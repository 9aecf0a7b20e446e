//! One order: from a list of domains to a certificate (RFC 8555, section 7.4).

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::super::Certificate;
use super::AcmeError;
use super::error::words;
use super::proof::{Proof, Prover};

/// How often, and for how long, the authority is asked whether it has come to an end. It may say itself when to ask again.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(180));

/// What came of an order, in PEM. No `Debug`: it holds a private key.
pub(super) struct Issued {
    key: String,
    chain: String,
}

impl Issued {
    /// Key and chain as one text.
    pub(super) fn pem(&self) -> String {
        format!("{}\n{}", self.key.trim_end(), self.chain)
    }

    pub(super) fn certificate(&self) -> Result<Certificate, AcmeError> {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| AcmeError::NotUsable(error.into()))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| AcmeError::Crypto(error.into()))?;
        Certificate::new(chain, key).map_err(|error| AcmeError::NotUsable(error.into()))
    }
}

/// Orders a certificate for `domains`, with a key that is made for it.
pub(super) async fn issue(
    account: &Account,
    domains: &[String],
    prover: &Prover,
) -> Result<Issued, AcmeError> {
    let identifiers: Vec<_> = domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    let proofs = wanted_proofs(&mut order, prover).await?;
    let proven = async {
        prover.show(&proofs).await?;
        prove(&mut order, prover).await
    };
    let proven = proven.await;
    // Whatever came of it.
    prover.take_back(&proofs).await;
    proven?;
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&POLL).await?;
    Ok(Issued { key, chain })
}

/// What must be shown for the domains that this account has not shown lately.
async fn wanted_proofs(order: &mut Order, prover: &Prover) -> Result<Vec<Proof>, AcmeError> {
    let mut proofs = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let domain = authorization.identifier().to_string();
        let Some(challenge) = authorization.challenge(prover.challenge_type()) else {
            return Err(AcmeError::NoChallenge {
                domain,
                kind: prover.name(),
            });
        };
        proofs.push(Proof {
            domain,
            key: challenge.key_authorization(),
        });
    }
    Ok(proofs)
}

/// Has the authority look, and waits for what it says.
async fn prove(order: &mut Order, prover: &Prover) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        if let Some(mut challenge) = authorization.challenge(prover.challenge_type()) {
            challenge.set_ready().await?;
        }
    }
    match order.poll_ready(&POLL).await {
        Ok(OrderStatus::Ready) => Ok(()),
        Ok(_) | Err(instant_acme::Error::Api(_)) => Err(why_not(order).await?),
        Err(error) => Err(error.into()),
    }
}

/// Which domain it failed for: the order itself does not say.
async fn why_not(order: &mut Order) -> Result<AcmeError, AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let domain = authorization.identifier().to_string();
        let state = authorization.refresh().await?;
        let said = state
            .challenges
            .iter()
            .find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = said {
            return Ok(AcmeError::NotProven {
                domain,
                detail: words(problem),
            });
        }
    }
    Ok(AcmeError::NotProven {
        domain: "a domain".into(),
        detail: "it does not say why".into(),
    })
}
