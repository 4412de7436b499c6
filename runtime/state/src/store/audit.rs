//! The audit log, by tenant: changes made through the control API, and the operator's reads of tenants' data.
//! Operations that concern no tenant are logged under [`OPERATOR`].
//!
//! An entry is stored before the operation begins, and its outcome before the response is sent, so no operation is
//! without an entry.
//!
//! ```text
//!  a/{tenant | operator}/{request id}
//! ```

use crate::store::batch::parse;
use crate::store::{Store, StoreError, WriteBatch};
use gannet_base::names::RequestId;
use gannet_base::records::AuditRecord;

/// Name under which operations that concern no tenant are logged. No tenant can have it.
pub const OPERATOR: &str = "operator";

fn key(whose: &str, request: RequestId) -> Vec<u8> {
    let mut key = format!("a/{whose}/").into_bytes();
    key.extend_from_slice(&request.to_bytes());
    key
}

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
        let mut change = WriteBatch::new();
        for whose in whose {
            change = change.put(key(whose, request), record)?;
            if let Some(forgotten) = forgotten {
                change = change.without(key(whose, forgotten));
            }
        }
        self.commit(change).await
    }

    /// Returns up to `limit` entries of one tenant, newest first. With `before`, only entries older than that request.
    /// Blocks.
    pub fn read_audit(
        &self,
        whose: &str,
        before: Option<RequestId>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        let first = key(whose, RequestId::from_bytes([0; 16]));
        let end = before.map_or_else(|| key(whose, RequestId::from_bytes([0xff; 16])), |before| key(whose, before));
        let entries = self.db.range(first..end).rev().take(limit);
        entries.map(|entry| entry.map_err(StoreError::from).and_then(|(key, value)| parse(&key, &value))).collect()
    }

    /// Removes entries older than `before`, at most [`FORGOTTEN_AT_ONCE`], and returns how many. Blocks.
    pub fn expire_audit(&self, before: jiff::Timestamp) -> Result<usize, StoreError> {
        let mut change = WriteBatch::new();
        let mut count = 0;
        for entry in self.db.scan_prefix("a/") {
            let (key, value) = entry?;
            if parse::<AuditRecord>(&key, &value)?.time < before {
                change = change.without(key.to_vec());
                count += 1;
            }
            if count >= FORGOTTEN_AT_ONCE {
                break;
            }
        }
        if count > 0 {
            self.commit_blocking(change)?;
        }
        Ok(count)
    }
}
