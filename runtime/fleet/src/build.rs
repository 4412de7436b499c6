//! The parent's side of the builder: one short-lived, confined child for each upload.
//!
//! Everything that hostile input can make expensive happens in the child, once. The parent bounds it:
//! at most [`BUILDS_MAX`] at a time, the next one that of the tenant which has fewest; wall time, memory. It believes nothing
//! in the report but the texts, and moves the output to its place only when the child has ended well.
//! The output is keyed by tenant and digest and never shared between tenants, so that the time a
//! deploy takes says nothing about others' uploads.

use crate::arbiter::{Arbiter, MemberLink};
use crate::gpus::{GpuSlot, SlotId, candidates};
use gannet_base::hop::build::{BuildReport, BuildSpec, BuildStage, InitSpec, RejectCode, Rejected};
use gannet_base::names::TenantName;
use gannet_base::quota::permits::ServerPermits;
use gannet_base::records::VersionRecord;
use gannet_process::channel::{Channel, frame_pair};
use gannet_process::child::{EXIT_DEVICE_LOST, Role};
use gannet_process::spawn::{ChildSpec, Spawner};
use gannet_state::registry::Version;
use gannet_state::store::Store;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Builders at a time.
const BUILDS_MAX: usize = 2;
/// Uploads that may wait for a builder.
const WAITING_MAX: usize = 64;
/// How long one may wait.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// A build's wall time. The largest components we know (CPython) take some twenty seconds here.
const BUILD_MAX: Duration = Duration::from_secs(180);
/// Time for one kernel: reading, compiling, one dispatch.
const KERNEL_MAX: Duration = Duration::from_secs(20);
/// Time for `init` to run, and for its memory to be read.
const INIT_MAX: Duration = Duration::from_secs(30);
/// From the report to the end of the process.
const EXIT_MAX: Duration = Duration::from_secs(5);
/// Builds of one tenant that run or wait.
const TENANT_BUILDS_MAX: usize = 16;
/// Builds that are remembered.
const BUILT_MAX: usize = 256;
/// The largest component with the memory that its `init` left.
const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;
/// The longest report: kernels of 256 KiB, many of them.
const REPORT_BYTES_MAX: u64 = 64 << 20;

/// What is to be built.
#[derive(Debug)]
pub struct BuildRequest {
    /// The name of what is built.
    name: String,
    digest: String,
    component: PathBuf,
    classes: Vec<String>,
    init: Option<(InitSpec, Vec<PathBuf>)>,
}

impl BuildRequest {
    /// What a version needs, whose component lies there.
    pub fn of(store: &Store, tenant: &TenantName, record: &VersionRecord, component: &Path) -> Self {
        let manifest = &record.manifest;
        let init = manifest.build.snapshot.then(|| {
            let assets = record.assets.iter();
            let order = InitSpec {
                env: manifest.env.clone(),
                assets: assets.clone().map(|(name, pinned)| pinned.bundled(name)).collect(),
                memory_bytes: manifest.limits.memory_mib << 20,
                bytes_max: SNAPSHOT_BYTES_MAX,
            };
            (order, assets.map(|(_, pinned)| store.files().asset(tenant, &pinned.digest)).collect())
        });
        Self {
            name: record.build_name(),
            digest: record.digest.clone(),
            component: component.to_owned(),
            classes: manifest.gpu.class.clone(),
            init,
        }
    }
}

/// Why there is no build.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The upload is not good.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// Too many wait. How many is no tenant's business.
    #[error("too many uploads wait for a builder already")]
    Busy,
    /// Too many of the tenant's own.
    #[error("{TENANT_BUILDS_MAX} uploads of this tenant are under way; that is the limit")]
    TenantBusy,
    /// Our own fault.
    #[error("the builder failed: {0}")]
    Failed(String),
}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

type BuildKey = (TenantName, String, Option<SlotId>);

/// See the module.
#[derive(Debug)]
pub struct BuildService {
    spawner: Spawner,
    store: Arc<Store>,
    arbiter: Arc<Arbiter>,
    gpus: Arc<Vec<GpuSlot>>,
    wasi_http_0_3: bool,
    permits: Arc<ServerPermits>,
    /// How many builds of each tenant run or wait.
    builds_by_tenant: TenantCounts,
    /// How many uploads of each tenant are being received or built.
    uploads: TenantCounts,
    /// What was built in this run, so that the same bytes are not built twice for one tenant.
    done: Mutex<HashMap<BuildKey, BuildReport>>,
}

impl BuildService {
    /// A builder that tries kernels on the GPU that a function would run on first.
    pub fn new(
        spawner: Spawner,
        store: Arc<Store>,
        arbiter: Arc<Arbiter>,
        gpus: Arc<Vec<GpuSlot>>,
        wasi_http_0_3: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            spawner,
            store,
            arbiter,
            gpus,
            wasi_http_0_3,
            permits: ServerPermits::new(BUILDS_MAX, WAITING_MAX),
            builds_by_tenant: TenantCounts::default(),
            uploads: TenantCounts::default(),
            done: Mutex::default(),
        })
    }

    /// Builds a component of a tenant, or finds that it was built before.
    ///
    /// A build that has begun runs to its end or its limit, even if whoever asked leaves: the child is bounded
    /// by this side, and the next one to ask finds it built.
    pub async fn build(self: &Arc<Self>, tenant: &TenantName, wanted: BuildRequest) -> Result<BuildReport, BuildError> {
        let slot = candidates(&self.gpus, &wanted.classes).concat().first().copied();
        let (builder, tenant) = (Arc::clone(self), tenant.clone());
        let building = tokio::spawn(async move { builder.build_here(&tenant, wanted, slot).await });
        building.await.map_err(|error| BuildError::Failed(error.to_string()))?
    }

    async fn build_here(
        &self,
        tenant: &TenantName,
        wanted: BuildRequest,
        slot: Option<SlotId>,
    ) -> Result<BuildReport, BuildError> {
        let key = (tenant.clone(), wanted.name.clone(), slot);
        let compiled = self.store.files().compiled(tenant, &wanted.name);
        let known = self.done.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(built) = known.filter(|_| compiled.exists()) {
            return Ok(built);
        }
        // The upload, and an asset, may go while this waits; the builder needs them until it has a permit.
        let component = File::open(&wanted.component)?;
        let assets = wanted.init.iter().flat_map(|(_, assets)| assets).map(File::open).collect::<io::Result<_>>()?;
        let _of_tenant = count(&self.builds_by_tenant, tenant)?;
        let until = tokio::time::Instant::now() + WAIT_MAX;
        let _permit = self.permits.acquire(tenant, until).await.map_err(|_| BuildError::Busy)?;
        if let Some(built) =
            self.done.lock().unwrap_or_else(PoisonError::into_inner).get(&key).filter(|_| compiled.exists())
        {
            return Ok(built.clone());
        }
        let gpu_slot = slot.and_then(|slot| self.gpus.get(slot));
        let built = self.run(tenant, &wanted, component, assets, gpu_slot).await?;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.len() >= BUILT_MAX {
            done.clear();
        }
        done.insert(key, built.clone());
        Ok(built)
    }

    /// Lets a tenant send a component, as long as the guard is there: what is on its way lies on the disk, and counts for
    /// no other limit yet.
    pub fn receiving(&self, tenant: &TenantName) -> Result<TenantCountGuard, BuildError> {
        count(&self.uploads, tenant)
    }

    /// Makes sure that a deployed version is compiled for this binary's engine.
    pub async fn ensure(self: &Arc<Self>, version: &Version) -> Result<(), BuildError> {
        if version.built.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !version.compiled.exists() {
            let component = self.store.files().component(&version.tenant, &version.record.digest);
            let wanted = BuildRequest::of(&self.store, &version.tenant, &version.record, &component);
            self.build(&version.tenant, wanted).await?;
        }
        version.built.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn run(
        &self,
        tenant: &TenantName,
        wanted: &BuildRequest,
        component: File,
        assets: Vec<File>,
        gpu_slot: Option<&GpuSlot>,
    ) -> Result<BuildReport, BuildError> {
        let gpu = gpu_slot.and_then(|gpu_slot| Some((gpu_slot.slot, gpu_slot.gpu.as_ref()?.index)));
        let files = self.store.files();
        let (output_path, output) = files.incoming()?;
        let _cleanup = RemoveOnDrop(&output_path);
        let order = BuildSpec {
            gpu: gpu.map(|(_, index)| index),
            wasi_http_0_3: self.wasi_http_0_3,
            snapshot: wanted.init.as_ref().map(|(order, _)| order.clone()),
        };
        let order = memfd(&serde_json::to_vec(&order).unwrap_or_default())?;
        let report = memfd(&[])?;
        let mut report_file = File::from(rustix::io::fcntl_dupfd_cloexec(&report, 0).map_err(io::Error::from)?);
        let (control, theirs) = frame_pair()?;
        let home = files.child_home("builder")?;
        let (socket, leases) = frame_pair()?;
        let notes = memfd(&[])?;
        let link = MemberLink { socket, notes: notes.try_clone()?.into() };
        let mut descriptors = vec![theirs, order, component.into(), output.into(), report, leases, notes];
        descriptors.extend(assets.into_iter().map(OwnedFd::from));
        let control = Channel::new(control)?;
        let process =
            self.spawner.spawn(ChildSpec { role: Role::Builder, arguments: Vec::new(), home, descriptors }).await?;
        // Its trials take their turn on the GPU like everything else of the tenant.
        let membership = gpu.map(|(slot, _)| self.arbiter.join(slot, tenant, 1, link, process.clone()));
        let mut stage = BuildStage::Component;
        let finished = tokio::time::timeout(BUILD_MAX, follow(&control, &mut stage)).await;
        let in_time = matches!(finished, Ok(true));
        if !in_time {
            process.kill();
        }
        // One that says it is done and stays would keep its permit.
        let exited = tokio::time::timeout(EXIT_MAX, process.ended()).await;
        let ending = match exited {
            Ok(ending) => ending,
            Err(_) => {
                process.kill();
                process.ended().await
            }
        };
        if let Some(membership) = &membership {
            membership.left(ending.code == Some(EXIT_DEVICE_LOST));
        }
        if stage != BuildStage::Done || ending.code != Some(0) {
            let how = match &membership {
                Some(membership) if membership.overstayed() => "kept the gpu when it was asked back".to_owned(),
                _ if finished.is_err() => "took too long".to_owned(),
                _ => format!("ended with {ending}"),
            };
            return Err(blame(&stage, &how));
        }
        let mut text = String::new();
        report_file.rewind()?;
        (&mut report_file).take(REPORT_BYTES_MAX).read_to_string(&mut text)?;
        let report: Result<BuildReport, Rejected> =
            serde_json::from_str(&text).map_err(|error| BuildError::Failed(format!("its report: {error}")))?;
        let built = report?;
        let (compiled, cache) = (files.compiled(tenant, &wanted.name), files.driver_cache(tenant, &wanted.digest));
        // Syncing waits for the disk, and the threads here are few.
        let (store, output, has_kernels) = (Arc::clone(&self.store), output_path.clone(), !built.kernels.is_empty());
        let kept = tokio::task::spawn_blocking(move || {
            store.files().keep(&output, &compiled)?;
            if has_kernels && let Err(error) = store.files().store_driver_cache(process.home(), &cache) {
                // Only the first dispatch is slower.
                tracing::warn!(%error, "a driver cache could not be kept");
            }
            Ok::<_, io::Error>(())
        });
        kept.await.map_err(|error| BuildError::Failed(error.to_string()))??;
        Ok(built)
    }
}

type TenantCounts = Arc<Mutex<HashMap<TenantName, usize>>>;

/// One of a tenant's builds or uploads, until it is dropped.
#[derive(Debug)]
pub struct TenantCountGuard {
    counts: TenantCounts,
    tenant: TenantName,
}

fn count(of: &TenantCounts, tenant: &TenantName) -> Result<TenantCountGuard, BuildError> {
    let mut counts = of.lock().unwrap_or_else(PoisonError::into_inner);
    let count = counts.entry(tenant.clone()).or_default();
    if *count >= TENANT_BUILDS_MAX {
        return Err(BuildError::TenantBusy);
    }
    *count += 1;
    Ok(TenantCountGuard { counts: Arc::clone(of), tenant: tenant.clone() })
}

impl Drop for TenantCountGuard {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

struct RemoveOnDrop<'a>(&'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        // Gone already when the build went well.
        let _ = std::fs::remove_file(self.0);
    }
}

/// Follows the child's stages; true when it says that it is done. A kernel and `init` have times of their own.
async fn follow(control: &Channel, stage: &mut BuildStage) -> bool {
    loop {
        let limit = match stage {
            BuildStage::Kernel { .. } => KERNEL_MAX,
            BuildStage::Init => INIT_MAX,
            BuildStage::Component | BuildStage::Done => BUILD_MAX,
        };
        match tokio::time::timeout(limit, control.receive::<BuildStage>()).await {
            Ok(Ok((next, _))) => *stage = next,
            _ => return false,
        }
        if *stage == BuildStage::Done {
            return true;
        }
    }
}

fn blame(stage: &BuildStage, how: &str) -> BuildError {
    match stage {
        BuildStage::Kernel { name } => Rejected {
            code: RejectCode::KernelRejected,
            detail: format!("kernel {name:?}: the trial {how}; one kernel has {} s", KERNEL_MAX.as_secs()),
        }
        .into(),
        BuildStage::Component => Rejected {
            code: RejectCode::ComponentInvalid,
            detail: format!("compiling {how}; a build has {} s", BUILD_MAX.as_secs()),
        }
        .into(),
        BuildStage::Init => Rejected {
            code: RejectCode::InitFailed,
            detail: format!("init: it {how}; it has {} s, and the memory of a builder", INIT_MAX.as_secs()),
        }
        .into(),
        BuildStage::Done => BuildError::Failed(format!("it {how}")),
    }
}

fn memfd(bytes: &[u8]) -> io::Result<OwnedFd> {
    let descriptor = rustix::fs::memfd_create("gannet", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(descriptor);
    io::Write::write_all(&mut file, bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Copies an upload to its place. It stays as it came, for engines to come.
pub fn store_component(store: &Store, tenant: &TenantName, digest: &str, from: &Path) -> io::Result<()> {
    let to = store.files().component(tenant, digest);
    if to.exists() {
        // Whoever put it there may not have synced the folder yet.
        gannet_state::store::files::sync_folder(to.parent().unwrap_or(Path::new("/")))?;
        return std::fs::remove_file(from);
    }
    OpenOptions::new().read(true).open(from)?;
    store.files().keep(from, &to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_whose_trial_crashes_or_takes_too_long_is_rejected_with_the_reason() {
        let stage = BuildStage::Kernel { name: "fft".into() };
        for how in ["ended with signal 11", "took too long", "kept the gpu when it was asked back"] {
            let BuildError::Rejected(rejected) = blame(&stage, how) else { unreachable!("a kernel is to blame") };
            assert_eq!(rejected.code, RejectCode::KernelRejected);
            assert_eq!(rejected.detail, format!("kernel \"fft\": the trial {how}; one kernel has 20 s"));
        }
        assert!(matches!(blame(&BuildStage::Done, "took too long"), BuildError::Failed(_)), "ours");
    }
}
