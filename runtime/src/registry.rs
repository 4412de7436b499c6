//! What is deployed: an immutable snapshot that the way in reads without a lock, replaced whole when
//! something changes.
//!
//! Changes go through [`Registry`] one at a time: checked against the newest snapshot, committed to
//! the store, and only then published, so that nothing is served or acknowledged that a crash could
//! take back. A change runs to its end once it has begun, even if whoever asked for it leaves: the store
//! and the snapshot must not come apart.

use crate::admit::{Gate, TENANT_MAX};
use crate::auth::Scopes;
use crate::hop::{BundleKernel, VersionKey};
use crate::manifest::Manifest;
use crate::names::{FunctionName, TenantName};
use crate::store::records::{FunctionRecord, KeyRecord, QuarantineRecord, TenantRecord, VersionRecord};
use crate::store::{Change, Contents, Store, StoreError};
use arc_swap::ArcSwap;
use gannet_host_gpu::kernel::source_hash;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// Quarantined kernels of one tenant.
const QUARANTINE_MAX: usize = 256;

/// A tenant and its functions.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// When it was made.
    pub created: jiff::Timestamp,
    /// Its share of the requests in flight; it outlives snapshots.
    pub share: Arc<Semaphore>,
    /// Its functions, by name.
    pub functions: BTreeMap<FunctionName, Arc<Function>>,
    /// Its kernels that kept the GPU.
    pub quarantine: Arc<Vec<QuarantineRecord>>,
}

impl Tenant {
    fn new(record: TenantRecord) -> Self {
        Self {
            created: record.created,
            share: Arc::new(Semaphore::new(TENANT_MAX)),
            functions: BTreeMap::new(),
            quarantine: Arc::new(record.quarantine),
        }
    }

    fn record(&self) -> TenantRecord {
        TenantRecord { created: self.created, quarantine: self.quarantine.to_vec() }
    }

    /// Whether a kernel is quarantined.
    pub fn is_quarantined(&self, kernel: &BundleKernel) -> bool {
        let source = source_hash(&kernel.wgsl, &kernel.entry);
        self.quarantine.iter().any(|record| record.source == source)
    }

    /// What stays in quarantine when a version of a function is deployed: what its other functions declare.
    fn quarantine_after(&self, deployed: &FunctionName) -> Vec<QuarantineRecord> {
        if self.quarantine.is_empty() {
            return Vec::new();
        }
        let others = self.functions.values().filter(|function| function.name != *deployed);
        let kept: HashSet<[u8; 32]> = others
            .flat_map(|function| &function.versions)
            .flat_map(|version| version.record.kernels.values())
            .map(|kernel| source_hash(&kernel.wgsl, &kernel.entry))
            .collect();
        self.quarantine.iter().filter(|record| kept.contains(&record.source)).cloned().collect()
    }
}

/// A function and its versions, oldest first.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its name.
    pub name: FunctionName,
    /// The one that gets requests.
    pub current: Arc<Version>,
    /// All of them.
    pub versions: Vec<Arc<Version>>,
    /// Its admission, which outlives snapshots.
    pub gate: Arc<Gate>,
}

/// A deployed version.
#[derive(Debug)]
pub struct Version {
    /// Its number in this run of the front door.
    pub key: VersionKey,
    /// Its tenant.
    pub tenant: TenantName,
    /// Its function.
    pub function: FunctionName,
    /// What was stored of it.
    pub record: VersionRecord,
    /// The compiled component.
    pub compiled: PathBuf,
    /// What its driver compiled, to be put into a worker's cache.
    pub driver_cache: PathBuf,
    /// Whether the compiled component is known to be there. A newer binary compiles for another
    /// engine, under another name, the first time a version is wanted.
    pub built: AtomicBool,
}

impl Version {
    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.record.manifest
    }
}

/// A key as it is looked up.
#[derive(Debug, Clone)]
pub struct Key {
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// Whose it is.
    pub tenant: TenantName,
    /// What it may do.
    pub scopes: Scopes,
}

/// Everything the way in needs to know.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The hash of the operator's key.
    pub operator: [u8; 32],
    /// All keys, by hash.
    pub keys: HashMap<[u8; 32], Key>,
    /// All tenants.
    pub tenants: BTreeMap<TenantName, Arc<Tenant>>,
}

impl Snapshot {
    /// A function of a tenant.
    pub fn function(&self, tenant: &str, function: &str) -> Option<&Arc<Function>> {
        self.tenants.get(tenant)?.functions.get(function)
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no such thing.
    #[error("not found")]
    NotFound,
    /// There is one already.
    #[error("{0} exists already")]
    Exists(String),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// See the module.
#[derive(Debug)]
pub struct Registry {
    snapshot: ArcSwap<Snapshot>,
    store: Arc<Store>,
    changing: tokio::sync::Mutex<()>,
    next_key: AtomicU64,
}

impl Registry {
    /// Builds the snapshot from what the store holds.
    pub fn new(store: Arc<Store>, contents: Contents, operator: [u8; 32]) -> Self {
        let next_key = AtomicU64::new(1);
        let mut snapshot = Snapshot { operator, keys: HashMap::new(), tenants: BTreeMap::new() };
        for (name, record) in contents.tenants {
            snapshot.tenants.insert(name, Arc::new(Tenant::new(record)));
        }
        for (hash, record) in contents.keys {
            snapshot.keys.insert(hash, Key { hash, tenant: record.tenant, scopes: record.scopes });
        }
        let registry =
            Self { snapshot: ArcSwap::from_pointee(snapshot), store, changing: tokio::sync::Mutex::new(()), next_key };
        let mut snapshot = Snapshot::clone(&registry.snapshot());
        for ((tenant, name), (record, versions)) in contents.functions {
            let versions: Vec<_> =
                versions.into_iter().map(|version| registry.version(&tenant, &name, version)).collect();
            if let (Some(function), Some(slot)) =
                (function(name.clone(), &record, versions), snapshot.tenants.get_mut(&tenant))
            {
                Arc::make_mut(slot).functions.insert(name, Arc::new(function));
            }
        }
        registry.snapshot.store(Arc::new(snapshot));
        registry
    }

    /// What is deployed now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The store below.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn version(&self, tenant: &TenantName, name: &FunctionName, record: VersionRecord) -> Arc<Version> {
        Arc::new(Version {
            key: self.next_key.fetch_add(1, Ordering::Relaxed),
            tenant: tenant.clone(),
            function: name.clone(),
            compiled: self.store.files().compiled(tenant, &record.digest),
            driver_cache: self.store.files().driver_cache(tenant, &record.digest),
            built: AtomicBool::new(false),
            record,
        })
    }

    /// Makes a tenant with one key of full scope. `hash` is the key's.
    pub async fn create_tenant(&self, name: &TenantName, hash: [u8; 32], id: String) -> Result<(), RegistryError> {
        let _changing = self.changing.lock().await;
        let mut next = Snapshot::clone(&self.snapshot());
        if next.tenants.contains_key(name) {
            return Err(RegistryError::Exists(format!("tenant {name}")));
        }
        let created = jiff::Timestamp::now();
        let key = KeyRecord { id, tenant: name.clone(), scopes: Scopes::FULL, created };
        let record = TenantRecord { created, quarantine: Vec::new() };
        let change = Change::new().tenant(name, &record)?.key(&hash, &key)?;
        self.store.commit(change).await?;
        next.tenants.insert(name.clone(), Arc::new(Tenant::new(record)));
        next.keys.insert(hash, Key { hash, tenant: name.clone(), scopes: Scopes::FULL });
        self.snapshot.store(Arc::new(next));
        Ok(())
    }

    /// Adds a version and gives it the traffic, or finds the current one to be the same. Answers the
    /// version and whether it is new.
    pub async fn deploy(
        &self,
        tenant: &TenantName,
        name: &FunctionName,
        mut record: VersionRecord,
    ) -> Result<(Arc<Version>, bool), RegistryError> {
        let _changing = self.changing.lock().await;
        let mut next = Snapshot::clone(&self.snapshot());
        let slot = Arc::make_mut(next.tenants.get_mut(tenant).ok_or(RegistryError::NotFound)?);
        let quarantine = slot.quarantine_after(name);
        let mut change = Change::new();
        let lifted = quarantine != *slot.quarantine;
        if lifted {
            slot.quarantine = Arc::new(quarantine);
            change = change.tenant(tenant, &slot.record())?;
        }
        let functions = &mut slot.functions;
        let old = functions.get(name);
        let newest = old.and_then(|function| function.versions.last());
        if let Some(function) = old
            && function.current.record.is_same(&record)
        {
            let current = Arc::clone(&function.current);
            if lifted {
                self.store.commit(change).await?;
                self.snapshot.store(Arc::new(next));
            }
            return Ok((current, false));
        }
        record.number = newest.map_or(1, |version| version.record.number.saturating_add(1));
        let version = self.version(tenant, name, record);
        let change = change.version(tenant, name, &version.record)?.function(
            tenant,
            name,
            &FunctionRecord { current: version.record.number },
        )?;
        self.store.commit(change).await?;
        let mut versions = old.map(|function| function.versions.clone()).unwrap_or_default();
        versions.push(Arc::clone(&version));
        // A new gate: the limits may differ. What runs keeps its permits on the old one.
        let gate = Gate::new(&version.record.manifest.limits);
        let function = Function { name: name.clone(), current: Arc::clone(&version), versions, gate };
        functions.insert(name.clone(), Arc::new(function));
        self.snapshot.store(Arc::new(next));
        Ok((version, true))
    }

    /// Keeps kernels of a tenant from running, by the hashes of their sources, until they are deployed again. In force at
    /// once; an error is only about its being kept.
    pub async fn quarantine(&self, tenant: &TenantName, sources: &[[u8; 32]]) -> Result<(), RegistryError> {
        let _changing = self.changing.lock().await;
        let mut next = Snapshot::clone(&self.snapshot());
        let slot = Arc::make_mut(next.tenants.get_mut(tenant).ok_or(RegistryError::NotFound)?);
        let mut records = slot.quarantine.to_vec();
        for source in sources {
            if !records.iter().any(|record| record.source == *source) {
                records.push(QuarantineRecord { source: *source, since: jiff::Timestamp::now() });
            }
        }
        // A tenant could fill it with kernels made at run time; the oldest go.
        records.drain(..records.len().saturating_sub(QUARANTINE_MAX));
        slot.quarantine = Arc::new(records);
        let change = Change::new().tenant(tenant, &slot.record())?;
        self.snapshot.store(Arc::new(next));
        Ok(self.store.commit(change).await?)
    }

    /// Removes a function and all its versions.
    pub async fn delete(&self, tenant: &TenantName, name: &FunctionName) -> Result<(), RegistryError> {
        let _changing = self.changing.lock().await;
        let mut next = Snapshot::clone(&self.snapshot());
        let slot = next.tenants.get_mut(tenant).ok_or(RegistryError::NotFound)?;
        let removed = Arc::make_mut(slot).functions.remove(name).ok_or(RegistryError::NotFound)?;
        let mut change = Change::new().without_function(tenant, name);
        for version in &removed.versions {
            change = change.without_version(tenant, name, version.record.number);
        }
        self.store.commit(change).await?;
        self.snapshot.store(Arc::new(next));
        Ok(())
    }
}

fn function(name: FunctionName, record: &FunctionRecord, versions: Vec<Arc<Version>>) -> Option<Function> {
    let current = versions.iter().find(|version| version.record.number == record.current)?;
    let gate = Gate::new(&current.record.manifest.limits);
    Some(Function { name, current: Arc::clone(current), gate, versions })
}

/// The kernels of a version, as its worker gets them.
pub fn kernels(version: &Version) -> BTreeMap<String, BundleKernel> {
    let kernels = version.record.kernels.iter();
    kernels.map(|(name, kernel)| (name.clone(), BundleKernel { hardened: None, ..kernel.clone() })).collect()
}
