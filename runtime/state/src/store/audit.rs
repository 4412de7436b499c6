//! The audit log, by tenant: changes made through the control API, and the operator's reads of tenants' data.
//! Operations that concern no tenant are logged under [`OPERATOR`].
//!
//! An entry is stored before the operation begins, and its outcome before the response is sent, so no operation is
//! without an entry.
//!
//! ```text
//!  a/{tenant | operator}/{request id in hex}
//! ```

use crate::records::{Change, Expect};
use crate::store::batch::parse;
use crate::store::{Store, StoreError};
use crate::wait::wait;
use gannet_base::names::RequestId;
use gannet_base::records::AuditRecord;

/// Name under which operations that concern no tenant are logged. No tenant can have it.
pub const OPERATOR: &str = "operator";

fn folder(whose: &str) -> String {
    format!("a/{whose}/")
}

fn key(whose: &str, request: RequestId) -> String {
    format!("{}{}", folder(whose), hex::encode(request.to_bytes()))
}

/// Entries that are read at once to find those that are too old.
const READ_AT_ONCE: usize = 1_000;
/// Most entries that are removed in one commit.
const REMOVED_AT_ONCE: usize = 900;
/// Maximum number of entries that [`Store::expire_audit`] removes in one change.
pub const FORGOTTEN_AT_ONCE: usize = 10_000;

impl Store {
    /// Writes an entry to some logs, and removes from them that of the request `forgotten`. When this returns `Ok`, it is
    /// on disk.
    pub async fn audit(
        &self,
        whose: &[String],
        request: RequestId,
        record: &AuditRecord,
        forgotten: Option<RequestId>,
    ) -> Result<(), StoreError> {
        let value = serde_json::to_vec(record).map_err(|error| StoreError::Io(error.to_string()))?;
        // The first entry of an operation never takes the place of a later one, also if a store makes it late.
        let expect = if record.status.is_none() { Expect::Absent } else { Expect::Any };
        let mut changes = Vec::new();
        for whose in whose {
            changes.push(Change::Put { key: key(whose, request), value: value.clone(), expect });
            let gone = forgotten.filter(|forgotten| *forgotten != request);
            changes.extend(gone.map(|gone| Change::Delete { key: key(whose, gone), expect: Expect::Any }));
        }
        self.commit_repeated(changes).await
    }

    /// Returns up to `limit` entries of one tenant, newest first. With `before`, only entries older than that request.
    /// Blocks.
    pub fn read_audit(
        &self,
        whose: &str,
        before: Option<RequestId>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        let (folder, mut before) = (folder(whose), before.map(|before| key(whose, before)));
        let mut found: Vec<AuditRecord> = Vec::new();
        loop {
            let page = wait(self.records.page_back(&folder, before.as_deref(), limit - found.len()))?;
            for entry in &page.entries {
                found.push(parse(&entry.key, &entry.value)?);
            }
            before = page.entries.into_iter().last().map(|entry| entry.key);
            if !page.more || found.len() >= limit || before.is_none() {
                return Ok(found);
            }
        }
    }

    /// Removes entries older than `before`, at most [`FORGOTTEN_AT_ONCE`], and returns how many. Blocks.
    pub fn expire_audit(&self, before: jiff::Timestamp) -> Result<usize, StoreError> {
        let (mut old, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = wait(self.records.page("a/", after.as_deref(), READ_AT_ONCE))?;
            for entry in &page.entries {
                if old.len() < FORGOTTEN_AT_ONCE && parse::<AuditRecord>(&entry.key, &entry.value)?.time < before {
                    old.push(entry.key.clone());
                }
            }
            after = page.entries.into_iter().last().map(|entry| entry.key);
            if !page.more || old.len() >= FORGOTTEN_AT_ONCE || after.is_none() {
                break;
            }
        }
        for keys in old.chunks(REMOVED_AT_ONCE) {
            let gone = keys.iter().map(|key| Change::Delete { key: key.clone(), expect: Expect::Any });
            wait(self.commit_repeated(gone.collect()))?;
        }
        Ok(old.len())
    }
}
