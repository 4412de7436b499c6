//! Who sent a request: keys, as they are looked up by their hash, and callers.

use crate::quota::rate::Bucket;
use crate::records::KeyRecord;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The prefix of all keys of the platform.
pub const KEY_PREFIX: &str = "gnt_";

/// A key in memory, found by its hash.
#[derive(Debug)]
pub struct Key {
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// The stored record of the key.
    pub record: KeyRecord,
    /// Counts the key's requests against its own rate, if its record sets one.
    pub rate: Arc<Bucket>,
    /// When the key was last used, in seconds since 1970; 0 if never.
    pub used_s: AtomicU64,
    /// The last persisted value of `used_s`.
    pub persisted_used_s: AtomicU64,
}

impl Key {
    /// Returns the key with this hash and stored record.
    pub fn new(hash: [u8; 32], record: KeyRecord) -> Self {
        let (used_s, persisted_used_s) = (AtomicU64::new(record.used_s), AtomicU64::new(record.used_s));
        Self { hash, record, rate: Arc::default(), used_s, persisted_used_s }
    }

    /// Returns the same key with another record. Requests that it has sent still count against its rate.
    pub fn with(&self, record: KeyRecord) -> Self {
        Self { rate: Arc::clone(&self.rate), ..Self::new(self.hash, record) }
    }

    /// Returns whether the key has expired.
    pub fn is_expired(&self, now: jiff::Timestamp) -> bool {
        self.record.expires.is_some_and(|expires| expires <= now)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Caller {
    /// A caller without a key.
    Anonymous,
    /// A caller with a key of a tenant.
    Tenant(Arc<Key>),
    /// The operator of the server.
    Operator,
}

/// Returns the hash under which a key is stored.
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}
