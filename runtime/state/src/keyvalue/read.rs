//! Reads: values of keys, and pages of keys. They see every write that was answered before.

use super::name;
use super::record::Record;
use super::{KeyValueError, KeyValues};
use crate::records::Entry;
use gannet_base::names::TenantName;

/// Keys in one page.
const PAGE_KEYS: usize = 500;
/// Records that are read at once for a page. It is small, because each is read with its value.
pub(super) const RECORDS: usize = 16;
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
        let mut after = cursor.map(|cursor| name::behind(&prefix, cursor));
        // Where each record is, and its key if it has a value.
        let (mut found, mut taken, mut bytes) = (Vec::<(String, Option<String>)>::new(), 0, 0);
        let is_whole = loop {
            let page = {
                let _reading = self.listing.acquire().await;
                self.records.page(&prefix, after.as_deref(), RECORDS).await?
            };
            for Entry { key: stored, value, .. } in page.entries {
                // One that cannot be read was reported at the start.
                let record = Record::decode(&value);
                bytes += record.as_ref().map_or(0, |record| record.key.len());
                found.push((stored, record.filter(|record| record.value.is_some()).map(|record| record.key)));
                if bytes <= PAGE_BYTES && found.len() <= PAGE_KEYS {
                    taken = found.len();
                }
            }
            after = found.last().map(|(stored, _)| stored.clone());
            if taken < found.len() || !page.more {
                break !page.more && taken == found.len();
            }
        };
        let (stored, mut keys): (Vec<String>, Vec<Option<String>>) = found.into_iter().unzip();
        if is_whole {
            return Ok(KeyPage { keys: keys.into_iter().flatten().collect(), cursor: None });
        }
        let whole = whole(&stored, taken);
        keys.truncate(whole);
        let cursor = stored.get(whole.saturating_sub(1)).and_then(|stored| name::cursor_of(stored));
        Ok(KeyPage { keys: keys.into_iter().flatten().collect(), cursor })
    }
}

/// Returns how many of the first records of a page can be returned with a cursor behind them. Records with one cursor are
/// not parted: the last ones are left for the next page, unless all have it.
fn whole(stored: &[String], taken: usize) -> usize {
    let cursor = |at: usize| stored.get(at).and_then(|stored| name::cursor_of(stored));
    let Some(last) = taken.checked_sub(1) else { return 0 };
    // Whether the one behind has the same is only known if it is in the page.
    if taken < stored.len() && cursor(taken) != cursor(last) {
        return taken;
    }
    (0..last).rev().find(|at| cursor(*at) != cursor(last)).map_or(taken, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_with_one_cursor_are_not_parted() {
        let of = |hashes: &[&str]| -> Vec<String> { hashes.iter().map(|hash| format!("v/t/b/{hash}")).collect() };
        let (a, b, c) = ("00000000000000aa00", "00000000000000bb00", "00000000000000bb01");
        assert_eq!(whole(&of(&[a, b]), 2), 1, "more with the cursor of the last may follow");
        assert_eq!(whole(&of(&[a, b, c]), 2), 1);
        assert_eq!(whole(&of(&[a, b, c]), 1), 1);
        assert_eq!(whole(&of(&[b, c]), 2), 2, "there is no other way");
        assert_eq!(whole(&of(&[a]), 0), 0);
    }
}
