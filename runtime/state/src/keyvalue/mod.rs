//! Key-value storage of tenants. It has a store of records of its own, so that writes of functions keep no job waiting.
//!
//! ```text
//!  write ─▶ a task of its own: locks of its keys ─▶ read ─▶ quota reserved ─▶ commit, expecting what was read ─▶ answer
//!                                                                │ refused: the reservation is given back
//!                                                                └ "unknown": read again, commit again, until it is known
//!  read  ─▶ the record
//! ```
//!
//! `name` says where a key is kept, `record` what a record contains, `account` what a tenant uses; all three are pure.
//! The records are the truth: a start counts them. A tenant's limits bound the number and the size of its records exactly,
//! because growth is reserved before it is committed.

mod account;
mod name;
mod read;
mod record;
mod write;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod model;

pub use account::{KeyValueLimits, KeyValueUse};
pub use read::KeyPage;
pub use write::{Edit, Write};

use crate::records::{Change, Expect, RecordStore};
use account::{Account, LimitReached};
use gannet_base::names::TenantName;
use record::Record;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{RwLock, Semaphore};

/// Records that are read or removed at once.
const PAGE: usize = 500;
/// Locks of a tenant. A key has one of them.
const LOCKS: usize = 256;
/// Bytes that the writes of one tenant may have at once; others wait. So no tenant fills the store's queue.
const TENANT_WRITING_KIB: u32 = 4 << 10;
/// The same of all tenants. It is less than what the store accepts.
const WRITING_KIB: u32 = 128 << 10;
/// Reads of pages at once: each holds up to [`read::RECORDS`] values.
const LISTING: usize = 8;
/// How long the removal of a tenant waits for its writes to end.
const REMOVE_MAX: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyValueError {
    /// The tenant was deleted.
    #[error("the tenant does not exist any more")]
    NoTenant,
    /// A limit of the tenant is used up.
    #[error(transparent)]
    Limit(#[from] LimitReached),
    /// The value of a key that is to be incremented is no number.
    #[error("the value of the key is no whole number below 2^64")]
    NoNumber,
    /// The sum would be too large.
    #[error("the number of the key would be 2^64 or more")]
    Overflow,
    /// The values of a batch are too large for one answer.
    #[error("the values have more than {limit} bytes together; read fewer keys at once")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The disk is full. Nothing was changed.
    #[error("the disk is full")]
    Full,
    /// The store does not work now. Nothing was changed.
    #[error("the store does not work now: {0}")]
    Unavailable(String),
    /// It may have been done or not.
    #[error("{0}")]
    Unknown(String),
}

impl From<io::Error> for KeyValueError {
    fn from(error: io::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What belongs to one tenant.
#[derive(Debug)]
struct Tenant {
    account: Mutex<Account>,
    /// One for each key that is written; several keys may share one.
    locks: Vec<tokio::sync::Mutex<()>>,
    /// Whether it exists. Held by each write.
    exists: RwLock<bool>,
    /// In KiB.
    writing: Semaphore,
    /// Keys that were created by a commit whose answer was "unknown". It may be done later, wherever the key is absent. So
    /// they are never absent again: when they are deleted, a tombstone stays until the next start.
    uncertain: Mutex<HashSet<String>>,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            account: Mutex::default(),
            locks: (0..LOCKS).map(|_| tokio::sync::Mutex::default()).collect(),
            exists: RwLock::new(true),
            writing: Semaphore::new(TENANT_WRITING_KIB as usize),
            uncertain: Mutex::default(),
        }
    }
}

impl Tenant {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uncertain(&self) -> MutexGuard<'_, HashSet<String>> {
        self.uncertain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Tenants {
    existing: HashMap<TenantName, Arc<Tenant>>,
    /// Their names are never used again.
    removed: HashSet<TenantName>,
}

/// The service; see the module.
#[derive(Debug)]
pub struct KeyValues {
    records: Arc<dyn RecordStore>,
    tenants: Mutex<Tenants>,
    ids: record::WriteIds,
    /// In KiB.
    writing: Semaphore,
    listing: Semaphore,
}

impl KeyValues {
    /// Counts what tenants use, and removes what belongs to tenants that do not exist any more.
    pub async fn start(
        records: Arc<dyn RecordStore>,
        exists: impl Fn(&TenantName) -> bool + Send,
    ) -> io::Result<Arc<Self>> {
        let values = Self {
            records,
            tenants: Mutex::default(),
            ids: record::WriteIds::new()?,
            writing: Semaphore::new(WRITING_KIB as usize),
            listing: Semaphore::new(LISTING),
        };
        let mut after: Option<String> = None;
        loop {
            let page = values.records.page(name::PREFIX, after.as_deref(), PAGE).await?;
            let mut unused = Vec::new();
            for entry in &page.entries {
                let tenant = name::tenant_of(&entry.key).filter(|tenant| exists(tenant));
                let used = match Record::decode(&entry.value) {
                    Some(record) => record.used(),
                    None => {
                        tracing::error!(key = entry.key, "a record of key-value storage cannot be read");
                        KeyValueUse { keys: 1, bytes: entry.value.len() as u64 }
                    }
                };
                match tenant {
                    Some(tenant) if used.keys > 0 => {
                        values.tenant(&tenant).map_err(io::Error::other)?.account().found(used);
                    }
                    _ => unused.push(Change::Delete { key: entry.key.clone(), expect: Expect::Any }),
                }
            }
            if !unused.is_empty() {
                values.records.commit(unused).await.map_err(io::Error::other)?;
            }
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more || after.is_none() {
                return Ok(Arc::new(values));
            }
        }
    }

    fn tenants(&self) -> MutexGuard<'_, Tenants> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tenant(&self, name: &TenantName) -> Result<Arc<Tenant>, KeyValueError> {
        let mut tenants = self.tenants();
        if tenants.removed.contains(name) {
            return Err(KeyValueError::NoTenant);
        }
        Ok(Arc::clone(tenants.existing.entry(name.clone()).or_default()))
    }

    /// Returns what a tenant uses.
    pub fn used(&self, tenant: &TenantName) -> KeyValueUse {
        let tenant = self.tenants().existing.get(tenant).cloned();
        tenant.map(|tenant| tenant.account().used()).unwrap_or_default()
    }

    /// Removes everything of a tenant that was deleted. Its writes fail from now on. What cannot be removed now is removed
    /// by the next start.
    pub async fn remove_tenant(self: &Arc<Self>, tenant: &TenantName) -> Result<(), KeyValueError> {
        let existing = {
            let mut tenants = self.tenants();
            tenants.removed.insert(tenant.clone());
            tenants.existing.remove(tenant)
        };
        if let Some(existing) = existing {
            // A write that has begun must not store anything behind this.
            let ended = tokio::time::timeout(REMOVE_MAX, existing.exists.write()).await;
            *ended.map_err(|_| KeyValueError::Unavailable("writes have not ended".into()))? = false;
        }
        let (values, prefix) = (Arc::clone(self), name::of_tenant(tenant));
        let removed = tokio::spawn(async move { values.remove_all(&prefix).await }).await;
        removed.map_err(|error| KeyValueError::Unavailable(error.to_string()))?
    }

    async fn remove_all(&self, prefix: &str) -> Result<(), KeyValueError> {
        loop {
            let page = self.records.page(prefix, None, PAGE).await?;
            let delete = |entry: crate::records::Entry| Change::Delete { key: entry.key, expect: Expect::Any };
            let changes: Vec<Change> = page.entries.into_iter().map(delete).collect();
            if changes.is_empty() {
                return Ok(());
            }
            let removed = self.records.commit(changes).await;
            removed.map_err(|error| KeyValueError::Unavailable(error.to_string()))?;
        }
    }
}
