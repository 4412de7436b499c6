//! Reads: values of keys, and pages of keys. They see every write that was answered before.

use super::name;
use super::record::Record;
use super::{KeyValueError, KeyValues};
use crate::records::Entry;
use gannet_base::names::TenantName;

/// Keys in one page.
const PAGE_KEYS: usize = 500;
/// Limit on the keys of one page together, in bytes.
const PAGE_BYTES: usize = 128 << 10;

/// A page of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys.
    pub keys: Vec<String>,
    /// Continues behind them. None if there are no more.
    pub cursor: Option<u64>,
}

impl KeyValues {
    async fn value(&self, tenant: &TenantName, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        let Some(entry) = self.records.get(&name::of_key(tenant, bucket, key)).await? else { return Ok(None) };
        let record = Record::decode(&entry.value).filter(|record| record.key == key);
        let record = record.ok_or_else(|| KeyValueError::Unavailable("the record of the key is damaged".into()))?;
        Ok(record.value)
    }

    /// Returns the values of keys, in their order. All together may have `limit` bytes.
    pub async fn get(
        &self,
        tenant: &TenantName,
        bucket: &str,
        keys: &[String],
        limit: usize,
    ) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        let (mut values, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        for key in keys {
            let value = self.value(tenant, bucket, key).await?;
            bytes += value.as_ref().map_or(0, Vec::len);
            if bytes > limit {
                return Err(KeyValueError::TooLarge { limit });
            }
            values.push(value);
        }
        Ok(values)
    }

    /// Whether there is a key.
    pub async fn exists(&self, tenant: &TenantName, bucket: &str, key: &str) -> Result<bool, KeyValueError> {
        Ok(self.value(tenant, bucket, key).await?.is_some())
    }

    /// Returns keys of a bucket, from behind a cursor, in no order that has a meaning.
    pub async fn keys(&self, tenant: &TenantName, bucket: &str, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        let prefix = name::of_bucket(tenant, bucket);
        let after = cursor.map(|cursor| name::behind(&prefix, cursor));
        let page = self.records.page(&prefix, after.as_deref(), PAGE_KEYS).await?;
        let (mut taken, mut keys, mut bytes) = (0, Vec::new(), 0);
        for (at, entry) in page.entries.iter().enumerate() {
            let record = Record::decode(&entry.value);
            let length = record.as_ref().map_or(0, |record| record.key.len());
            if bytes + length > PAGE_BYTES {
                break;
            }
            bytes += length;
            taken = at + 1;
            // One that cannot be read was reported at the start.
            keys.push(record.filter(|record| record.value.is_some()).map(|record| record.key));
        }
        if taken == page.entries.len() && !page.more {
            return Ok(KeyPage { keys: keys.into_iter().flatten().collect(), cursor: None });
        }
        let whole = whole(&page.entries, taken);
        keys.truncate(whole);
        let cursor = page.entries.get(whole.saturating_sub(1)).and_then(|entry| name::cursor_of(&entry.key));
        Ok(KeyPage { keys: keys.into_iter().flatten().collect(), cursor })
    }
}

/// Returns how many of the first records of a page can be returned with a cursor behind them. Records with one cursor are
/// not parted: the last ones are left for the next page, unless all have it.
fn whole(entries: &[Entry], taken: usize) -> usize {
    let cursor = |at: usize| entries.get(at).and_then(|entry| name::cursor_of(&entry.key));
    let Some(last) = taken.checked_sub(1) else { return 0 };
    // Whether the one behind has the same is only known if it is in the page.
    if taken < entries.len() && cursor(taken) != cursor(last) {
        return taken;
    }
    (0..last).rev().find(|at| cursor(*at) != cursor(last)).map_or(taken, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_with_one_cursor_are_not_parted() {
        let of = |hashes: &[&str]| -> Vec<Entry> {
            let entry = |hash: &&str| Entry { key: format!("v/t/b/{hash}"), revision: 1, value: Vec::new() };
            hashes.iter().map(entry).collect()
        };
        let (a, b, c) = ("00000000000000aa00", "00000000000000bb00", "00000000000000bb01");
        assert_eq!(whole(&of(&[a, b]), 2), 1, "more with the cursor of the last may follow");
        assert_eq!(whole(&of(&[a, b, c]), 2), 1);
        assert_eq!(whole(&of(&[a, b, c]), 1), 1);
        assert_eq!(whole(&of(&[b, c]), 2), 2, "there is no other way");
        assert_eq!(whole(&of(&[a]), 0), 0);
    }
}
