//! Writes. Each runs to its end in a task of its own: what was reserved is either stored or given back, even if nobody waits
//! for the answer any more.
//!
//! A write has the locks of its keys, so nobody else of this process changes them meanwhile. What it commits expects the
//! revisions that it read, and all its changes are made or none.

use super::account::{KeyValueLimits, KeyValueUse};
use super::record::{Record, WriteId};
use super::{KeyValueError, KeyValues, LOCKS, TENANT_WRITING_KIB, Tenant, name};
use crate::records::{Change, CommitError, Expect, Revision};
use gannet_base::names::TenantName;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::MutexGuard;

/// Pause before a commit whose outcome is not known is looked at again.
const RETRY: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_secs(1) };
/// How long the caller waits. The write goes on.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Writes its value.
    Set(Vec<u8>),
    /// Removes it.
    Delete,
    /// Adds to its number, which is decimal text. A key that does not exist has 0.
    Add(u64),
}

/// Changes of keys of one bucket: all are made or none. Of two changes of a key the later one counts.
pub struct Write {
    /// The tenant.
    pub tenant: TenantName,
    /// What it may use.
    pub limits: KeyValueLimits,
    /// The bucket, whose name was checked.
    pub bucket: String,
    /// The keys, which were checked, and what becomes of them.
    pub edits: Vec<(String, Edit)>,
    /// Dropped when the write has ended.
    pub held: Box<dyn Send>,
}

/// What is to be committed.
struct Plan {
    write: WriteId,
    changes: Vec<Change>,
    old: KeyValueUse,
    new: KeyValueUse,
    /// The number that the last [`Edit::Add`] made.
    number: Option<u64>,
}

enum Outcome {
    Done,
    /// A record has another revision than was read.
    Changed,
    Failed(KeyValueError),
}

/// What a look at the records tells about a commit whose answer was "unknown".
enum Found {
    Done,
    /// It is not done, as far as can be seen.
    NotYet,
    Other,
}

impl Tenant {
    /// Takes the locks of keys. All take them in the same order, so nobody waits in a circle.
    async fn lock(&self, keys: impl Iterator<Item = &String>) -> Vec<MutexGuard<'_, ()>> {
        let place = |key: &String| {
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0)
        };
        let places: BTreeSet<usize> = keys.map(place).collect();
        let mut held = Vec::with_capacity(places.len());
        for lock in places.into_iter().filter_map(|place| self.locks.get(place)) {
            held.push(lock.lock().await);
        }
        held
    }
}

/// Returns the size of a write in KiB, at least 1 and at most what a tenant may write at once.
fn kib(edits: &[(String, Edit)]) -> u32 {
    let value = |edit: &Edit| if let Edit::Set(value) = edit { value.len() } else { 0 };
    let bytes: usize = edits.iter().map(|(key, edit)| key.len() + value(edit)).sum();
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, TENANT_WRITING_KIB)
}

/// Returns the number that a value is.
fn number(value: Option<&[u8]>) -> Result<u64, KeyValueError> {
    let Some(value) = value else { return Ok(0) };
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(KeyValueError::NoNumber)
}

impl KeyValues {
    /// Makes changes, durably. Returns the number that the last [`Edit::Add`] made.
    pub async fn write(self: &Arc<Self>, write: Write) -> Result<Option<u64>, KeyValueError> {
        let values = Arc::clone(self);
        let task = tokio::spawn(async move {
            let Write { tenant, limits, bucket, edits, held } = write;
            let done = values.write_to_its_end(&tenant, limits, &bucket, edits).await;
            drop(held);
            done
        });
        match tokio::time::timeout(ANSWER_MAX, task).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(KeyValueError::Unknown(error.to_string())),
            Err(_) => Err(KeyValueError::Unknown(format!("the store has not answered for {} s", ANSWER_MAX.as_secs()))),
        }
    }

    async fn write_to_its_end(
        &self,
        tenant: &TenantName,
        limits: KeyValueLimits,
        bucket: &str,
        edits: Vec<(String, Edit)>,
    ) -> Result<Option<u64>, KeyValueError> {
        let tenant_name = tenant;
        let tenant = self.tenant(tenant)?;
        let exists = tenant.exists.read().await;
        if !*exists {
            return Err(KeyValueError::NoTenant);
        }
        // First its own share, so that nobody waits among all while it holds a part of what is for all.
        let kib = kib(&edits);
        let closed = |_| KeyValueError::Unavailable("the server is ending".into());
        let _own = tenant.writing.acquire_many(kib).await.map_err(closed)?;
        let _of_all = self.writing.acquire_many(kib).await.map_err(closed)?;
        let stored = |(key, edit): (String, Edit)| (name::of_key(tenant_name, bucket, &key), (key, edit));
        let edits: BTreeMap<String, (String, Edit)> = edits.into_iter().map(stored).collect();
        let _locks = tenant.lock(edits.keys()).await;
        loop {
            let plan = self.plan(&tenant, &edits).await?;
            if plan.changes.is_empty() {
                return Ok(plan.number);
            }
            tenant.account().reserve(limits, plan.old, plan.new)?;
            match self.commit(&tenant, &plan).await {
                Outcome::Done => {
                    tenant.account().committed(plan.old, plan.new);
                    return Ok(plan.number);
                }
                Outcome::Changed => tenant.account().give_back(plan.old, plan.new),
                Outcome::Failed(error) => {
                    tenant.account().give_back(plan.old, plan.new);
                    return Err(error);
                }
            }
        }
    }

    /// Reads the records and says what is to be committed.
    async fn plan(&self, tenant: &Tenant, edits: &BTreeMap<String, (String, Edit)>) -> Result<Plan, KeyValueError> {
        let (old, new) = (KeyValueUse::default(), KeyValueUse::default());
        let mut plan = Plan { write: self.ids.next(), changes: Vec::new(), old, new, number: None };
        for (stored, (key, edit)) in edits {
            let found = self.found(stored).await?;
            let before = found.as_ref().and_then(|(record, _)| record.value.as_deref());
            let value = match edit {
                Edit::Set(value) => Some(value.clone()),
                Edit::Delete if before.is_none() => continue,
                Edit::Delete => None,
                Edit::Add(by) => {
                    let sum = number(before)?.checked_add(*by).ok_or(KeyValueError::Overflow)?;
                    plan.number = Some(sum);
                    Some(sum.to_string().into_bytes())
                }
            };
            let expect = found.as_ref().map_or(Expect::Absent, |(_, revision)| Expect::Revision(*revision));
            plan.old = plan.old.plus(found.map(|(record, _)| record.used()).unwrap_or_default());
            let stays = value.is_some() || tenant.uncertain().contains(stored);
            if !stays {
                plan.changes.push(Change::Delete { key: stored.clone(), expect });
                continue;
            }
            let record = Record { write: plan.write, key: key.clone(), value };
            plan.new = plan.new.plus(record.used());
            plan.changes.push(Change::Put { key: stored.clone(), value: record.encode(), expect });
        }
        Ok(plan)
    }

    async fn found(&self, stored: &str) -> io::Result<Option<(Record, Revision)>> {
        let Some(entry) = self.records.get(stored).await? else { return Ok(None) };
        let record = Record::decode(&entry.value).ok_or_else(|| io::Error::other("the record is damaged"))?;
        Ok(Some((record, entry.revision)))
    }

    async fn commit(&self, tenant: &Tenant, plan: &Plan) -> Outcome {
        let mut may_be_done = false;
        loop {
            match self.records.commit(plan.changes.clone()).await {
                Ok(_) => return Outcome::Done,
                Err(CommitError::Conflict { .. }) if !may_be_done => return Outcome::Changed,
                Err(CommitError::Full) if !may_be_done => return Outcome::Failed(KeyValueError::Full),
                Err(CommitError::Unknown(why)) => {
                    tracing::warn!(why, "it is not known whether a key-value was stored");
                    may_be_done = true;
                    let created = plan.changes.iter().filter_map(|change| match change {
                        Change::Put { key, expect: Expect::Absent, .. } => Some(key.clone()),
                        _ => None,
                    });
                    tenant.uncertain().extend(created);
                }
                Err(CommitError::Unavailable(why)) if !may_be_done => {
                    return Outcome::Failed(KeyValueError::Unavailable(why));
                }
                Err(error @ CommitError::Invalid(_)) => {
                    return Outcome::Failed(KeyValueError::Unavailable(error.to_string()));
                }
                // Whether an earlier try was done is not known yet.
                Err(CommitError::Conflict { .. } | CommitError::Full | CommitError::Unavailable(_)) => {}
            }
            tokio::time::sleep(RETRY).await;
            match self.look(plan).await {
                Found::Done => return Outcome::Done,
                Found::NotYet => {}
                Found::Other => {
                    let why = "another write came between";
                    return Outcome::Failed(KeyValueError::Unknown(why.into()));
                }
            }
        }
    }

    /// Looks at one record of a commit, which is done as a whole or not at all.
    async fn look(&self, plan: &Plan) -> Found {
        let Some(Change::Put { key, expect, .. } | Change::Delete { key, expect }) = plan.changes.first() else {
            return Found::Done;
        };
        let is_put = matches!(plan.changes.first(), Some(Change::Put { .. }));
        match (self.found(key).await, expect) {
            (Err(_), _) => Found::NotYet,
            (Ok(Some((record, _))), _) if is_put && record.write == plan.write => Found::Done,
            (Ok(Some((_, revision))), Expect::Revision(expected)) if revision == *expected => Found::NotYet,
            (Ok(None), Expect::Absent) => Found::NotYet,
            (Ok(None), _) if !is_put => Found::Done,
            _ => Found::Other,
        }
    }
}
