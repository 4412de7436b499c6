//! Assembles the parts of the server: the GPUs and their arbiter, builds, the pool, the control API, and the steps of a
//! request.

use super::gpus::{quarantine, share};
use super::options::{ServeError, failed};
use super::recovered::RecoveredState;
use crate::admit::Admit;
use crate::auth::Auth;
use crate::control::{Control, functions};
use crate::front::{Steps, WaitingAnswers};
use crate::openai::BodyBudget;
use crate::waiting_bytes::WaitingBytes;
use arc_swap::ArcSwap;
use gannet_base::quota::address::AnonymousCallers;
use gannet_base::quota::permits::ServerPermits;
use gannet_fleet::build::BuildService;
use gannet_fleet::egress::Egress;
use gannet_fleet::gpus::GpuSlot;
use gannet_fleet::logs::Logs;
use gannet_fleet::pool::worker::WorkerSettings;
use gannet_fleet::pool::{Pool, PoolServices};
use gannet_process::spawn::Spawner;
use gannet_state::config::{LiveConfig, ServerConfig};
use std::sync::Arc;

/// The least number of requests that may wait for a permit of the server.
const WAITING_MIN: usize = 1024;

/// Starts the background services and returns the steps that requests take.
pub(super) fn assemble(
    recovered: RecoveredState,
    file: &ServerConfig,
    spawner: Spawner,
    slots: Arc<Vec<GpuSlot>>,
    url: &str,
    dev: bool,
) -> Result<Steps, ServeError> {
    let RecoveredState { store, registry, ledger, vault } = recovered;
    let vault = Arc::new(vault);
    let logs = Arc::new(Logs::default());
    let live: LiveConfig = Arc::new(ArcSwap::from_pointee(file.clone()));
    let (arbiter, overstayed) = share(&slots, file, &spawner, &store)?;
    let builder = BuildService::new(
        spawner.clone(),
        Arc::clone(&store),
        Arc::clone(&arbiter),
        Arc::clone(&slots),
        Arc::clone(&live),
    );
    let settings = WorkerSettings {
        gpu_memory_bytes: file.tenant_gpu_memory_mib << 20,
        rss_bytes_max: file.worker_memory_mib << 20,
        wasi_http_0_3: file.wasi_http_0_3,
        map_assets: file.map_assets,
    };
    let services = PoolServices {
        vault: Arc::clone(&vault),
        egress: Egress::new(Arc::clone(&live), Arc::clone(&registry)).map_err(failed)?,
        logs: Arc::clone(&logs),
        ledger: Arc::clone(&ledger),
        live: Arc::clone(&live),
    };
    let pool = Pool::start(
        spawner,
        Arc::clone(&registry),
        Arc::clone(&builder),
        Arc::clone(&arbiter),
        settings,
        Arc::clone(&slots),
        services,
    );
    tokio::spawn(quarantine(Arc::clone(&registry), pool.clone(), overstayed));
    registry.sweep_all();
    functions::warm(&registry.snapshot(), &pool, None);
    let waiting = WaitingBytes::new();
    let control = Arc::new(Control {
        registry: Arc::clone(&registry),
        builder,
        pool: pool.clone(),
        ledger: Arc::clone(&ledger),
        logs,
        slots,
        arbiter,
        vault,
        waiting: Arc::clone(&waiting),
        live: Arc::clone(&live),
        refused: Default::default(),
        uploading: Default::default(),
        own_url: url.to_owned(),
        has_own_listener: file.admin_listen.is_some(),
        dev,
    });
    let finishing = Arc::clone(&control);
    tokio::spawn(async move { finishing.finish_uploads().await });
    let anonymous = Arc::new(AnonymousCallers::default());
    let server = ServerPermits::new(file.requests_max, file.requests_max.max(WAITING_MIN));
    let admit = Admit::new(server, ledger, Arc::clone(&live), Arc::clone(&anonymous));
    let auth = Auth::new(registry, anonymous, Arc::clone(&live));
    Ok(Steps {
        auth,
        admit,
        pool,
        control,
        answers: WaitingAnswers::start(waiting),
        bodies: BodyBudget::default(),
        live,
        loopback_only: dev,
    })
}
