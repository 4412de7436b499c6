//! Sets up the GPUs: lists them, starts the arbiter that shares them, and quarantines kernels that kept a GPU too long.

use super::options::{ServeError, failed};
use gannet_fleet::arbiter::turns::Timing;
use gannet_fleet::arbiter::{self, Arbiter, Overstayed, SharedGpu};
use gannet_fleet::gpus::GpuSlot;
use gannet_fleet::pool::Pool;
use gannet_fleet::probe;
use gannet_gpu_protocol::Gpu;
use gannet_process::spawn::Spawner;
use gannet_state::config::ServerConfig;
use gannet_state::registry::Registry;
use gannet_state::store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a holder may keep a GPU while others wait.
const QUANTUM: Duration = Duration::from_millis(10);
/// How long a holder may take to give a GPU back: two slices, or a workgroup that runs to the end of its budget.
const GRACE: Duration = Duration::from_millis(100);
/// The grace on a software driver, whose work competes with everything else for the processor.
const SOFTWARE_GRACE: Duration = Duration::from_secs(10);
/// The least grace on a software driver, whatever `lease_grace_ms` says: two of its slices must fit.
const SOFTWARE_GRACE_MIN: Duration = Duration::from_secs(1);
/// How long a GPU is not used after a failed probe.
const CORDON: Duration = Duration::from_secs(1);

/// Starts the arbiter of the GPUs. The receiver gets the processes that kept a GPU too long.
pub(super) fn share(
    slots: &[GpuSlot],
    file: &ServerConfig,
    spawner: &Spawner,
    store: &Store,
) -> Result<(Arc<Arbiter>, mpsc::Receiver<Overstayed>), ServeError> {
    let shared = slots.iter().filter_map(|gpu_slot| {
        let (usual, least) = if gpu_slot.gpu.as_ref()?.software {
            (SOFTWARE_GRACE, SOFTWARE_GRACE_MIN)
        } else {
            (GRACE, Duration::ZERO)
        };
        let grace = file.lease_grace_ms.map_or(usual, Duration::from_millis).max(least);
        Some(SharedGpu { gpu: gpu_slot.slot, timing: Timing { quantum: QUANTUM, grace, cordon: CORDON } })
    });
    let indexes: Vec<Option<u32>> = slots.iter().map(|gpu_slot| Some(gpu_slot.gpu.as_ref()?.index)).collect();
    let (spawner, run_folder) = (spawner.clone(), store.files().run());
    let probe: arbiter::Probe = Box::new(move |slot| {
        let (spawner, run_folder) = (spawner.clone(), run_folder.clone());
        let gpu = indexes.get(slot).copied().flatten();
        Box::pin(async move {
            let Some(gpu) = gpu else { return false };
            let tried = probe::try_gpu(&spawner, &run_folder, gpu).await;
            tried.inspect_err(|error| tracing::error!(gpu, %error, "a gpu failed its probe")).is_ok()
        })
    });
    Arbiter::start(&shared.collect::<Vec<_>>(), probe).map_err(failed)
}

/// Quarantines the kernels of processes that kept a GPU too long.
pub(super) async fn quarantine(registry: Arc<Registry>, pool: Pool, mut overstayed: mpsc::Receiver<Overstayed>) {
    while let Some(Overstayed { tenant, kernels }) = overstayed.recv().await {
        if let Err(error) = registry.quarantine(&tenant, &kernels).await {
            tracing::error!(%tenant, %error, "a quarantine could not be stored");
        }
        pool.push_quarantine(&tenant).await;
    }
}

/// Lists the GPUs, in a child process that loads their drivers. Returns none if that fails.
pub(super) async fn find_gpus(spawner: &Spawner, store: &Store) -> Vec<Gpu> {
    match probe::list(spawner, &store.files().run()).await {
        Ok(gpus) => {
            for gpu in &gpus {
                tracing::info!(name = gpu.name, class = gpu.class, driver = gpu.driver, "gpu found");
            }
            if gpus.is_empty() {
                tracing::warn!("no gpu was found; functions without kernels still run");
            }
            gpus
        }
        Err(error) => {
            tracing::error!(%error, "no gpu can be used");
            Vec::new()
        }
    }
}
