//! The parent's side of the builder: one short-lived, confined child for each upload.
//!
//! ```text
//!  built already? ─▶ budget of the day ─▶ permit ─▶ disk space ─▶ child: stages, each with its limits ─▶ files ─▶ budget
//! ```
//!
//! Everything that hostile input can make expensive happens in the child, once. Its CPU time is limited and counts for
//! the tenant's budget, also if the upload is refused. At most [`BUILDS_MAX`] children run at once, one for each tenant;
//! the next permit goes to the tenant that has held permits for the least time recently. The report is untrusted: it
//! supplies only kernel sources, warnings and the size of a snapshot. The output is moved to its final path only after
//! the child has exited successfully. The output is keyed by tenant and digest and never shared between tenants, so that
//! the time a deploy takes says nothing about others' uploads.

mod child;
mod error;
mod stage;
mod uploads;

pub use error::BuildError;
pub use uploads::TenantCountGuard;

use crate::arbiter::Arbiter;
use crate::arbiter::turns::Health;
use crate::gpus::{GpuSlot, SlotId, candidates};
use child::{BuilderInput, Environment};
use gannet_base::hop::BundleKernel;
use gannet_base::hop::build::{BuildReport, BuildSpec, InitSpec};
use gannet_base::names::TenantName;
use gannet_base::quota::account::TenantCounters;
use gannet_base::quota::permits::ServerPermits;
use gannet_base::records::VersionRecord;
use gannet_process::spawn::Spawner;
use gannet_state::config::LiveConfig;
use gannet_state::records::blobs::{BlobKind, BlobStore};
use gannet_state::registry::Version;
use gannet_state::store::report::StoredReport;
use gannet_state::store::{Store, space};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use uploads::{TenantCounts, count};

/// Most builders that run at once.
const BUILDS_MAX: usize = 2;
/// Most builders of one tenant that run at once, so that one is left for others.
const TENANT_BUILDERS_MAX: usize = 1;
/// Most builds that wait for a builder.
const WAITING_MAX: usize = 64;
/// How long a build may wait for a builder.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Size limit of a snapshot: the component with the memory that its `init` left.
const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;
/// Size limit of compiled code: this many times the size of what is compiled (measured: 2 to 4), and this much more.
const COMPILED_FACTOR: u64 = 8;
const COMPILED_BYTES_MORE: u64 = 4 << 20;
/// Size limit of any compiled code: that of one file of a child.
const COMPILED_BYTES_MAX: u64 = 1 << 30;
/// A builder that waits uses no CPU time, but takes a place. It is charged this part of the wall time at least.
const WALL_PART: u32 = 5;
/// Most reports that are read at once. Each may be large.
const READS_MAX: usize = 4;

/// Returns the text that names this binary and a GPU. Another binary may check kernels differently.
fn made_by(gpu: Option<&gannet_gpu_protocol::Gpu>) -> String {
    let gpu = gpu.map_or_else(|| "no gpu".to_owned(), |gpu| format!("{} with {}", gpu.name, gpu.driver));
    format!("gannet {} on {gpu}", env!("CARGO_PKG_VERSION"))
}

/// A component to build, and what its build needs.
#[derive(Debug)]
pub struct BuildRequest {
    /// Name of the build: the component's digest, or a name that also covers the inputs of its snapshot.
    name: String,
    digest: String,
    component: PathBuf,
    classes: Vec<String>,
    init: Option<(InitSpec, Vec<PathBuf>)>,
    /// Most bytes that its compiled code may have.
    compiled_bytes_max: u64,
    /// Whether the component is deployed already. Then it is not refused for what compiling it may cost.
    is_deployed: bool,
}

impl BuildRequest {
    /// Returns the build request for a version whose component is the file `component`.
    pub async fn of(
        store: &Store,
        tenant: &TenantName,
        record: &VersionRecord,
        component: &Path,
    ) -> Result<Self, BuildError> {
        let manifest = &record.manifest;
        let mut init = None;
        if manifest.build.snapshot {
            let spec = InitSpec {
                env: manifest.env.clone(),
                assets: record.assets.iter().map(|(name, pinned)| pinned.bundled(name)).collect(),
                memory_bytes: manifest.limits.memory_mib << 20,
                bytes_max: SNAPSHOT_BYTES_MAX,
            };
            let (assets, mut files) = (store.blobs(BlobKind::Asset, tenant), Vec::new());
            for pinned in record.assets.values() {
                files.push(stored_file(&*assets, &pinned.digest).await?);
            }
            init = Some((spec, files));
        }
        // The memory that `init` leaves is stored as it is.
        let memory =
            if manifest.build.snapshot { (manifest.limits.memory_mib << 20).min(SNAPSHOT_BYTES_MAX) } else { 0 };
        Ok(Self {
            compiled_bytes_max: (record.size * COMPILED_FACTOR + memory + COMPILED_BYTES_MORE).min(COMPILED_BYTES_MAX),
            is_deployed: false,
            name: record.build_name(),
            digest: record.digest.clone(),
            component: component.to_owned(),
            classes: manifest.gpu.class.clone(),
            init,
        })
    }

    /// Says that the component is deployed already.
    pub fn of_deployed(self) -> Self {
        Self { is_deployed: true, ..self }
    }
}

/// A build that has ended well.
#[derive(Debug, Clone)]
pub struct Built {
    /// What the builder reported.
    pub report: BuildReport,
    /// Bytes of all files of the build.
    pub size: u64,
}

/// The CPU time that a tenant's builds may use in a day.
#[derive(Debug, Clone)]
pub struct BuildBudget {
    /// The counters of the tenant.
    pub account: Arc<TenantCounters>,
    /// The limit in milliseconds (`build_cpu_ms_per_day`).
    pub limit_ms: u64,
}

impl BuildBudget {
    fn check(&self) -> Result<(), BuildError> {
        let used_ms = self.account.spent(Timestamp::now()).build_ns / 1_000_000;
        let limit_ms = self.limit_ms;
        if used_ms >= limit_ms { Err(BuildError::BudgetUsedUp { limit_ms, used_ms }) } else { Ok(()) }
    }
}

/// Starts builders and bounds what they use.
#[derive(Debug)]
pub struct BuildService {
    spawner: Spawner,
    store: Arc<Store>,
    arbiter: Arc<Arbiter>,
    gpus: Arc<Vec<GpuSlot>>,
    live: LiveConfig,
    wasi_http_0_3: bool,
    permits: Arc<ServerPermits>,
    /// How many builds of each tenant run or wait.
    builds_by_tenant: TenantCounts,
    /// How many uploads of each tenant are being received or built.
    uploads: TenantCounts,
    /// Held while the disk space of a build is checked and taken.
    claiming: Mutex<()>,
    /// Permits to read a report.
    reads: Arc<Semaphore>,
}

impl BuildService {
    /// Returns a service whose builders try kernels on the GPU that the function prefers.
    pub fn new(
        spawner: Spawner,
        store: Arc<Store>,
        arbiter: Arc<Arbiter>,
        gpus: Arc<Vec<GpuSlot>>,
        live: LiveConfig,
    ) -> Arc<Self> {
        Arc::new(Self {
            spawner,
            store,
            arbiter,
            gpus,
            wasi_http_0_3: live.load().wasi_http_0_3,
            live,
            permits: ServerPermits::with_tenant_max(BUILDS_MAX, TENANT_BUILDERS_MAX, WAITING_MAX),
            builds_by_tenant: TenantCounts::default(),
            uploads: TenantCounts::default(),
            claiming: Mutex::default(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
        })
    }

    /// Builds a component of a tenant, or returns its earlier build. Without a budget the build costs the tenant nothing,
    /// because the server needs the build, not the tenant.
    ///
    /// A build that has started continues until it ends or reaches a limit, even if the caller drops this future. Its
    /// cost is bounded, and the next caller gets the finished build.
    pub async fn build(
        self: &Arc<Self>,
        tenant: &TenantName,
        wanted: BuildRequest,
        budget: Option<BuildBudget>,
    ) -> Result<Built, BuildError> {
        let all = candidates(&self.gpus, &wanted.classes).concat();
        let slot = all.iter().copied().find(|slot| self.arbiter.health(*slot) != Some(Health::Cordoned));
        if slot.is_none() && !all.is_empty() {
            return Err(BuildError::NoGpu);
        }
        let (builder, tenant) = (Arc::clone(self), tenant.clone());
        let building = tokio::spawn(async move { builder.build_here(&tenant, wanted, slot, budget).await });
        building.await.map_err(|error| BuildError::Failed(error.to_string()))?
    }

    async fn build_here(
        &self,
        tenant: &TenantName,
        wanted: BuildRequest,
        slot: Option<SlotId>,
        budget: Option<BuildBudget>,
    ) -> Result<Built, BuildError> {
        let gpu = slot.and_then(|slot| self.gpus.get(slot)?.gpu.as_ref());
        let made_by = made_by(gpu);
        if let Some(known) = self.known(tenant, &wanted, &made_by).await? {
            return Ok(known);
        }
        let check_budget = || budget.as_ref().map_or(Ok(()), BuildBudget::check);
        check_budget()?;
        // Opened before the wait for a permit, because the upload or an asset may be deleted meanwhile.
        let component = File::open(&wanted.component)?;
        let assets = wanted.init.iter().flat_map(|(_, assets)| assets).map(File::open).collect::<io::Result<_>>()?;
        let _of_tenant = count(&self.builds_by_tenant, tenant)?;
        let until = tokio::time::Instant::now() + WAIT_MAX;
        // Held until the build is stored, so that the next one of the same bytes finds it.
        let _permit = self.permits.acquire(tenant, until).await.map_err(|_| BuildError::Busy)?;
        // Another build of the tenant may have ended meanwhile.
        if let Some(known) = self.known(tenant, &wanted, &made_by).await? {
            return Ok(known);
        }
        check_budget()?;
        let files = self.store.files();
        let (output_path, output) = files.incoming()?;
        let _cleanup = RemoveOnDrop(&output_path);
        // Without a budget the server needs the build, so it may use the reserve.
        self.claim(&output, wanted.compiled_bytes_max, budget.is_none())?;
        let input = BuilderInput {
            spec: BuildSpec {
                gpu: gpu.map(|gpu| gpu.index),
                wasi_http_0_3: self.wasi_http_0_3,
                snapshot: wanted.init.as_ref().map(|(init, _)| init.clone()),
                compiled_bytes_max: if wanted.is_deployed { COMPILED_BYTES_MAX } else { wanted.compiled_bytes_max },
                is_deployed: wanted.is_deployed,
            },
            component,
            assets,
            output,
        };
        let cpu_max = Duration::from_secs(self.live.load().build_cpu_s);
        let environment = Environment { spawner: &self.spawner, arbiter: &self.arbiter, files, cpu_max };
        let began = Instant::now();
        let (ended, cpu_time) = child::run(&environment, tenant, slot.filter(|_| gpu.is_some()), input).await;
        let held = began.elapsed();
        self.permits.charge(tenant, held);
        if let Some(budget) = &budget {
            let charged = cpu_time.max(held / WALL_PART);
            budget.account.add_build(Timestamp::now(), u64::try_from(charged.as_nanos()).unwrap_or(u64::MAX));
        }
        let (report, process) = ended?;
        let (compiled, kept) = (files.compiled(tenant, &wanted.name), files.build_report(tenant, &wanted.name));
        let cache = files.driver_cache(tenant, &wanted.digest);
        let (store, output, bytes) = (Arc::clone(&self.store), output_path.clone(), report.clone());
        // Syncing blocks on the disk, and the async runtime has few threads.
        let stored = tokio::task::spawn_blocking(move || {
            let files = store.files();
            let (incoming, mut file) = files.incoming()?;
            let _cleanup = RemoveOnDrop(&incoming);
            io::Write::write_all(&mut file, &StoredReport::to_bytes(made_by, &bytes))?;
            space::release_claim(&OpenOptions::new().write(true).open(&output)?)?;
            files.move_durably(&incoming, &kept)?;
            // A report without code would stay until the next start.
            files.move_durably(&output, &compiled).inspect_err(|_| drop(std::fs::remove_file(&kept)))?;
            if !bytes.kernels.is_empty()
                && let Err(error) = files.store_driver_cache(process.home(), &cache)
            {
                // Without the cache only the first dispatch is slower.
                tracing::warn!(%error, "a driver cache could not be stored");
            }
            Ok::<_, io::Error>(files.size_of(&[&compiled, &kept, &cache]))
        });
        let size = stored.await.map_err(|error| BuildError::Failed(error.to_string()))??;
        Ok(Built { report, size })
    }

    /// Returns the finished build of the same bytes for this tenant, if there is one.
    async fn known(
        &self,
        tenant: &TenantName,
        wanted: &BuildRequest,
        made_by: &str,
    ) -> Result<Option<Built>, BuildError> {
        let permit = Arc::clone(&self.reads).acquire_owned().await;
        let (store, tenant, made_by) = (Arc::clone(&self.store), tenant.clone(), made_by.to_owned());
        let (name, digest) = (wanted.name.clone(), wanted.digest.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let files = store.files();
            let (compiled, kept) = (files.compiled(&tenant, &name), files.build_report(&tenant, &name));
            let report = StoredReport::read(&kept).filter(|_| compiled.exists())?.report_of(&made_by)?;
            let size = files.size_of(&[&compiled, &kept, &files.driver_cache(&tenant, &digest)]);
            Some(Built { report, size })
        });
        reading.await.map_err(|error| BuildError::Failed(error.to_string()))
    }

    /// Takes the disk space that a build's output may need.
    fn claim(&self, output: &File, bytes: u64, is_needed: bool) -> Result<(), BuildError> {
        let _claiming = self.claiming.lock().unwrap_or_else(PoisonError::into_inner);
        let reserve = self.live.load().disk_reserve_mib << 20;
        let left = space::free(self.store.files().data())?.checked_sub(bytes);
        let has_room = |left: &u64| {
            if is_needed { space::has_room_for_requests(*left, reserve) } else { *left >= reserve }
        };
        if !left.is_some_and(|left| has_room(&left)) {
            return Err(BuildError::DiskFull);
        }
        space::claim(output, bytes).map_err(BuildError::from)
    }

    /// Counts an upload of a tenant until the guard is dropped. A component that is being received takes disk space,
    /// and no other limit counts it yet.
    pub fn receiving(&self, tenant: &TenantName) -> Result<TenantCountGuard, BuildError> {
        count(&self.uploads, tenant)
    }

    /// Makes sure that a deployed version is compiled for this binary's engine, and that its kernels can be read.
    pub async fn ensure(self: &Arc<Self>, version: &Version) -> Result<(), BuildError> {
        if version.built.load(Ordering::Relaxed) {
            return Ok(());
        }
        let _building = version.building.lock().await;
        if version.built.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !version.compiled.exists() {
            self.rebuild(version).await?;
        }
        // Builds the version anew if its report is missing or damaged.
        self.kernels(version).await?;
        version.built.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn rebuild(self: &Arc<Self>, version: &Version) -> Result<Built, BuildError> {
        let (tenant, record) = (&version.tenant, &version.record);
        let component = stored_file(&*self.store.blobs(BlobKind::Component, tenant), &record.digest).await?;
        let wanted = BuildRequest::of(&self.store, tenant, record, &component).await?.of_deployed();
        self.build(tenant, wanted, None).await
    }

    /// Returns the kernels of a deployed version, with their sources. Builds the version anew if they are missing or
    /// damaged.
    pub async fn kernels(self: &Arc<Self>, version: &Version) -> Result<BTreeMap<String, BundleKernel>, BuildError> {
        if version.record.kernels.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (permit, path) = (Arc::clone(&self.reads).acquire_owned().await, version.report.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let read = StoredReport::read(&path);
            drop(permit);
            read
        });
        match reading.await.map_err(|error| BuildError::Failed(error.to_string()))? {
            Some(report) => Ok(report.kernels()),
            None => Ok(self.rebuild(version).await?.report.kernels),
        }
    }
}

struct RemoveOnDrop<'a>(&'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        // After a successful build the file has been moved away.
        let _ = std::fs::remove_file(self.0);
    }
}

/// Returns a file with bytes that a tenant has uploaded.
async fn stored_file(blobs: &dyn BlobStore, digest: &str) -> io::Result<PathBuf> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, format!("the upload {digest} is not stored"));
    blobs.local_file(digest).await?.ok_or_else(gone)
}
