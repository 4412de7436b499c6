//! Where keys are kept. Pure.
//!
//! ```text
//!  v/{tenant}/{bucket}/{hash}    hash: the first half of SHA-256 of the key, in hex
//! ```
//!
//! A key may have any characters, and the store's keys may not; the record contains the key itself. Keys are listed in the
//! order of their hashes, so that a cursor is a number that needs nothing to be remembered: the first 64 bits of a hash.

use gannet_base::names::TenantName;
use sha2::{Digest, Sha256};

/// The prefix of all records of key-value storage.
pub(super) const PREFIX: &str = "v/";

/// Returns the prefix of a tenant's records.
pub(super) fn of_tenant(tenant: &TenantName) -> String {
    format!("{PREFIX}{tenant}/")
}

/// Returns the prefix of a bucket's records. The bucket's name contains no `/`.
pub(super) fn of_bucket(tenant: &TenantName, bucket: &str) -> String {
    format!("{PREFIX}{tenant}/{bucket}/")
}

/// Returns where a key is kept.
pub(super) fn of_key(tenant: &TenantName, bucket: &str, key: &str) -> String {
    let hash = Sha256::digest(key.as_bytes());
    let half = hash.get(..16).unwrap_or(&hash);
    format!("{}{}", of_bucket(tenant, bucket), hex::encode(half))
}

/// Returns the tenant of a record.
pub(super) fn tenant_of(stored: &str) -> Option<TenantName> {
    let (tenant, _) = stored.strip_prefix(PREFIX)?.split_once('/')?;
    TenantName::new(tenant).ok()
}

/// Returns the cursor behind a record.
pub(super) fn cursor_of(stored: &str) -> Option<u64> {
    let (_, hash) = stored.rsplit_once('/')?;
    u64::from_str_radix(hash.get(..16)?, 16).ok()
}

/// Returns what sorts behind all records that a cursor is behind.
pub(super) fn behind(prefix: &str, cursor: u64) -> String {
    // `~` sorts behind every digit.
    format!("{prefix}{cursor:016x}~")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::records::KEY_BYTES_MAX;

    #[test]
    fn every_key_has_a_place_that_the_store_accepts_and_a_cursor() {
        let tenant = TenantName::new("a-tenant-with-a-long-name").or_else(|_| TenantName::new("acme")).unwrap();
        let prefix = of_bucket(&tenant, &"b".repeat(64));
        for key in ["a", "\u{0}", "doc/1/\u{1F980}", &"x".repeat(512)] {
            let stored = of_key(&tenant, &"b".repeat(64), key);
            assert!(stored.len() <= KEY_BYTES_MAX && stored.bytes().all(|byte| byte.is_ascii_graphic()), "{stored}");
            assert_eq!(tenant_of(&stored), Some(tenant.clone()));
            let cursor = cursor_of(&stored).unwrap();
            assert!(stored < behind(&prefix, cursor) && behind(&prefix, cursor.saturating_sub(1)) < stored);
        }
    }

    #[test]
    fn tenants_and_buckets_whose_names_begin_alike_are_apart() {
        let (one, two) = (TenantName::new("a").unwrap(), TenantName::new("ab").unwrap());
        assert!(!of_key(&two, "x", "k").starts_with(&of_tenant(&one)));
        assert!(!of_key(&one, "xy", "k").starts_with(&of_bucket(&one, "x")));
    }
}
