//! The registry of tenants, keys, functions, secrets and assets: an immutable snapshot that requests read without a
//! lock. A change replaces it as a whole.
//!
//! [`Registry`] makes changes one at a time. A change is checked against the newest snapshot, committed to
//! the store, and only then published, so that nothing is served or acknowledged that a crash could
//! undo. Where it is not known whether a change was committed, the store finds out before the next one, and the snapshot
//! becomes what is stored. A change that has begun runs to its end, even if its caller disconnects, because the store
//! and the snapshot must stay consistent.

mod assets;
mod function;
mod functions;
mod keys;
mod quarantine;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod simulated_tests;
mod sweep;
mod tenants;

pub use function::{DeployOptions, Function, Version};
pub use keys::KeyIndex;
pub use tenants::{KeySpec, stricter_of};

use crate::store::{Store, StoreError, StoredState, Ticket, WriteBatch};
use arc_swap::ArcSwap;
use gannet_base::bill::usage::Sums;
use gannet_base::identity::Key;
use gannet_base::limits::TenantLimits;
use gannet_base::names::{AssetName, FunctionName, TenantName};
use gannet_base::quota::account::{Caps, TenantCounters};
use gannet_base::records::{AssetRecord, KernelRecord, PinnedAsset, QuarantineRecord, SecretRecord, TenantRecord};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A tenant and everything it owns, except its keys.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The stored record. Its `quarantine` is empty here; see the field below.
    pub record: TenantRecord,
    /// The limits in force: the tenant's own, and the server's where it has none.
    pub limits: Arc<TenantLimits>,
    /// Counters of requests in flight and of usage. All published snapshots share them.
    pub account: Arc<TenantCounters>,
    /// Its functions, by name.
    pub functions: BTreeMap<FunctionName, Arc<Function>>,
    /// Its encrypted secrets, by name.
    pub secrets: Arc<BTreeMap<String, SecretRecord>>,
    /// Its assets, by name.
    pub assets: Arc<BTreeMap<AssetName, AssetRecord>>,
    /// Its kernels that did not release the GPU and may not run again until they are deployed again.
    pub quarantine: Arc<Vec<QuarantineRecord>>,
}

impl Tenant {
    fn new(mut record: TenantRecord, defaults: &TenantLimits) -> Self {
        let quarantine = Arc::new(std::mem::take(&mut record.quarantine));
        let (limits, account) = (Arc::new(record.limits.over(defaults)), Arc::<TenantCounters>::default());
        account.set_caps(Caps::of(&limits));
        Self {
            limits,
            account,
            functions: BTreeMap::new(),
            secrets: Arc::default(),
            assets: Arc::default(),
            quarantine,
            record,
        }
    }

    /// Returns an empty tenant, which stands for a deleted one.
    pub fn deleted_placeholder() -> Self {
        Self::new(TenantRecord::new(jiff::Timestamp::UNIX_EPOCH), &TenantLimits::default())
    }

    fn stored(&self) -> TenantRecord {
        TenantRecord { quarantine: self.quarantine.to_vec(), ..self.record.clone() }
    }

    /// Returns whether the tenant may keep GPU memory without requests (`scale.min`) on a server with so many GPU slots: it
    /// is not suspended, its limits allow it, and it can still spend.
    pub fn may_stay_resident(&self, now: jiff::Timestamp, slots: usize) -> bool {
        let spent = self.account.spent(now).micro_units;
        let kept = self.resident_gpu_bytes(None, 0, slots).div_ceil(1 << 20);
        !self.record.suspended
            && self.limits.resident_gpu_mib > 0
            && kept <= self.limits.resident_gpu_mib
            && spent < self.limits.spend_micro_units_per_month
    }

    /// Returns whether a kernel is quarantined.
    pub fn is_quarantined(&self, kernel: &KernelRecord) -> bool {
        self.quarantine.iter().any(|record| hex::encode(record.source) == kernel.source)
    }

    /// Returns the GPU memory in bytes that the functions with `scale.min` keep in all workers together, of which there are
    /// at most `slots`: in each their assets, each counted once, and `context`, the bytes that its device takes by itself.
    /// `other` is a function with its assets and its `scale.min`, to count in addition, or in place of the deployed one of
    /// that name.
    pub fn resident_gpu_bytes(
        &self,
        other: Option<(&FunctionName, &BTreeMap<String, PinnedAsset>, u64)>,
        context: u64,
        slots: usize,
    ) -> u64 {
        let current = self.functions.values().map(|function| &function.current);
        let current = current.filter(|version| other.is_none_or(|(name, ..)| *name != version.function));
        let mut kept: Vec<_> = current.map(|version| (version.manifest().scale.min, &version.record.assets)).collect();
        kept.extend(other.map(|(_, assets, min)| (min, assets)));
        let most = kept.iter().map(|(min, _)| *min).max().unwrap_or(0).min(slots as u64);
        let of_worker =
            |at: u64| kept_bytes(kept.iter().filter(|(min, _)| *min > at).map(|(_, assets)| *assets), context);
        (0..most).map(of_worker).sum()
    }

    /// Returns the GPU memory in bytes that a worker keeps for these functions.
    pub fn resident_gpu_bytes_for(&self, functions: &[FunctionName], context: u64) -> u64 {
        let kept = self.functions.values().filter(|function| functions.contains(&function.name));
        kept_bytes(kept.map(|function| &function.current.record.assets), context)
    }
}

/// Returns the bytes of a device and of these assets, each counted once.
fn kept_bytes<'a>(kept: impl Iterator<Item = &'a BTreeMap<String, PinnedAsset>>, context: u64) -> u64 {
    let assets: HashMap<&str, u64> =
        kept.flat_map(|assets| assets.values()).map(|asset| (asset.digest.as_str(), asset.size)).collect();
    context + assets.values().sum::<u64>()
}

/// Everything that requests need of the registry, at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// SHA-256 of the operator's key.
    pub operator: [u8; 32],
    /// The keys of all tenants.
    pub keys: KeyIndex,
    /// All tenants, by name.
    pub tenants: BTreeMap<TenantName, Arc<Tenant>>,
    /// Names of deleted tenants. They may not be reused.
    deleted: Arc<BTreeSet<TenantName>>,
}

impl Snapshot {
    /// Returns a function of a tenant.
    pub fn function(&self, tenant: &str, function: &str) -> Option<&Arc<Function>> {
        self.tenants.get(tenant)?.functions.get(function)
    }

    /// Returns whether a version has traffic or a tag.
    pub fn serves(&self, version: &Version) -> bool {
        let function = self.function(version.tenant.as_str(), version.function.as_str());
        function.is_some_and(|function| function.serves(version))
    }

    /// Returns whether a version is its function's current one.
    pub fn is_current(&self, version: &Version) -> bool {
        let function = self.function(version.tenant.as_str(), version.function.as_str());
        function.is_some_and(|function| function.current.key == version.key)
    }

    /// Returns whether a tenant of this name was deleted. Its usage and its audit log can still be read.
    pub fn is_deleted(&self, tenant: &TenantName) -> bool {
        self.deleted.contains(tenant)
    }

    /// Whether a key that was valid when its request came is valid still.
    pub fn accepts(&self, key: &Key) -> bool {
        self.keys.get(&key.hash).is_some_and(|found| !found.is_expired(jiff::Timestamp::now()))
    }

    /// Returns a tenant's keys.
    pub fn keys_of<'a>(&'a self, tenant: &'a TenantName) -> impl Iterator<Item = &'a Arc<Key>> {
        self.keys.of(tenant)
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The tenant, function, key, secret, asset or tag does not exist.
    #[error("not found")]
    NotFound,
    /// The change conflicts with the current state.
    #[error("{0}")]
    Conflict(String),
    /// The change itself is invalid.
    #[error("{0}")]
    Invalid(String),
    /// A limit of the tenant is reached.
    #[error("{name} = {limit}; in use: {used}")]
    LimitReached {
        /// Name of the limit.
        name: &'static str,
        /// Value of the limit.
        limit: u64,
        /// How much of it is used.
        used: u64,
    },
    /// The store could not commit the change.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Publishes snapshots and makes changes; see the module.
#[derive(Debug)]
pub struct Registry {
    snapshot: ArcSwap<Snapshot>,
    /// The server's limits, for tenants without their own.
    defaults: ArcSwap<TenantLimits>,
    versions_kept: AtomicU64,
    store: Arc<Store>,
    /// Components and assets whose version or name is not committed yet. Sweeping must not remove their files.
    protected_files: Mutex<Vec<(TenantName, String)>>,
    /// Held during a change, and while unused files are removed.
    changing: tokio::sync::Mutex<Changing>,
    next_version_key: AtomicU64,
}

/// What the next change begins with.
#[derive(Debug, Default)]
struct Changing {
    /// A snapshot whose commit was made or not: it is published if it was.
    open: Option<(Ticket, Arc<Snapshot>)>,
}

/// The batch to commit for a change, and the change's result.
type ChangeResult<T> = Result<(WriteBatch, T), RegistryError>;

impl Registry {
    /// Builds the first snapshot from the stored state. `operator` is the SHA-256 of the operator's key.
    pub fn new(
        store: Arc<Store>,
        contents: StoredState,
        operator: [u8; 32],
        defaults: TenantLimits,
        versions_kept: u64,
    ) -> Self {
        let mut tenants: BTreeMap<TenantName, Tenant> =
            contents.tenants.into_iter().map(|(name, record)| (name, Tenant::new(record, &defaults))).collect();
        for ((tenant, name), record) in contents.secrets {
            if let Some(tenant) = tenants.get_mut(&tenant) {
                Arc::make_mut(&mut tenant.secrets).insert(name, record);
            }
        }
        for ((tenant, name), record) in contents.assets {
            if let Some(tenant) = tenants.get_mut(&tenant) {
                Arc::make_mut(&mut tenant.assets).insert(name, record);
            }
        }
        let mut keys = KeyIndex::default();
        for (hash, record) in contents.keys {
            keys.insert(Arc::new(Key::new(hash, record)));
        }
        let registry = Self {
            snapshot: ArcSwap::from_pointee(Snapshot {
                operator,
                keys,
                tenants: BTreeMap::new(),
                deleted: Arc::new(contents.deleted.into_keys().collect()),
            }),
            defaults: ArcSwap::from_pointee(defaults),
            versions_kept: AtomicU64::new(versions_kept),
            store,
            protected_files: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            next_version_key: AtomicU64::new(1),
        };
        for ((owner, name), (record, versions)) in contents.functions {
            let Some(tenant) = tenants.get_mut(&owner) else { continue };
            let limits = Arc::clone(&tenant.limits);
            let versions = versions
                .into_iter()
                .map(|version| registry.version(&owner, &name, Arc::new(version), &limits))
                .collect();
            if let Some(function) = Function::from_record(name.clone(), &record, versions) {
                tenant.functions.insert(name, Arc::new(function));
            }
        }
        let mut snapshot = Snapshot::clone(&registry.snapshot());
        snapshot.tenants = tenants.into_iter().map(|(name, tenant)| (name, Arc::new(tenant))).collect();
        registry.snapshot.store(Arc::new(snapshot));
        registry
    }

    /// Adds usage from before this start to the tenants' counters.
    pub fn count_used(&self, by_day: &crate::ledger::UsageByDay) {
        let snapshot = self.snapshot();
        for ((day, tenant), sums) in by_day {
            let Some(tenant) = snapshot.tenants.get(tenant) else { continue };
            let Ok(time) = jiff::Timestamp::from_second(day.saturating_mul(86_400)) else { continue };
            let Sums { gpu_ns, egress_bytes, .. } = *sums;
            tenant.account.add(time, gpu_ns, egress_bytes, sums.micro_units());
        }
    }

    /// Returns the current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Keeps the files of a component or an asset from being removed, until the guard is dropped.
    pub fn protect_files(self: &Arc<Self>, tenant: &TenantName, digest: &str) -> UploadGuard {
        let component = (tenant.clone(), digest.to_owned());
        self.protected_files.lock().unwrap_or_else(PoisonError::into_inner).push(component.clone());
        UploadGuard { registry: Arc::clone(self), component }
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn version(
        &self,
        tenant: &TenantName,
        name: &FunctionName,
        record: Arc<gannet_base::records::VersionRecord>,
        limits: &TenantLimits,
    ) -> Arc<Version> {
        let key = self.next_version_key.fetch_add(1, Ordering::Relaxed);
        Arc::new(Version::new(key, tenant, name, record, limits, &self.store))
    }

    /// Makes a change: runs `change` on a copy of the snapshot, commits its batch, and publishes the copy. This is a
    /// task of its own, so it runs to its end even if the caller is dropped.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&Self, &mut Snapshot) -> ChangeResult<T> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let registry = Arc::clone(self);
        let changing = tokio::spawn(async move {
            let mut changing = registry.changing.lock().await;
            registry.settle(&mut changing).await?;
            let mut next = Snapshot::clone(&registry.snapshot());
            let (change, result) = change(&registry, &mut next)?;
            registry.commit(&mut changing, change, next).await?;
            Ok(result)
        });
        changing.await.map_err(|error| StoreError::Io(error.to_string()))?
    }

    /// Commits a change, and publishes the snapshot after it. If it is not known whether it was made, the next change
    /// finds out, and publishes it then.
    async fn commit(&self, changing: &mut Changing, change: WriteBatch, next: Snapshot) -> Result<(), StoreError> {
        let next = Arc::new(next);
        match self.store.commit(change).await {
            Ok(()) => self.snapshot.store(next),
            Err(error) => {
                if let StoreError::Unknown { ticket } = error {
                    changing.open = Some((ticket, next));
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Finds out what became of a change whose end was unknown, and publishes it if it was made. Until then no other
    /// change is made.
    async fn settle(&self, changing: &mut Changing) -> Result<(), StoreError> {
        let Some((ticket, next)) = &changing.open else { return Ok(()) };
        if self.store.outcome(*ticket).await.map_err(StoreError::of_another)? {
            self.snapshot.store(Arc::clone(next));
        }
        changing.open = None;
        Ok(())
    }

    /// Finds out what became of a change whose end was unknown, in the background of what is served.
    pub async fn settle_changes(&self) -> Result<(), RegistryError> {
        let mut changing = self.changing.lock().await;
        Ok(self.settle(&mut changing).await?)
    }
}

/// Keeps the files of a component or an asset from being removed until it is dropped; see [`Registry::protect_files`].
#[derive(Debug)]
pub struct UploadGuard {
    registry: Arc<Registry>,
    component: (TenantName, String),
}

impl Drop for UploadGuard {
    fn drop(&mut self) {
        let mut protected = self.registry.protected_files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = protected.iter().position(|component| *component == self.component) {
            protected.swap_remove(at);
        }
    }
}

fn tenant_mut<'a>(next: &'a mut Snapshot, name: &TenantName) -> Result<&'a mut Tenant, RegistryError> {
    next.tenants.get_mut(name).map(Arc::make_mut).ok_or(RegistryError::NotFound)
}
