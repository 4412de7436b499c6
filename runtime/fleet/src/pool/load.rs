//! Loads versions into a worker and unloads them. A worker gets the compiled component of a version, its kernels,
//! assets, environment and secrets, and a socket for outbound HTTP.

use crate::calling::CallingRequest;
use crate::egress::EgressGrant;
use crate::egress::siblings::WorkerFullOfCalls;
use crate::pool::PoolError;
use crate::pool::services::SecretReader;
use crate::pool::worker::{GONE, Worker};
use gannet_base::hop::{Bundle, BundleKernel, RunLimits, ToWorker, VersionKey};
use gannet_process::channel::stream_pair;
use gannet_process::child::COMPONENT_PREFIX;
use gannet_state::registry::{Registry, Version};
use gannet_state::store::files::{install_component, install_driver_cache};
use gannet_state::store::report::StoredReport;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Time limit for loading a version in the worker: reading the compiled component and linking it.
const LOAD_MAX: Duration = Duration::from_secs(10);

impl Worker {
    /// Allows the outbound HTTP of a version. Opens the worker's socket for it with the first version: a function may call
    /// its siblings and the platform even if it lists no hosts.
    async fn open_egress(&self, version: &Version) -> Result<(), PoolError> {
        let Some(outbound) = self.outbound.get() else { return Ok(()) };
        outbound.allow_version(version);
        if self.egress_open.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let failed = |error: std::io::Error| PoolError::Internal(format!("no outbound connection: {error}"));
        let (ours, theirs) = stream_pair().map_err(failed)?;
        let stream = std::os::unix::net::UnixStream::from(ours);
        let stream = tokio::net::UnixStream::from_std(stream).map_err(failed)?;
        self.control.send(&ToWorker::Egress, &[theirs.as_fd()]).await.map_err(|_| PoolError::Killed(GONE.into()))?;
        tokio::spawn(Arc::clone(outbound).serve(stream));
        Ok(())
    }

    /// Registers a request for outbound HTTP, calls of siblings and calls of the platform; `None` if the worker has no
    /// tenant yet.
    pub(crate) fn begin_egress(&self, request: CallingRequest) -> Result<Option<EgressGrant>, WorkerFullOfCalls> {
        self.outbound.get().map(|outbound| outbound.register(request)).transpose()
    }

    /// Whether a request of this depth may be registered now.
    pub(super) fn has_room_at(&self, depth: u8) -> bool {
        self.outbound.get().is_none_or(|outbound| outbound.has_room_at(depth))
    }

    /// Returns the versions that are loaded or being loaded.
    pub(crate) fn loaded(&self) -> Vec<VersionKey> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Whether a version is loaded.
    pub(crate) fn has(&self, version: VersionKey) -> bool {
        let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.get(&version).is_some_and(|load| matches!(&*load.borrow(), Some(Ok(()))))
    }

    fn active(&self) -> std::sync::MutexGuard<'_, HashMap<VersionKey, usize>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request of a version as in flight. Called before [`Worker::load`], so that the version is not unloaded
    /// in between.
    pub(crate) fn begin_request(&self, version: VersionKey) {
        *self.active().entry(version).or_default() += 1;
    }

    /// Counts a request of a version as done. If it was the last one and the version is not served any more, the version
    /// is unloaded.
    pub(crate) fn end_request_of(&self, version: &Version, registry: &Registry) {
        if self.end_request(version.key) && !registry.snapshot().serves(version) {
            self.unload(version.key);
        }
    }

    /// Returns whether no other request of the version is in flight.
    fn end_request(&self, version: VersionKey) -> bool {
        let mut active = self.active();
        let Some(count) = active.get_mut(&version) else { return false };
        *count -= 1;
        if *count == 0 {
            active.remove(&version);
            return true;
        }
        false
    }

    /// Unloads a version, unless a request of it is in flight; then the last such request unloads it.
    pub(crate) fn unload(&self, version: VersionKey) {
        // The lock is held until the message is sent. A later request finds the version missing, and sends its Load
        // after this Unload.
        let active = self.active();
        if active.contains_key(&version) {
            return;
        }
        let loaded = self.loads.lock().unwrap_or_else(PoisonError::into_inner).remove(&version).is_some();
        if let Some(outbound) = self.outbound.get() {
            outbound.forget(version);
        }
        // A worker whose socket is full keeps the version, which only costs memory.
        if loaded && let Err(error) = self.control.try_send(&ToWorker::Unload { version }) {
            tracing::debug!(%error, "a version could not be unloaded from a worker");
        }
    }

    /// Loads a version, once for all requests. Returns whether it was loaded already.
    pub(crate) async fn load(&self, version: &Version, vault: &SecretReader<'_>) -> Result<bool, PoolError> {
        let (mut receiver, first) = {
            let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
            match loads.get(&version.key) {
                Some(sender) => (sender.subscribe(), false),
                None => {
                    let (sender, receiver) = watch::channel(None);
                    loads.insert(version.key, sender);
                    (receiver, true)
                }
            }
        };
        if !first && matches!(&*receiver.borrow(), Some(Ok(()))) {
            return Ok(true);
        }
        if first {
            // The guard also works if this future is dropped in the middle. It wakes the others that wait for the same
            // load.
            let mut unfinished = ForgetUnsentLoad { worker: self, key: Some(version.key) };
            self.send_load(version, vault).await?;
            unfinished.key = None;
        }
        let loaded = tokio::select! {
            loaded = tokio::time::timeout(LOAD_MAX, receiver.wait_for(Option::is_some)) => loaded,
            () = self.dead.cancelled() => return Err(PoolError::Killed(GONE.into())),
        };
        match loaded {
            Ok(Ok(result)) => match &*result {
                Some(Err(error)) => {
                    // The next request tries again.
                    self.loads.lock().unwrap_or_else(PoisonError::into_inner).remove(&version.key);
                    Err(PoolError::Internal(format!("a version could not be loaded: {error}")))
                }
                _ => Ok(false),
            },
            Ok(Err(_)) => Err(PoolError::Killed(GONE.into())),
            Err(_) => Err(PoolError::Internal(format!("a version was not loaded within {} s", LOAD_MAX.as_secs()))),
        }
    }

    async fn send_load(&self, version: &Version, vault: &SecretReader<'_>) -> Result<(), PoolError> {
        self.open_egress(version).await?;
        let failed = |error: std::io::Error| PoolError::Internal(format!("a version could not be opened: {error}"));
        let began = Instant::now();
        let (cache, compiled, process) = (version.driver_cache.clone(), version.compiled.clone(), self.process.clone());
        let name = format!("{COMPONENT_PREFIX}{}", version.key);
        let report = (!version.record.kernels.is_empty()).then(|| version.report.clone());
        let placed = tokio::task::spawn_blocking(move || {
            if let Err(error) = install_component(&compiled, process.home(), &name) {
                tracing::debug!(%error, "a worker gets no link to compiled code, and copies it");
            }
            let kernels = report.map_or_else(|| Some(BTreeMap::new()), |report| kernels(&report));
            (File::open(&compiled), kernels, install_driver_cache(&cache, process.home()))
        });
        let (component, kernels, placed) = placed.await.map_err(|error| PoolError::Internal(error.to_string()))?;
        let component = component.map_err(failed)?;
        let Some(kernels) = kernels else {
            // The next request looks at the build again, and has it made anew.
            version.built.store(false, Ordering::Relaxed);
            return Err(PoolError::Internal("the report of a build is missing or damaged".into()));
        };
        if let Err(error) = placed {
            // Without the cache only the first dispatch is slower.
            tracing::warn!(%error, "a driver cache could not be installed");
        }
        tracing::debug!(cache_us = began.elapsed().as_micros(), "a driver cache was installed");
        let bundle = bundle(version, kernels, vault.open(version)?).map_err(failed)?;
        let name = (version.tenant.clone(), version.function.clone());
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(version.key, name);
        let mut assets = Vec::new();
        for pinned in version.record.assets.values() {
            let file = version.assets.local_file(&pinned.digest).await.map_err(failed)?;
            let gone = || PoolError::Internal(format!("the asset {:?} is not stored", pinned.asset.as_str()));
            assets.push(File::open(file.ok_or_else(gone)?).map_err(failed)?);
        }
        let message = ToWorker::Load { version: version.key };
        let mut descriptors = vec![component.as_fd(), bundle.as_fd()];
        descriptors.extend(assets.iter().map(AsFd::as_fd));
        self.control.send(&message, &descriptors).await.map_err(|_| PoolError::Killed(GONE.into()))
    }
}

/// Removes the entry of a load that was not sent, so that the next request tries again.
struct ForgetUnsentLoad<'a> {
    worker: &'a Worker,
    key: Option<VersionKey>,
}

impl Drop for ForgetUnsentLoad<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.worker.loads.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
    }
}

/// Reads the kernels of a version as its worker gets them: without the hardened sources.
fn kernels(report: &Path) -> Option<BTreeMap<String, BundleKernel>> {
    let mut kernels = StoredReport::read(report)?.kernels();
    kernels.values_mut().for_each(|kernel| kernel.hardened = None);
    Some(kernels)
}

fn bundle(
    version: &Version,
    kernels: BTreeMap<String, BundleKernel>,
    secrets: BTreeMap<String, String>,
) -> std::io::Result<OwnedFd> {
    let limits = &version.limits;
    let bundle = Bundle {
        function: version.function.to_string(),
        kernels,
        assets: version.record.assets.iter().map(|(name, pinned)| pinned.bundled(name)).collect(),
        keep: version.manifest().scale.min > 0,
        env: version.manifest().env.clone(),
        secrets,
        limits: RunLimits {
            memory_bytes: limits.memory_mib << 20,
            cpu_ms: limits.cpu_ms,
            gpu_memory_bytes: limits.gpu_memory_mib << 20,
            gpu_time_ms: limits.gpu_time_ms,
            loop_mi_ops: limits.loop_mi_ops,
            log_bytes: limits.log_kib << 10,
            stream_idle_ms: limits.stream_idle_ms,
            stream_ms: limits.stream_timeout_ms,
            timeout_ms: limits.timeout_ms,
            instance_reuse: version.manifest().scale.instance_reuse,
        },
    };
    let descriptor = rustix::fs::memfd_create("bundle", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(descriptor);
    file.write_all(&serde_json::to_vec(&bundle)?)?;
    std::io::Seek::rewind(&mut file)?;
    Ok(file.into())
}
