//! Who sent a request: a key as it is looked up, and the caller that it makes.

use crate::quota::rate::Bucket;
use crate::records::KeyRecord;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// All keys of the platform start with this.
pub const KEY_PREFIX: &str = "gnt_";

/// A key as it is looked up.
#[derive(Debug)]
pub struct Key {
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// What was stored of it.
    pub record: KeyRecord,
    /// Its own requests, in the rate that it may send.
    pub rate: Arc<Bucket>,
    /// When it was last used, in seconds since 1970; 0 for never.
    pub used_s: AtomicU64,
    /// The last persisted value of `used_s`.
    pub persisted_used_s: AtomicU64,
}

impl Key {
    /// A key as it was stored.
    pub fn new(hash: [u8; 32], record: KeyRecord) -> Self {
        let (used_s, persisted_used_s) = (AtomicU64::new(record.used_s), AtomicU64::new(record.used_s));
        Self { hash, record, rate: Arc::default(), used_s, persisted_used_s }
    }

    /// The same key with another record: what it has sent counts on.
    pub fn with(&self, record: KeyRecord) -> Self {
        Self { rate: Arc::clone(&self.rate), ..Self::new(self.hash, record) }
    }

    /// Whether it is not valid any more.
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
    /// Nobody with a key.
    Anonymous,
    /// A key of a tenant.
    Tenant(Arc<Key>),
    /// The operator.
    Operator,
}

/// The hash under which a key is kept.
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}
