//! DNS-01 by way of Amazon Route 53: a TXT record for each domain, seen by all of Amazon's DNS servers before the authority looks.
//!
//! Credentials, region and address are those of AWS's own variables, files and services (`AWS_ACCESS_KEY_ID`, a service account's
//! role, `AWS_ENDPOINT_URL`, ...); the SDK knows them all. Values that others have put at the same name are left alone: another
//! relay may be doing the same.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::meta::region::RegionProviderChain;
use aws_sdk_route53::Client;
use aws_sdk_route53::error::DisplayErrorContext;
use aws_sdk_route53::types::{
    Change, ChangeAction, ChangeBatch, ChangeStatus, ResourceRecord, ResourceRecordSet, RrType,
};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::AcmeError;
use super::proof::Proof;

/// How long other servers may remember a record, in seconds: it is of use for minutes.
const TTL: i64 = 60;

/// How often Route 53 is asked whether all its servers have a change; it allows five questions a second for a whole account.
const POLL: Duration = Duration::from_secs(3);

/// How long that may take. Usual is a minute.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Route 53 has one service for the whole world, which is asked for by this region.
const REGION: &str = "us-east-1";

type Reason = Box<dyn StdError + Send + Sync>;

/// The way to Route 53.
pub(super) struct Route53 {
    client: Client,
}

/// What is done with our values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit {
    Add,
    Remove,
}

impl Route53 {
    /// Reads AWS's own settings.
    pub(super) async fn new() -> Self {
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(RegionProviderChain::default_provider().or_else(REGION))
            .load()
            .await;
        Self {
            client: Client::new(&config),
        }
    }

    /// Makes the records, and waits until every server of Route 53 has them.
    pub(super) async fn show(&self, proofs: &[Proof]) -> Result<(), AcmeError> {
        let failed = |domain: &str, source| AcmeError::Dns {
            domain: domain.to_owned(),
            source,
        };
        let mut changes = Vec::new();
        for (name, values) in records(proofs) {
            let change = self.edit(&name, &values, Edit::Add).await;
            changes.push((change.map_err(|error| failed(&name, error))?, name));
        }
        for (change, name) in changes {
            let seen = self.in_sync(change).await;
            seen.map_err(|error| failed(&name, error))?;
        }
        Ok(())
    }

    /// Removes them. What fails is logged: nobody is hurt by a record too many.
    pub(super) async fn take_back(&self, proofs: &[Proof]) {
        for (name, values) in records(proofs) {
            if let Err(error) = self.edit(&name, &values, Edit::Remove).await {
                warn!(record = name, %error, "the DNS record of an ACME challenge cannot be removed: do it by hand");
            }
        }
    }

    /// Puts our values beside those that are there, or takes them out. Returns the change's number; none if there was nothing to do.
    async fn edit(
        &self,
        name: &str,
        values: &[String],
        edit: Edit,
    ) -> Result<Option<String>, Reason> {
        let zone = self.zone(name).await?;
        let old = self.record(&zone, name).await?;
        let mut left: Vec<String> = old
            .iter()
            .flat_map(|set| set.resource_records())
            .map(|record| record.value().to_owned())
            .filter(|value| !values.contains(value))
            .collect();
        if edit == Edit::Add {
            left.extend_from_slice(values);
        }
        let change = match (left.is_empty(), old) {
            (true, None) => return Ok(None),
            // Route 53 wants to be told exactly what is to go.
            (true, Some(old)) => change(ChangeAction::Delete, old)?,
            (false, _) => change(ChangeAction::Upsert, record_set(name, left)?)?,
        };
        let changed = self
            .client
            .change_resource_record_sets()
            .hosted_zone_id(zone)
            .change_batch(ChangeBatch::builder().changes(change).build()?)
            .send()
            .await
            .map_err(in_full)?;
        Ok(changed.change_info().map(|info| info.id().to_owned()))
    }

    /// The public zone that holds this name: the longest of its parents that this account has.
    async fn zone(&self, name: &str) -> Result<String, Reason> {
        let mut candidate = name;
        while let Some((_, parent)) = candidate.split_once('.') {
            candidate = parent;
            let found = self
                .client
                .list_hosted_zones_by_name()
                .dns_name(candidate)
                .send()
                .await
                .map_err(in_full)?;
            let public = found.hosted_zones().iter().find(|zone| {
                let private = zone.config().is_some_and(|config| config.private_zone());
                zone.name().trim_end_matches('.') == candidate && !private
            });
            if let Some(zone) = public {
                return Ok(zone.id().to_owned());
            }
        }
        Err("this AWS account has no public zone for it".into())
    }

    /// The TXT record of this name, if there is one.
    async fn record(&self, zone: &str, name: &str) -> Result<Option<ResourceRecordSet>, Reason> {
        let found = self
            .client
            .list_resource_record_sets()
            .hosted_zone_id(zone)
            .start_record_name(name)
            .start_record_type(RrType::Txt)
            .max_items(1)
            .send()
            .await
            .map_err(in_full)?;
        let set = found.resource_record_sets().first();
        let same = set
            .filter(|set| set.name().trim_end_matches('.') == name && *set.r#type() == RrType::Txt);
        Ok(same.cloned())
    }

    async fn in_sync(&self, change: Option<String>) -> Result<(), Reason> {
        let Some(id) = change else {
            return Ok(());
        };
        let seen = async {
            loop {
                let answer = self.client.get_change().id(&id).send().await;
                let answer = answer.map_err(in_full)?;
                let status = answer.change_info().map(|info| info.status());
                if status == Some(&ChangeStatus::Insync) {
                    return Ok(());
                }
                sleep(POLL).await;
            }
        };
        let too_late = |_| Err("not all servers of Route 53 have it after 5 minutes".into());
        timeout(PROPAGATION_TIMEOUT, seen)
            .await
            .unwrap_or_else(too_late)
    }
}

/// Names of records and their values. A domain and its wildcard have one name.
fn records(proofs: &[Proof]) -> BTreeMap<String, Vec<String>> {
    let mut records = BTreeMap::<_, Vec<_>>::new();
    for proof in proofs {
        let domain = &proof.domain;
        let domain = domain.strip_prefix("*.").unwrap_or(domain);
        let values = records.entry(format!("_acme-challenge.{domain}"));
        values
            .or_default()
            .push(format!("\"{}\"", proof.key.dns_value()));
    }
    records
}

fn record_set(name: &str, values: Vec<String>) -> Result<ResourceRecordSet, Reason> {
    let values = values
        .into_iter()
        .map(|value| ResourceRecord::builder().value(value).build());
    let set = ResourceRecordSet::builder()
        .name(name)
        .r#type(RrType::Txt)
        .ttl(TTL)
        .set_resource_records(Some(values.collect::<Result<_, _>>()?));
    Ok(set.build()?)
}

fn change(action: ChangeAction, set: ResourceRecordSet) -> Result<Change, Reason> {
    let change = Change::builder().action(action).resource_record_set(set);
    Ok(change.build()?)
}

/// The SDK's errors say next to nothing of themselves; what is behind them does.
fn in_full<E: StdError>(error: E) -> Reason {
    DisplayErrorContext(error).to_string().into()
}
