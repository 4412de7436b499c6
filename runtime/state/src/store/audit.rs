//! What was done through the control API, by tenant; the operator's own deeds stand under the operator.
//!
//! An entry is there before anything is done, and its outcome before the answer: a deed without an entry cannot happen.
//!
//! ```text
//!  a/{tenant | operator}/{request id}
//! ```

use crate::store::{Store, StoreError, WriteBatch, parse};
use gannet_base::names::RequestId;
use gannet_base::records::AuditRecord;

/// Under which name the operator's own deeds stand. No tenant can be called so.
pub const OPERATOR: &str = "operator";

fn key(whose: &str, request: RequestId) -> Vec<u8> {
    let mut key = format!("a/{whose}/").into_bytes();
    key.extend_from_slice(&request.to_bytes());
    key
}

/// Entries that are removed in one change.
pub const FORGOTTEN_AT_ONCE: usize = 10_000;

impl Store {
    /// Writes an entry. When this answers `Ok`, it is on disk.
    pub async fn audit(&self, whose: &str, request: RequestId, record: &AuditRecord) -> Result<(), StoreError> {
        self.commit(WriteBatch::new().put(key(whose, request), record)?).await
    }

    /// Entries of one tenant, newest first, before a request if one is given. Blocks.
    pub fn audited(
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

    /// Removes entries of before a time, as many as fit into one change, and answers how many. Blocks.
    pub fn forget_audit(&self, before: jiff::Timestamp) -> Result<usize, StoreError> {
        let mut change = WriteBatch::new();
        let mut count = 0;
        for entry in self.db.scan_prefix("a/") {
            let (key, value) = entry?;
            if parse::<AuditRecord>(&key, &value)?.time < before {
                change.0.remove(key.to_vec());
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
