//! The parent's side of the builder: one short-lived, confined child for each upload.
//!
//! Everything that hostile input can make expensive happens in the child, once. The parent limits its wall time and
//! memory, and runs at most [`BUILDS_MAX`] children at once; the next permit goes to the tenant that holds the fewest.
//! The report is untrusted: it supplies only kernel sources, warnings and the size of a snapshot. The output is moved
//! to its final path only after the child has exited successfully. The output is keyed by tenant and digest and never
//! shared between tenants, so that the time a deploy takes says nothing about others' uploads.

use crate::arbiter::turns::Health;
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

/// Most builders that run at once.
const BUILDS_MAX: usize = 2;
/// Most builds that wait for a builder.
const WAITING_MAX: usize = 64;
/// How long a build may wait for a builder.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Wall-time limit of a build. The largest components we know (CPython) take some twenty seconds here.
const BUILD_MAX: Duration = Duration::from_secs(180);
/// Time limit for one kernel: reading, compiling, one dispatch.
const KERNEL_MAX: Duration = Duration::from_secs(20);
/// Time limit for running `init` and reading the memory that it left.
const INIT_MAX: Duration = Duration::from_secs(30);
/// How long a builder may take to exit after it reported that it is done, or was killed.
const EXIT_MAX: Duration = Duration::from_secs(5);
/// Most builds of one tenant that run or wait, and most of its uploads that are being received.
const TENANT_BUILDS_OR_UPLOADS_MAX: usize = 16;
/// How many finished builds are remembered.
const BUILT_MAX: usize = 256;
/// Size limit of a snapshot: the component with the memory that its `init` left.
const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;
/// Size limit of a report, which may contain many kernels of 256 KiB each.
const REPORT_BYTES_MAX: u64 = 32 << 20;

/// A component to build, and what its build needs.
#[derive(Debug)]
pub struct BuildRequest {
    /// Name of the build: the component's digest, or a name that also covers the inputs of its snapshot.
    name: String,
    digest: String,
    component: PathBuf,
    classes: Vec<String>,
    init: Option<(InitSpec, Vec<PathBuf>)>,
}

impl BuildRequest {
    /// Returns the build request for a version whose component is the file `component`.
    pub fn of(store: &Store, tenant: &TenantName, record: &VersionRecord, component: &Path) -> Self {
        let manifest = &record.manifest;
        let init = manifest.build.snapshot.then(|| {
            let assets = record.assets.iter();
            let spec = InitSpec {
                env: manifest.env.clone(),
                assets: assets.clone().map(|(name, pinned)| pinned.bundled(name)).collect(),
                memory_bytes: manifest.limits.memory_mib << 20,
                bytes_max: SNAPSHOT_BYTES_MAX,
            };
            (spec, assets.map(|(_, pinned)| store.files().asset(tenant, &pinned.digest)).collect())
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

/// Why a build failed or was refused.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The upload is invalid.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// Too many builds wait. The message hides how many, because they belong to other tenants too.
    #[error("too many uploads are waiting for a builder")]
    Busy,
    /// The tenant itself has too many builds or uploads.
    #[error("{TENANT_BUILDS_OR_UPLOADS_MAX} uploads of this tenant are under way; that is the limit")]
    TenantBusy,
    /// All GPUs that the function may run on have failed their probe.
    #[error("no gpu that this function can run on works now")]
    NoGpu,
    /// The server or the builder failed, and the upload is not to blame.
    #[error("the builder failed: {0}")]
    Failed(String),
}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

type BuildKey = (TenantName, String, Option<SlotId>);

/// Starts builders and bounds what they use.
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
    /// Builds finished since the server started, so that the same bytes are not built twice for one tenant.
    done: Mutex<HashMap<BuildKey, BuildReport>>,
}

impl BuildService {
    /// Returns a service whose builders try kernels on the GPU that the function prefers.
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

    /// Builds a component of a tenant, or returns the report of its earlier build.
    ///
    /// A build that has started continues until it ends or reaches a limit, even if the caller drops this future. Its
    /// cost is bounded, and the next caller gets the finished build.
    pub async fn build(self: &Arc<Self>, tenant: &TenantName, wanted: BuildRequest) -> Result<BuildReport, BuildError> {
        let all = candidates(&self.gpus, &wanted.classes).concat();
        let slot = all.iter().copied().find(|slot| self.arbiter.health(*slot) != Some(Health::Cordoned));
        if slot.is_none() && !all.is_empty() {
            return Err(BuildError::NoGpu);
        }
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
        // Opened before the wait for a permit, because the upload or an asset may be deleted meanwhile.
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

    /// Counts an upload of a tenant until the guard is dropped. A component that is being received takes disk space,
    /// and no other limit counts it yet.
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
        let spec = BuildSpec {
            gpu: gpu.map(|(_, index)| index),
            wasi_http_0_3: self.wasi_http_0_3,
            snapshot: wanted.init.as_ref().map(|(init, _)| init.clone()),
        };
        let spec_file = memfd(&serde_json::to_vec(&spec).unwrap_or_default())?;
        let report = memfd(&[])?;
        let mut report_file = File::from(rustix::io::fcntl_dupfd_cloexec(&report, 0).map_err(io::Error::from)?);
        let (control, theirs) = frame_pair()?;
        let home = files.child_home("builder")?;
        let (socket, leases) = frame_pair()?;
        let notes = memfd(&[])?;
        let link = MemberLink { socket, notes: notes.try_clone()?.into() };
        let mut descriptors = vec![theirs, spec_file, component.into(), output.into(), report, leases, notes];
        descriptors.extend(assets.into_iter().map(OwnedFd::from));
        let control = Channel::new(control)?;
        let process =
            self.spawner.spawn(ChildSpec { role: Role::Builder, arguments: Vec::new(), home, descriptors }).await?;
        // Its kernel trials need a lease like all other GPU work of the tenant.
        let membership = gpu.map(|(slot, _)| self.arbiter.join(slot, tenant, 1, link, process.clone()));
        let mut stage = BuildStage::Component;
        let finished = tokio::time::timeout(BUILD_MAX, follow(&control, &mut stage)).await;
        let in_time = matches!(finished, Ok(true));
        if !in_time {
            process.kill();
        }
        // A builder that reports that it is done but does not exit would keep its permit.
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
            let lost_turn = gpu.is_some_and(|(slot, _)| self.arbiter.health(slot) == Some(Health::Cordoned));
            let how = match &membership {
                Some(membership) if membership.overstayed() => "kept the gpu when it was asked back".to_owned(),
                // Its kernel waited for a GPU that others have broken.
                _ if matches!(finished, Ok(false)) && ending.code.is_none() && lost_turn => {
                    return Err(BuildError::NoGpu);
                }
                _ if finished.is_err() => "took too long".to_owned(),
                _ => format!("ended with {ending}"),
            };
            return Err(blame(&stage, &how));
        }
        let mut text = String::new();
        report_file.rewind()?;
        (&mut report_file).take(REPORT_BYTES_MAX).read_to_string(&mut text)?;
        let report: Result<BuildReport, Rejected> =
            serde_json::from_str(&text).map_err(|error| BuildError::Failed(format!("invalid report: {error}")))?;
        let built = report?;
        let (compiled, cache) = (files.compiled(tenant, &wanted.name), files.driver_cache(tenant, &wanted.digest));
        // Syncing blocks on the disk, and the async runtime has few threads.
        let (store, output, has_kernels) = (Arc::clone(&self.store), output_path.clone(), !built.kernels.is_empty());
        let kept = tokio::task::spawn_blocking(move || {
            store.files().move_durably(&output, &compiled)?;
            if has_kernels && let Err(error) = store.files().store_driver_cache(process.home(), &cache) {
                // Without the cache only the first dispatch is slower.
                tracing::warn!(%error, "a driver cache could not be stored");
            }
            Ok::<_, io::Error>(())
        });
        kept.await.map_err(|error| BuildError::Failed(error.to_string()))??;
        Ok(built)
    }
}

type TenantCounts = Arc<Mutex<HashMap<TenantName, usize>>>;

/// Counts one build or upload of a tenant until it is dropped.
#[derive(Debug)]
pub struct TenantCountGuard {
    counts: TenantCounts,
    tenant: TenantName,
}

fn count(of: &TenantCounts, tenant: &TenantName) -> Result<TenantCountGuard, BuildError> {
    let mut counts = of.lock().unwrap_or_else(PoisonError::into_inner);
    let count = counts.entry(tenant.clone()).or_default();
    if *count >= TENANT_BUILDS_OR_UPLOADS_MAX {
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
        // After a successful build the file has been moved away.
        let _ = std::fs::remove_file(self.0);
    }
}

/// Reads the child's stages into `stage`. Returns true when the child reports that it is done, and false if it stops
/// reporting or exceeds the limit of a stage.
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
            detail: format!("kernel {name:?}: the trial {how}; limit per kernel is {} s", KERNEL_MAX.as_secs()),
        }
        .into(),
        BuildStage::Component => Rejected {
            code: RejectCode::ComponentInvalid,
            detail: format!("compiling {how}; limit per build is {} s", BUILD_MAX.as_secs()),
        }
        .into(),
        BuildStage::Init => Rejected {
            code: RejectCode::InitFailed,
            detail: format!("init: it {how}; limits are {} s and the memory of a builder", INIT_MAX.as_secs()),
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

/// Moves an upload to its final path. The component is kept as it was uploaded, so that later engines can compile it.
pub fn store_component(store: &Store, tenant: &TenantName, digest: &str, from: &Path) -> io::Result<()> {
    let to = store.files().component(tenant, digest);
    if to.exists() {
        // A concurrent deploy may have stored it and not synced the folder yet.
        gannet_state::store::files::sync_folder(to.parent().unwrap_or(Path::new("/")))?;
        return std::fs::remove_file(from);
    }
    OpenOptions::new().read(true).open(from)?;
    store.files().move_durably(from, &to)
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
            assert_eq!(rejected.detail, format!("kernel \"fft\": the trial {how}; limit per kernel is 20 s"));
        }
        assert!(matches!(blame(&BuildStage::Done, "took too long"), BuildError::Failed(_)), "ours");
    }
}
