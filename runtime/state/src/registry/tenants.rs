//! Changes of tenants: create, limit, suspend and delete them. Also changes of their keys and secrets.

use crate::registry::{ChangeResult, Registry, RegistryError, Snapshot, Tenant, tenant_mut};
use crate::store::WriteBatch;
use gannet_base::identity::Key;
use gannet_base::limits::{LimitsChoice, TenantLimits};
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::quota::account::Caps;
use gannet_base::records::{DeletedTenantRecord, KeyRecord, SecretRecord, TenantRecord};
use gannet_base::scopes::Scopes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Keys whose last use is stored in one commit.
const KEYS_AT_ONCE: usize = 500;

/// A key to be created. The server stores only the hash of the key; the key itself is shown once, to its creator.
#[derive(Debug, Clone)]
pub struct KeySpec {
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// What the key allows.
    pub scopes: Scopes,
    /// The only function that the key is valid for. None: all functions of the tenant.
    pub function: Option<FunctionName>,
    /// When the key expires. None: never.
    pub expires: Option<jiff::Timestamp>,
    /// Rate limit of this key. None: only the tenant's limits apply.
    pub requests_per_s: Option<u64>,
}

impl KeySpec {
    /// Returns the spec of a key with all scopes, which never expires.
    pub fn full(hash: [u8; 32]) -> Self {
        Self { hash, scopes: Scopes::FULL, function: None, expires: None, requests_per_s: None }
    }

    fn record(self, tenant: &TenantName) -> KeyRecord {
        let Self { hash, scopes, function, expires, requests_per_s } = self;
        let id = hex::encode(hash.get(..8).unwrap_or_default());
        let (tenant, created) = (tenant.clone(), jiff::Timestamp::now());
        KeyRecord { id, tenant, scopes, created, function, expires, requests_per_s, used_s: 0 }
    }
}

fn add_key(next: &mut Snapshot, tenant: &TenantName, new: KeySpec, change: WriteBatch) -> ChangeResult<KeyRecord> {
    let hash = new.hash;
    let record = new.record(tenant);
    let change = change.key(&hash, &record)?;
    next.keys.insert(Arc::new(Key::new(hash, record.clone())));
    Ok((change, record))
}

fn find_key(next: &Snapshot, tenant: &TenantName, id: &str) -> Result<Arc<Key>, RegistryError> {
    next.keys_of(tenant).find(|key| key.record.id == id).cloned().ok_or(RegistryError::NotFound)
}

/// Returns the smaller of two bounds. A bound of None does not count.
pub fn stricter_of<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Registry {
    /// Creates a tenant with one key.
    pub async fn create_tenant(
        self: &Arc<Self>,
        name: &TenantName,
        key: KeySpec,
        limits: LimitsChoice,
    ) -> Result<KeyRecord, RegistryError> {
        let name = name.clone();
        self.change(move |registry, next| {
            if next.tenants.contains_key(&name) {
                return Err(RegistryError::Conflict(format!("tenant {name} exists already")));
            }
            if next.deleted.contains(&name) {
                return Err(RegistryError::Conflict(format!(
                    "a tenant {name} was deleted; its name cannot be reused, because bills identify tenants by name"
                )));
            }
            let record = TenantRecord { limits, ..TenantRecord::new(jiff::Timestamp::now()) };
            let change = WriteBatch::new().tenant(&name, &record)?;
            let made = add_key(next, &name, key, change)?;
            next.tenants.insert(name, Arc::new(Tenant::new(record, &registry.defaults.load())));
            Ok(made)
        })
        .await
    }

    async fn change_tenant<T: Send + 'static>(
        self: &Arc<Self>,
        name: &TenantName,
        change: impl FnOnce(&Self, &mut Tenant) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let name = name.clone();
        self.change(move |registry, next| {
            let tenant_entry = tenant_mut(next, &name)?;
            let result = change(registry, tenant_entry)?;
            Ok((WriteBatch::new().tenant(&name, &tenant_entry.stored())?, result))
        })
        .await
    }

    /// Suspends a tenant, so that none of its requests is admitted any more, or resumes it.
    pub async fn suspend(self: &Arc<Self>, name: &TenantName, suspended: bool) -> Result<(), RegistryError> {
        self.change_tenant(name, move |_, tenant_entry| {
            tenant_entry.record.suspended = suspended;
            Ok(())
        })
        .await
    }

    /// Changes limits of a tenant by a JSON merge patch. They apply from the next request on.
    pub async fn set_limits(
        self: &Arc<Self>,
        name: &TenantName,
        patch: serde_json::Map<String, serde_json::Value>,
    ) -> Result<Arc<TenantLimits>, RegistryError> {
        let tenant = name.clone();
        let changed = self.change_tenant(name, move |registry, tenant_entry| {
            let choice = tenant_entry.record.limits.patched(&patch).map_err(RegistryError::Invalid)?;
            let wrong: Vec<String> = choice.check().iter().map(ToString::to_string).collect();
            if !wrong.is_empty() {
                return Err(RegistryError::Invalid(wrong.join("; ")));
            }
            tenant_entry.limits = Arc::new(choice.over(&registry.defaults.load()));
            tenant_entry.record.limits = choice;
            registry.apply_limits(&tenant, tenant_entry);
            Ok((Arc::clone(&tenant_entry.limits), Arc::clone(&tenant_entry.account)))
        });
        let (limits, account) = changed.await?;
        account.set_caps(Caps::of(&limits));
        Ok(limits)
    }

    /// Replaces the server's limits. Each applies to the tenants that have no own value for it.
    pub async fn set_defaults(
        self: &Arc<Self>,
        defaults: TenantLimits,
        versions_kept: u64,
    ) -> Result<(), RegistryError> {
        self.versions_kept.store(versions_kept, Ordering::Relaxed);
        self.change(move |registry, next| {
            for (name, tenant_entry) in &mut next.tenants {
                let limits = tenant_entry.record.limits.over(&defaults);
                if limits != *tenant_entry.limits {
                    let tenant_entry = Arc::make_mut(tenant_entry);
                    tenant_entry.limits = Arc::new(limits);
                    registry.apply_limits(name, tenant_entry);
                }
            }
            registry.defaults.store(Arc::new(defaults));
            Ok((WriteBatch::new(), ()))
        })
        .await?;
        for tenant_entry in self.snapshot().tenants.values() {
            tenant_entry.account.set_caps(Caps::of(&tenant_entry.limits));
        }
        Ok(())
    }

    /// Removes a tenant with its functions, secrets, assets and keys. Its usage and its audit log stay.
    pub async fn delete_tenant(self: &Arc<Self>, name: &TenantName) -> Result<(), RegistryError> {
        let name = name.clone();
        self.change(move |_, next| {
            let tenant_entry = next.tenants.remove(&name).ok_or(RegistryError::NotFound)?;
            let mut change =
                WriteBatch::new().without_tenant(&name, &DeletedTenantRecord { deleted: jiff::Timestamp::now() })?;
            for function in tenant_entry.functions.values() {
                change = change.without_function(&name, &function.name);
                for version in &function.versions {
                    change = change.without_version(&name, &function.name, version.record.number);
                }
            }
            for secret in tenant_entry.secrets.keys() {
                change = change.without_secret(&name, secret);
            }
            for asset in tenant_entry.assets.keys() {
                change = change.without_asset(&name, asset);
            }
            let keys: Vec<[u8; 32]> = next.keys_of(&name).map(|key| key.hash).collect();
            for hash in keys {
                change = change.without_key(&hash);
                next.keys.remove(&hash);
            }
            let deleted: BTreeSet<_> = next.deleted.iter().cloned().chain([name]).collect();
            next.deleted = Arc::new(deleted);
            Ok((change, ()))
        })
        .await
    }

    /// Creates a key.
    pub async fn create_key(self: &Arc<Self>, tenant: &TenantName, new: KeySpec) -> Result<KeyRecord, RegistryError> {
        let tenant = tenant.clone();
        self.change(move |_, next| {
            let limit = tenant_mut(next, &tenant)?.limits.keys;
            let used = next.keys_of(&tenant).count() as u64;
            if used >= limit {
                return Err(RegistryError::LimitReached { name: "keys", limit, used });
            }
            add_key(next, &tenant, new, WriteBatch::new())
        })
        .await
    }

    /// Creates a key that replaces another and has its scopes, function, expiry and rate. The old key expires after
    /// `overlap`. The last argument further bounds the new key's expiry and rate, by those of the caller's own key.
    pub async fn rotate_key(
        self: &Arc<Self>,
        tenant: &TenantName,
        id: &str,
        hash: [u8; 32],
        overlap: jiff::SignedDuration,
        (last, fastest): (Option<jiff::Timestamp>, Option<u64>),
    ) -> Result<KeyRecord, RegistryError> {
        let (tenant, id) = (tenant.clone(), id.to_owned());
        self.change(move |_, next| {
            let old = find_key(next, &tenant, &id)?;
            let (limit, used) = (tenant_mut(next, &tenant)?.limits.keys, next.keys_of(&tenant).count() as u64);
            if used > limit {
                return Err(RegistryError::LimitReached { name: "keys", limit, used });
            }
            let ends = jiff::Timestamp::now().checked_add(overlap).unwrap_or(jiff::Timestamp::MAX);
            let ends = old.record.expires.map_or(ends, |expires| expires.min(ends));
            let used_s = old.used_s.load(Ordering::Relaxed);
            let ending = KeyRecord { expires: Some(ends), used_s, ..old.record.clone() };
            let change = WriteBatch::new().key(&old.hash, &ending)?;
            next.keys.insert(Arc::new(old.with(ending)));
            let KeyRecord { scopes, function, expires, requests_per_s, .. } = old.record.clone();
            let (expires, requests_per_s) = (stricter_of(expires, last), stricter_of(requests_per_s, fastest));
            add_key(next, &tenant, KeySpec { hash, scopes, function, expires, requests_per_s }, change)
        })
        .await
    }

    /// Revokes a key at once.
    pub async fn revoke_key(self: &Arc<Self>, tenant: &TenantName, id: &str) -> Result<(), RegistryError> {
        let (tenant, id) = (tenant.clone(), id.to_owned());
        self.change(move |_, next| {
            let key = find_key(next, &tenant, &id)?;
            next.keys.remove(&key.hash);
            Ok((WriteBatch::new().without_key(&key.hash), ()))
        })
        .await
    }

    /// Stores when keys were last used, to the minute, and removes keys that had expired by the time `past`.
    pub async fn persist_last_used(self: &Arc<Self>, past: Option<jiff::Timestamp>) -> Result<(), RegistryError> {
        let mut changing = self.changing.lock().await;
        self.settle(&mut changing).await?;
        let mut next = Snapshot::clone(&self.snapshot());
        let is_past = |key: &&Arc<Key>| past.is_some_and(|past| key.is_expired(past));
        let ended: Vec<[u8; 32]> = next.keys.values().filter(is_past).map(|key| key.hash).collect();
        for some in ended.chunks(KEYS_AT_ONCE) {
            some.iter().for_each(|hash| next.keys.remove(hash));
            let change = some.iter().fold(WriteBatch::new(), WriteBatch::without_key);
            self.commit(&mut changing, change, next.clone()).await?;
        }
        let is_used = |key: &&Arc<Key>| {
            let used_s = key.used_s.load(Ordering::Relaxed);
            used_s / 60 != key.persisted_used_s.swap(used_s, Ordering::Relaxed) / 60
        };
        let used: Vec<&Arc<Key>> = next.keys.values().filter(is_used).collect();
        for some in used.chunks(KEYS_AT_ONCE) {
            let mut change = WriteBatch::new();
            for key in some {
                let used_s = key.used_s.load(Ordering::Relaxed);
                change = change.key(&key.hash, &KeyRecord { used_s, ..key.record.clone() })?;
            }
            self.commit(&mut changing, change, next.clone()).await?;
        }
        Ok(())
    }

    /// Sets a secret. Functions that name it get a new version of the same component. Returns whether the secret is
    /// new.
    pub async fn set_secret(
        self: &Arc<Self>,
        tenant: &TenantName,
        name: &str,
        record: SecretRecord,
    ) -> Result<bool, RegistryError> {
        let owner = tenant.clone();
        let (tenant, name) = (tenant.clone(), name.to_owned());
        let set = self.change(move |registry, next| {
            let tenant_entry = tenant_mut(next, &tenant)?;
            let (limit, used) = (tenant_entry.limits.secrets, tenant_entry.secrets.len() as u64);
            let new = !tenant_entry.secrets.contains_key(&name);
            if new && used >= limit {
                return Err(RegistryError::LimitReached { name: "secrets", limit, used });
            }
            let change = WriteBatch::new().secret(&tenant, &name, &record)?;
            Arc::make_mut(&mut tenant_entry.secrets).insert(name.clone(), record);
            let cause = format!("the secret {name} was set");
            let names = |version: &crate::registry::Version| version.manifest().secrets.names.contains(&name);
            let (change, gone) = registry.renew(&tenant, tenant_entry, change, &cause, names)?;
            Ok((change, (new, gone)))
        });
        let (new, gone) = set.await?;
        self.sweep_components(&owner, gone);
        self.sweep_assets(&owner);
        Ok(new)
    }

    /// Removes a secret. Fails if a version with traffic or a tag names it.
    pub async fn delete_secret(self: &Arc<Self>, tenant: &TenantName, name: &str) -> Result<(), RegistryError> {
        let (tenant, name) = (tenant.clone(), name.to_owned());
        self.change(move |_, next| {
            let tenant_entry = tenant_mut(next, &tenant)?;
            let named = tenant_entry.functions.values().find(|function| {
                let mut served = function.versions.iter().filter(|version| function.serves(version));
                served.any(|version| version.manifest().secrets.names.contains(&name))
            });
            if let Some(function) = named {
                let function = &function.name;
                return Err(RegistryError::Conflict(format!("the function {function} names the secret {name}")));
            }
            Arc::make_mut(&mut tenant_entry.secrets).remove(&name).ok_or(RegistryError::NotFound)?;
            Ok((WriteBatch::new().without_secret(&tenant, &name), ()))
        })
        .await
    }
}
