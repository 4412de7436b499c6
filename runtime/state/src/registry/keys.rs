//! Keys by their hashes, and by tenant: how many others there are must not show in how long it takes to list one's own.

use gannet_base::identity::Key;
use gannet_base::names::TenantName;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct KeyIndex {
    by_hash: HashMap<[u8; 32], Arc<Key>>,
    by_tenant: BTreeMap<(TenantName, [u8; 32]), Arc<Key>>,
}

impl KeyIndex {
    /// The key with a hash.
    pub fn get(&self, hash: &[u8; 32]) -> Option<&Arc<Key>> {
        self.by_hash.get(hash)
    }

    /// All of them.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.by_hash.values()
    }

    /// A tenant's.
    pub fn of(&self, tenant: &TenantName) -> impl Iterator<Item = &Arc<Key>> {
        let (first, last) = ((tenant.clone(), [u8::MIN; 32]), (tenant.clone(), [u8::MAX; 32]));
        self.by_tenant.range(first..=last).map(|(_, key)| key)
    }

    /// Adds a key, or puts it in the place of the one with its hash.
    pub fn insert(&mut self, key: Arc<Key>) {
        self.by_tenant.insert((key.record.tenant.clone(), key.hash), Arc::clone(&key));
        self.by_hash.insert(key.hash, key);
    }

    /// Takes a key away.
    pub fn remove(&mut self, hash: &[u8; 32]) {
        if let Some(key) = self.by_hash.remove(hash) {
            self.by_tenant.remove(&(key.record.tenant.clone(), key.hash));
        }
    }
}
