//! Keys, indexed by hash and by tenant. The second index makes the time to list a tenant's keys independent of how many
//! keys other tenants have.

use gannet_base::identity::Key;
use gannet_base::names::TenantName;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// All keys, in two indexes; see the module.
#[derive(Debug, Clone, Default)]
pub struct KeyIndex {
    by_hash: HashMap<[u8; 32], Arc<Key>>,
    by_tenant: BTreeMap<(TenantName, [u8; 32]), Arc<Key>>,
}

impl KeyIndex {
    /// Returns the key with this SHA-256.
    pub fn get(&self, hash: &[u8; 32]) -> Option<&Arc<Key>> {
        self.by_hash.get(hash)
    }

    /// Returns all keys.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.by_hash.values()
    }

    /// Returns a tenant's keys.
    pub fn of(&self, tenant: &TenantName) -> impl Iterator<Item = &Arc<Key>> {
        let (first, last) = ((tenant.clone(), [u8::MIN; 32]), (tenant.clone(), [u8::MAX; 32]));
        self.by_tenant.range(first..=last).map(|(_, key)| key)
    }

    /// Adds a key, or replaces the one with the same hash.
    pub fn insert(&mut self, key: Arc<Key>) {
        self.by_tenant.insert((key.record.tenant.clone(), key.hash), Arc::clone(&key));
        self.by_hash.insert(key.hash, key);
    }

    /// Removes a key, if it exists.
    pub fn remove(&mut self, hash: &[u8; 32]) {
        if let Some(key) = self.by_hash.remove(hash) {
            self.by_tenant.remove(&(key.record.tenant.clone(), key.hash));
        }
    }
}
