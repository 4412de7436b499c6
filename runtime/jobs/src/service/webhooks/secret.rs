//! The secret that a tenant's messages are signed with: made when it is first needed, stored encrypted, replaced when
//! the tenant asks for that. The one before signs too for a day, so that receivers can be changed meanwhile.

use crate::delivery::signature::Secret;
use crate::job::Millis;
use crate::keys;
use crate::runner::Runner;
use crate::service::shared::{Jobs, Shared};
use gannet_base::names::TenantName;
use gannet_state::records::{Change, CommitError, Expect, Revision};
use serde::{Deserialize, Serialize};
use std::io;

/// The name under which it is encrypted. A tenant's own secrets have no spaces in their names.
const NAME: &str = "webhook secret";
/// How long the secret before signs too, in milliseconds.
const OVERLAP_MS: Millis = 24 * 3_600_000;
/// Reads after conflicts.
const READS_MAX: usize = 8;

/// A tenant's secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSecret {
    /// Its text, which begins with `whsec_`.
    pub text: String,
    /// When it was made.
    pub created: Millis,
    /// Until when the one before signs too, if it does.
    pub previous_until: Option<Millis>,
}

/// The record of a tenant's secret.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    sealed: String,
    created: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Previous>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Previous {
    sealed: String,
    until: Millis,
}

impl Record {
    /// Returns the secret before, if it signs too.
    fn previous(&self, now: Millis) -> Option<&Previous> {
        self.previous.as_ref().filter(|previous| now < previous.until)
    }
}

impl<R: Runner> Shared<R> {
    fn open(&self, tenant: &TenantName, sealed: &str) -> io::Result<Secret> {
        let text = self.webhooks.vault.unseal(tenant, NAME, sealed).map_err(io::Error::other)?;
        Secret::parse(&text).ok_or_else(|| io::Error::other("the secret of the webhooks is none"))
    }

    fn new_record(&self, tenant: &TenantName, previous: Option<Previous>) -> io::Result<Record> {
        let text = Secret::random()?.text();
        let sealed = self.webhooks.vault.seal(tenant, NAME, text.as_bytes()).map_err(io::Error::other)?;
        Ok(Record { sealed, created: self.clock.now(), previous })
    }

    async fn stored_secret(&self, tenant: &TenantName) -> io::Result<Option<(Record, Revision)>> {
        let Some(entry) = self.records.get(&keys::webhook_secret(tenant)).await? else { return Ok(None) };
        Ok(Some((serde_json::from_slice(&entry.value)?, entry.revision)))
    }

    /// Stores a record. Returns false if somebody else has changed it, or it is not known whether it was stored.
    async fn store_secret(&self, tenant: &TenantName, record: &Record, expect: Expect) -> io::Result<bool> {
        let (key, value) = (keys::webhook_secret(tenant), serde_json::to_vec(record)?);
        match self.records.commit(vec![Change::Put { key, value, expect }]).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict { .. } | CommitError::Unknown(_)) => Ok(false),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Returns the record of a tenant's secret. Makes it if there is none.
    async fn secret_record(&self, tenant: &TenantName) -> io::Result<Record> {
        for _ in 0..READS_MAX {
            if let Some((record, _)) = self.stored_secret(tenant).await? {
                return Ok(record);
            }
            let new = self.new_record(tenant, None)?;
            if self.store_secret(tenant, &new, Expect::Absent).await? {
                return Ok(new);
            }
        }
        Err(io::Error::other("the secret of the webhooks could not be stored"))
    }

    /// Returns the secrets that sign now, the newest first.
    pub(in crate::service) async fn signing_secrets(&self, tenant: &TenantName) -> io::Result<Vec<Secret>> {
        let record = self.secret_record(tenant).await?;
        let mut secrets = vec![self.open(tenant, &record.sealed)?];
        if let Some(previous) = record.previous(self.clock.now()) {
            secrets.push(self.open(tenant, &previous.sealed)?);
        }
        Ok(secrets)
    }

    fn secret_view(&self, tenant: &TenantName, record: &Record) -> io::Result<WebhookSecret> {
        let previous_until = record.previous(self.clock.now()).map(|previous| previous.until);
        Ok(WebhookSecret { text: self.open(tenant, &record.sealed)?.text(), created: record.created, previous_until })
    }
}

impl<R: Runner> Jobs<R> {
    /// Returns a tenant's secret. Makes it if there is none.
    pub async fn webhook_secret(&self, tenant: &TenantName) -> io::Result<WebhookSecret> {
        let record = self.shared.secret_record(tenant).await?;
        self.shared.secret_view(tenant, &record)
    }

    /// Replaces a tenant's secret. The one before signs too for a day; one that was replaced less than a day ago does not
    /// any more.
    pub async fn rotate_webhook_secret(&self, tenant: &TenantName) -> io::Result<WebhookSecret> {
        let shared = &self.shared;
        for _ in 0..READS_MAX {
            let found = shared.stored_secret(tenant).await?;
            let expect = found.as_ref().map_or(Expect::Absent, |(_, revision)| Expect::Revision(*revision));
            // One that cannot be decrypted any more is of no use.
            let usable = found.map(|(record, _)| record.sealed).filter(|sealed| shared.open(tenant, sealed).is_ok());
            let until = shared.clock.now().saturating_add(OVERLAP_MS);
            let new = shared.new_record(tenant, usable.map(|sealed| Previous { sealed, until }))?;
            if shared.store_secret(tenant, &new, expect).await? {
                return shared.secret_view(tenant, &new);
            }
        }
        Err(io::Error::other("the secret of the webhooks could not be stored"))
    }
}
