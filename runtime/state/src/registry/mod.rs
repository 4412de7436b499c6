//! What is deployed: an immutable snapshot that the way in reads without a lock, replaced whole when
//! something changes.
//!
//! Changes go through [`Registry`] one at a time: checked against the newest snapshot, committed to
//! the store, and only then published, so that nothing is served or acknowledged that a crash could
//! take back. A change runs to its end once it has begun, even if whoever asked for it leaves: the store
//! and the snapshot must not come apart.

mod assets;
mod function;
mod functions;
mod keys;
mod tenants;

pub use function::{DeployOptions, Function, Version};
pub use keys::KeyIndex;
pub use tenants::{KeySpec, stricter_of};

use crate::store::{Store, StoreError, StoredState, WriteBatch};
use arc_swap::ArcSwap;
use gannet_base::bill::usage::Sums;
use gannet_base::hop::BundleKernel;
use gannet_base::identity::Key;
use gannet_base::limits::TenantLimits;
use gannet_base::names::{AssetName, FunctionName, TenantName};
use gannet_base::quota::account::TenantCounters;
use gannet_base::records::{AssetRecord, PinnedAsset, QuarantineRecord, SecretRecord, TenantRecord};
use gannet_gpu_protocol::source_hash;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A tenant and what is its own.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// What was stored of it, but for what stands beside.
    pub record: TenantRecord,
    /// The limits in force.
    pub limits: Arc<TenantLimits>,
    /// What it has in flight and has used; it outlives snapshots.
    pub account: Arc<TenantCounters>,
    /// Its functions, by name.
    pub functions: BTreeMap<FunctionName, Arc<Function>>,
    /// Its secrets, sealed, by name.
    pub secrets: Arc<BTreeMap<String, SecretRecord>>,
    /// Its assets, by name.
    pub assets: Arc<BTreeMap<AssetName, AssetRecord>>,
    /// Its kernels that kept the GPU.
    pub quarantine: Arc<Vec<QuarantineRecord>>,
}

impl Tenant {
    fn new(mut record: TenantRecord, defaults: &TenantLimits) -> Self {
        let quarantine = Arc::new(std::mem::take(&mut record.quarantine));
        Self {
            limits: Arc::new(record.limits.over(defaults)),
            account: Arc::default(),
            functions: BTreeMap::new(),
            secrets: Arc::default(),
            assets: Arc::default(),
            quarantine,
            record,
        }
    }

    /// What is left of one that was deleted.
    pub fn gone() -> Self {
        Self::new(TenantRecord::new(jiff::Timestamp::UNIX_EPOCH), &TenantLimits::default())
    }

    fn stored(&self) -> TenantRecord {
        TenantRecord { quarantine: self.quarantine.to_vec(), ..self.record.clone() }
    }

    /// Whether it may keep GPU memory while nobody calls.
    pub fn may_stay_resident(&self, now: jiff::Timestamp) -> bool {
        let spent = self.account.spent(now).micro_units;
        let kept = self.resident_gpu_bytes(None, 0).div_ceil(1 << 20);
        self.limits.resident_gpu_mib > 0
            && kept <= self.limits.resident_gpu_mib
            && spent < self.limits.spend_micro_units_per_month
    }

    /// Whether a kernel is quarantined.
    pub fn is_quarantined(&self, kernel: &BundleKernel) -> bool {
        let source = source_hash(&kernel.wgsl, &kernel.entry);
        self.quarantine.iter().any(|record| record.source == source)
    }

    /// Bytes that its functions with `scale.min` keep on a GPU, and those of one more or another in its place, each asset once,
    /// beside what `context` a worker takes in each slot that they are in.
    pub fn resident_gpu_bytes(
        &self,
        other: Option<(&FunctionName, &BTreeMap<String, PinnedAsset>)>,
        context: u64,
    ) -> u64 {
        let current = self.functions.values().map(|function| &function.current);
        let kept = current.filter(|version| version.manifest().scale.min > 0);
        let kept = kept.filter(|version| other.is_none_or(|(name, _)| *name != version.function));
        let mut assets: HashMap<&str, u64> = HashMap::new();
        let mut any = other.is_some();
        for version in kept {
            any = true;
            assets.extend(version.record.assets.values().map(|asset| (asset.digest.as_str(), asset.size)));
        }
        if let Some((_, more)) = other {
            assets.extend(more.values().map(|asset| (asset.digest.as_str(), asset.size)));
        }
        if any { context + assets.values().sum::<u64>() } else { 0 }
    }

    /// Whether any version of its functions is made of a component, or runs what was built of it under this name.
    fn needs(&self, name: &str) -> bool {
        let mut versions = self.functions.values().flat_map(|function| &function.versions);
        versions.any(|version| version.record.digest == name || version.record.build_name() == name)
    }
}

/// Everything the way in needs to know.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The hash of the operator's key.
    pub operator: [u8; 32],
    /// All keys.
    pub keys: KeyIndex,
    /// All tenants.
    pub tenants: BTreeMap<TenantName, Arc<Tenant>>,
    /// Names that may not be given again.
    gone: Arc<BTreeSet<TenantName>>,
}

impl Snapshot {
    /// A function of a tenant.
    pub fn function(&self, tenant: &str, function: &str) -> Option<&Arc<Function>> {
        self.tenants.get(tenant)?.functions.get(function)
    }

    /// Whether there was a tenant of this name, which is deleted. What it used and did is still to be had.
    pub fn is_deleted(&self, tenant: &TenantName) -> bool {
        self.gone.contains(tenant)
    }

    /// A tenant's keys.
    pub fn keys_of<'a>(&'a self, tenant: &'a TenantName) -> impl Iterator<Item = &'a Arc<Key>> {
        self.keys.of(tenant)
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no such thing.
    #[error("not found")]
    NotFound,
    /// It cannot be beside what is there.
    #[error("{0}")]
    Conflict(String),
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A limit of the tenant's that is used up.
    #[error("{name} = {limit}; in use: {used}")]
    LimitReached {
        /// The limit's name.
        name: &'static str,
        /// The limit.
        limit: u64,
        /// What is used.
        used: u64,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// See the module.
#[derive(Debug)]
pub struct Registry {
    snapshot: ArcSwap<Snapshot>,
    defaults: ArcSwap<TenantLimits>,
    versions_kept: AtomicU64,
    store: Arc<Store>,
    /// Components on their way to a version, and assets on their way to a name: they are not to be removed.
    arriving: Mutex<Vec<(TenantName, String)>>,
    changing: tokio::sync::Mutex<()>,
    next_version_key: AtomicU64,
}

/// What a change does to the snapshot, and what must be stored for it.
type ChangeResult<T> = Result<(WriteBatch, T), RegistryError>;

impl Registry {
    /// Builds the snapshot from what the store holds.
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
                gone: Arc::new(contents.gone.into_keys().collect()),
            }),
            defaults: ArcSwap::from_pointee(defaults),
            versions_kept: AtomicU64::new(versions_kept),
            store,
            arriving: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
            next_version_key: AtomicU64::new(1),
        };
        for ((owner, name), (record, versions)) in contents.functions {
            let Some(tenant) = tenants.get_mut(&owner) else { continue };
            let limits = Arc::clone(&tenant.limits);
            let versions = versions
                .into_iter()
                .map(|version| registry.version(&owner, &name, Arc::new(version), &limits))
                .collect();
            if let Some(function) = Function::of(name.clone(), &record, versions) {
                tenant.functions.insert(name, Arc::new(function));
            }
        }
        let mut snapshot = Snapshot::clone(&registry.snapshot());
        snapshot.tenants = tenants.into_iter().map(|(name, tenant)| (name, Arc::new(tenant))).collect();
        registry.snapshot.store(Arc::new(snapshot));
        registry
    }

    /// What tenants used before this start.
    pub fn count_used(&self, by_day: &crate::ledger::UsageByDay) {
        let snapshot = self.snapshot();
        let today = gannet_base::time::day_of(jiff::Timestamp::now());
        // A day that is to come was counted by a clock that ran ahead; it must not stop the days until then.
        for ((day, tenant), sums) in by_day.iter().filter(|((day, _), _)| *day <= today + 1) {
            let Some(tenant) = snapshot.tenants.get(tenant) else { continue };
            let Ok(time) = jiff::Timestamp::from_second(day.saturating_mul(86_400)) else { continue };
            let Sums { gpu_ns, egress_bytes, .. } = *sums;
            tenant.account.add(time, gpu_ns, egress_bytes, sums.micro_units());
        }
    }

    /// What is deployed now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Keeps a component or an asset of a tenant from being removed, until the guard is dropped.
    pub fn arriving(self: &Arc<Self>, tenant: &TenantName, digest: &str) -> UploadGuard {
        let component = (tenant.clone(), digest.to_owned());
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner).push(component.clone());
        UploadGuard { registry: Arc::clone(self), component }
    }

    fn is_arriving(&self, tenant: &TenantName, digest: &str) -> bool {
        let arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        arriving.iter().any(|(owner, known)| owner == tenant && known == digest)
    }

    /// The store below.
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
        Arc::new(Version::new(key, tenant, name, record, limits, self.store.files()))
    }

    /// Makes a change to its end.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&Self, &mut Snapshot) -> ChangeResult<T> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let registry = Arc::clone(self);
        let changing = tokio::spawn(async move {
            let _changing = registry.changing.lock().await;
            let mut next = Snapshot::clone(&registry.snapshot());
            let (change, result) = change(&registry, &mut next)?;
            registry.store.commit(change).await?;
            registry.snapshot.store(Arc::new(next));
            Ok(result)
        });
        changing.await.map_err(|error| StoreError::Io(error.to_string()))?
    }
}

/// A component on its way to a version.
#[derive(Debug)]
pub struct UploadGuard {
    registry: Arc<Registry>,
    component: (TenantName, String),
}

impl Drop for UploadGuard {
    fn drop(&mut self) {
        let mut arriving = self.registry.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = arriving.iter().position(|component| *component == self.component) {
            arriving.swap_remove(at);
        }
    }
}

fn tenant_mut<'a>(next: &'a mut Snapshot, name: &TenantName) -> Result<&'a mut Tenant, RegistryError> {
    next.tenants.get_mut(name).map(Arc::make_mut).ok_or(RegistryError::NotFound)
}

/// The kernels of a version, as its worker gets them.
pub fn kernels(version: &Version) -> BTreeMap<String, BundleKernel> {
    let kernels = version.record.kernels.iter();
    kernels.map(|(name, kernel)| (name.clone(), BundleKernel { hardened: None, ..kernel.clone() })).collect()
}
