//! Carries out what the front door sends over the control socket: load and unload versions, serve connections.
//!
//! It returns when the front door has exited or has sent something invalid. The process must then exit.

use crate::worker::connection;
use crate::worker::context::WorkerContext;
use crate::worker::running_requests::PROGRESS_EVERY;
use crate::worker::version::{self, LoadedVersion};
use gannet_base::hop::{FromWorker, ToWorker, VersionKey};
use gannet_host_gpu::Device;
use gannet_process::child::COMPONENT_PREFIX;
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};

/// Requests in one message about their progress, so that it fits a frame.
const REQUESTS_AT_ONCE: usize = 200;

/// Serves the control socket until it is closed.
pub(super) async fn serve(worker: &Arc<WorkerContext>) {
    while let Ok((message, descriptors)) = worker.control.receive::<ToWorker>().await {
        match message {
            ToWorker::Load { version } => {
                let worker = Arc::clone(worker);
                tokio::task::spawn_blocking(move || {
                    let error = load(&worker, version, descriptors).err();
                    tokio::runtime::Handle::current().block_on(async move {
                        // If the channel is closed, `serve` returns and the process ends.
                        let _ = worker.control.send(&FromWorker::Loaded { version, error }, &[]).await;
                    });
                });
            }
            ToWorker::Unload { version } => unload(worker, version),
            ToWorker::Egress => {
                let Some(socket) = descriptors.into_iter().next() else { return };
                worker.outbound.open(socket).await;
            }
            ToWorker::Quarantine { sources } => {
                if let Ok(device) = &worker.device {
                    device.quarantine(sources);
                }
            }
            ToWorker::Stop { request } => worker.running.stop(request),
            ToWorker::Connect => {
                let Some(socket) = descriptors.into_iter().next() else { return };
                tokio::spawn(connection::serve(Arc::clone(worker), socket));
            }
        }
    }
}

/// Tells the front door the progress of running requests, until it has gone.
pub(super) async fn tell_progress(worker: Arc<WorkerContext>) {
    loop {
        worker.running.any().await;
        tokio::time::sleep(PROGRESS_EVERY).await;
        for part in worker.running.progress().chunks(REQUESTS_AT_ONCE) {
            let message = FromWorker::Progress { requests: part.to_vec() };
            if worker.control.send(&message, &[]).await.is_err() {
                return;
            }
        }
    }
}

fn load(worker: &WorkerContext, key: VersionKey, descriptors: Vec<OwnedFd>) -> Result<(), String> {
    let mut descriptors = descriptors.into_iter();
    let (Some(component), Some(bundle)) = (descriptors.next(), descriptors.next()) else {
        return Err("a load needs two descriptors".into());
    };
    if let Ok(device) = &worker.device {
        worker.driver_cache.load_new(device);
    }
    let linked = worker.driver_cache.folder().join(format!("{COMPONENT_PREFIX}{key}"));
    let version =
        version::load(&worker.engine, &worker.linker, key, (&linked, component.as_fd()), bundle, descriptors)?;
    let version = Arc::new(version);
    worker.versions().insert(key, Arc::clone(&version));
    if let Some(device) = worker.device.as_ref().ok().filter(|_| version.keeps_assets) {
        tokio::spawn(pin_assets(Arc::clone(device), version));
    }
    Ok(())
}

fn unload(worker: &WorkerContext, key: VersionKey) {
    let version = worker.versions().remove(&key);
    worker.idle_instances.evict_version(key);
    if version.is_some_and(|version| !version.inputs.assets.is_empty()) {
        forget_unused_assets(worker);
    }
}

/// Uploads a version's assets to the GPU and keeps them there while the version is loaded.
async fn pin_assets(device: Arc<Device>, version: Arc<LoadedVersion>) {
    for asset in version.inputs.assets.values() {
        match device.pin_asset(asset).await {
            Ok(pin) => version.pinned_assets.lock().unwrap_or_else(PoisonError::into_inner).push(pin),
            // A request uploads it later, or fails with the reason.
            Err(error) => tracing::warn!(%error, "an asset could not be kept on the gpu"),
        }
    }
}

/// Frees the GPU memory of assets that no loaded version has.
fn forget_unused_assets(worker: &WorkerContext) {
    let Ok(device) = &worker.device else { return };
    let versions = worker.versions();
    let used: HashSet<&str> =
        versions.values().flat_map(|version| version.inputs.assets.values()).map(|asset| asset.digest()).collect();
    device.forget_assets(|digest| used.contains(digest));
}
