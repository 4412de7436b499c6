//! Assembles the parts of the server: the GPUs and their arbiter, builds, the pool, the control API, and the steps of a
//! request.

use super::gpus::{quarantine, share};
use super::options::{ServeError, failed};
use super::recovered::RecoveredState;
use crate::admit::Admit;
use crate::audit::AuditTrail;
use crate::auth::Auth;
use crate::control::{Control, functions};
use crate::front::{Steps, WaitingAnswers};
use crate::jobs::{DoorRunner, WebhookSender};
use crate::platform::GuestPlatform;
use crate::sibling::DoorSiblings;
use crate::waiting_bytes::WaitingBytes;
use crate::whole_body::BodyBudget;
use arc_swap::ArcSwap;
use gannet_base::quota::address::AnonymousCallers;
use gannet_base::quota::permits::ServerPermits;
use gannet_fleet::build::BuildService;
use gannet_fleet::egress::Egress;
use gannet_fleet::gpus::GpuSlot;
use gannet_fleet::logs::Logs;
use gannet_fleet::pool::worker::WorkerSettings;
use gannet_fleet::pool::{Pool, PoolServices, QueuedJobs};
use gannet_jobs::delivery::sender::Webhooks;
use gannet_jobs::service::Jobs;
use gannet_process::spawn::Spawner;
use gannet_state::config::{LiveConfig, ServerConfig};
use gannet_state::keyvalue::KeyValues;
use gannet_state::records::RecordStore;
use gannet_state::records::local::LocalStore;
use gannet_state::records::local::blobs::LocalBlobs;
use std::sync::Arc;

/// The least number of requests that may wait for a permit of the server.
const WAITING_MIN: usize = 1024;

/// Starts the background services and returns the steps that requests take.
pub(super) async fn assemble(
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
    let egress = Egress::new(Arc::clone(&live), Arc::clone(&registry)).map_err(failed)?;
    let services = PoolServices {
        vault: Arc::clone(&vault),
        egress: Arc::clone(&egress),
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
    let anonymous = Arc::new(AnonymousCallers::default());
    let server = ServerPermits::new(file.requests_max, file.requests_max.max(WAITING_MIN));
    let admit = Admit::new(server, Arc::clone(&ledger), Arc::clone(&live), Arc::clone(&anonymous));
    let admit = Arc::new(admit);
    egress.set_siblings(Arc::new(DoorSiblings::new(Arc::clone(&admit), pool.clone(), Arc::clone(&registry))));
    let runner = DoorRunner::new(
        Arc::clone(&admit),
        pool.clone(),
        Arc::clone(&registry),
        Arc::clone(&ledger),
        Arc::clone(&logs),
        Arc::clone(&live),
    );
    let folder = store.files().data().join("jobs");
    let records: Arc<dyn RecordStore> = Arc::new(LocalStore::open(&folder.join("records")).map_err(failed)?);
    let blobs = LocalBlobs::open(&folder.join("blobs")).map_err(failed)?;
    let webhooks = Webhooks {
        sender: Arc::new(WebhookSender::new(Arc::clone(&egress), Arc::clone(&registry))),
        vault: Arc::clone(&vault),
        first_retry_ms: i64::try_from(file.webhooks.first_retry_ms).unwrap_or(i64::MAX),
    };
    let snapshot = registry.snapshot();
    let exists = move |tenant: &_| snapshot.tenants.contains_key(tenant);
    let of_key_values = LocalStore::open(&store.files().data().join("keyvalue")).map_err(failed)?;
    let key_values = KeyValues::start(Arc::new(of_key_values), exists).await.map_err(failed)?;
    let jobs = Jobs::start(records, Arc::new(blobs), runner, webhooks).await.map_err(failed)?;
    egress.set_platform(Arc::new(GuestPlatform {
        registry: Arc::clone(&registry),
        live: Arc::clone(&live),
        key_values: Arc::clone(&key_values),
        jobs: jobs.clone(),
    }));
    let counted = jobs.clone();
    pool.count_jobs_with(move |tenant, function| {
        let (count, oldest) = counted.ready(&(tenant.clone(), function.clone()));
        QueuedJobs { count, oldest }
    });
    let waiting = WaitingBytes::new();
    let trail = Arc::new(AuditTrail::new(Arc::clone(&store)));
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
        jobs: jobs.clone(),
        key_values,
        live: Arc::clone(&live),
        trail: Arc::clone(&trail),
        uploading: Default::default(),
        own_url: url.to_owned(),
        has_own_listener: file.admin_listen.is_some(),
        dev,
    });
    let finishing = Arc::clone(&control);
    tokio::spawn(async move { finishing.finish_uploads().await });
    let auth = Auth::new(registry, anonymous, Arc::clone(&live));
    Ok(Steps {
        auth,
        admit,
        pool,
        jobs,
        control,
        trail,
        answers: WaitingAnswers::start(waiting),
        bodies: BodyBudget::default(),
        live,
        loopback_only: dev,
    })
}
