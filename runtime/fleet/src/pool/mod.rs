//! Step 5 of a request: claims the tenant's worker (hot, warm or cold), sends the request over the hop and returns the
//! response.
//!
//! The decisions are in [`table`], which is pure. The rest carries them out: it starts processes, refills spares, kills
//! idle workers and loads versions. A tenant has at most one worker in each slot, which is killed after the function's
//! idle timeout. How many a function is spread over is decided by [`scaling`], and only [`scaler`] sets that number.

// Pure decisions.
mod allowed_headers;
mod table;
mod scaling;
mod backoff;
mod retry;

// One worker.
pub mod worker;
mod load;
mod services;

// The path of a request, in order.
mod claim;
mod connection;
mod starts;
mod claim_worker;
mod exchange;
mod request;
mod head;
mod slow_clients;
mod relay;
mod expected;
mod report;
mod error;

// Work that no request waits for.
mod spares;
mod scaler;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
mod places;
mod kills;
mod resident;

pub use backoff::KillHistory;
pub use error::PoolError;
pub use exchange::CallFailure;
pub use expected::AwaitedReport;
pub use scaler::{FunctionWorkers, QueuedJobs};
pub use services::PoolServices;
pub use slow_clients::{Overdue, SlowClients, WatchGuard};
pub use starts::StartFailures;
pub use table::WorkerCounts;

use crate::arbiter::Arbiter;
use crate::arbiter::turns::Health;
use crate::build::BuildService;
use crate::gpus;
use crate::gpus::{GpuSlot, SlotId};
use backoff::Backoff;
use claim::SharedWorkerTable;
use gannet_base::names::TenantName;
use gannet_process::hop_socket::Exchanges;
use gannet_process::spawn::Spawner;
use gannet_state::registry::{Registry, Version};
use relay::SharedResponse;
use scaler::Scaler;
use starts::Starts;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use table::{SlotLimits, WorkerTable};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use worker::{Worker, WorkerSettings};

/// All workers and spares of the server. Clones share one pool.
#[derive(Debug, Clone)]
pub struct Pool {
    table: SharedWorkerTable,
    table_changed: Arc<Notify>,
    spawner: Spawner,
    builder: Arc<BuildService>,
    arbiter: Arc<Arbiter>,
    registry: Arc<Registry>,
    backoff: Arc<Mutex<Backoff>>,
    starts: Arc<Mutex<Starts>>,
    scaler: Arc<Scaler>,
    settings: Arc<WorkerSettings>,
    slots: Arc<Vec<GpuSlot>>,
    services: Arc<PoolServices>,
    slow_clients: Arc<SlowClients<SharedResponse>>,
    exchanges: Arc<Exchanges>,
    draining: CancellationToken,
}

impl Pool {
    /// Returns a pool that starts its spares at once.
    pub fn start(
        spawner: Spawner,
        registry: Arc<Registry>,
        builder: Arc<BuildService>,
        arbiter: Arc<Arbiter>,
        settings: WorkerSettings,
        slots: Arc<Vec<GpuSlot>>,
        services: PoolServices,
    ) -> Self {
        let limits = slots.iter().map(|slot| SlotLimits { spares: slot.spares, workers_max: slot.workers_max });
        let pool = Self {
            table: Arc::new(Mutex::new(WorkerTable::new(limits))),
            table_changed: Arc::default(),
            spawner,
            registry,
            backoff: Arc::default(),
            starts: Arc::default(),
            scaler: Arc::default(),
            builder,
            arbiter,
            settings: Arc::new(settings),
            slots,
            services: Arc::new(services),
            slow_clients: SlowClients::start(),
            exchanges: Arc::default(),
            draining: CancellationToken::new(),
        };
        pool.refill();
        tokio::spawn(pool.clone().charge_resident());
        tokio::spawn(pool.clone().scale());
        pool
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, WorkerTable<Arc<Worker>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of tenants' workers and of spares, by slot.
    pub fn counts(&self) -> Vec<WorkerCounts> {
        self.lock().counts()
    }

    /// Returns the slots where a version may run, in its order of preference, without GPUs that failed their probe.
    fn candidates(&self, version: &Version) -> Vec<Vec<SlotId>> {
        let mut groups = gpus::candidates(&self.slots, &version.manifest().gpu.class);
        for group in &mut groups {
            group.retain(|slot| self.works(*slot));
        }
        groups
    }

    fn works(&self, slot: SlotId) -> bool {
        self.arbiter.health(slot) != Some(Health::Cordoned)
    }

    /// Claims one of the workers that the version's tenant has already, if it has one.
    fn claim_own(&self, version: &Version) -> Option<Arc<Worker>> {
        let ranked = gpus::ranked(&self.slots, &version.manifest().gpu.class).filter(|(_, slot)| self.works(*slot));
        self.lock().claim_own(&version.tenant, ranked, version.permits.demand().wanted(), Instant::now())
    }

    /// Claims one of them that suits, among as many as the function may ever be spread over.
    fn claim_own_if(&self, version: &Version, suits: impl Fn(&Arc<Worker>) -> bool) -> Option<Arc<Worker>> {
        let scale = &version.manifest().scale;
        let ranked = gpus::ranked(&self.slots, &version.manifest().gpu.class).filter(|(_, slot)| self.works(*slot));
        let most = usize::try_from(scale.max).unwrap_or(usize::MAX);
        let suits = |worker: &Arc<Worker>| !worker.dead().is_cancelled() && suits(worker);
        self.lock().claim_own_if(&version.tenant, ranked, most, Instant::now(), suits)
    }

    /// Makes a tenant's workers unload the versions that no longer get requests.
    pub fn unload_unserved(&self, tenant: &TenantName) {
        let workers = self.lock().workers(tenant);
        workers.iter().for_each(|worker| self.unload_unserved_from(tenant, worker));
    }

    fn unload_unserved_from(&self, tenant: &TenantName, worker: &Worker) {
        let snapshot = self.registry.snapshot();
        let served = snapshot.tenants.get(tenant).map(|tenant| tenant.functions.values());
        let is_served = |key| served.clone().is_some_and(|mut all| all.any(|function| function.serves_key(key)));
        for version in worker.loaded().into_iter().filter(|key| !is_served(*key)) {
            worker.unload(version);
        }
    }

    /// Kills a tenant's workers; their in-flight requests fail with `why`.
    pub fn end_all(&self, tenant: &TenantName, why: &str) {
        let workers = self.lock().workers(tenant);
        for worker in workers {
            self.end(&worker, why);
        }
    }

    /// Lets a tenant's workers be killed when idle, even if a version with `scale.min` had asked to keep them.
    fn clear_always_on(&self, tenant: &TenantName) {
        self.lock().clear_always_on(tenant);
    }

    fn quarantined(&self, tenant: &TenantName) -> HashSet<[u8; 32]> {
        let snapshot = self.registry.snapshot();
        let records = snapshot.tenants.get(tenant).map(|tenant| Arc::clone(&tenant.quarantine)).unwrap_or_default();
        records.iter().map(|record| record.source).collect()
    }

    /// Sends a tenant's workers the list of its quarantined kernels. Kills a worker that does not read it.
    pub async fn push_quarantine(&self, tenant: &TenantName) {
        let workers = self.lock().workers(tenant);
        for worker in workers {
            // One that cannot be told is killed.
            let _ = worker.quarantine(self.quarantined(tenant)).await;
        }
    }

    /// Tells a worker what has changed for its tenant while it was being started and was not in the table, where changes
    /// find the workers. It is in the table now, so nothing is missed.
    async fn catch_up(&self, tenant: &TenantName, worker: &Worker) {
        let _ = worker.quarantine(self.quarantined(tenant)).await;
        self.unload_unserved_from(tenant, worker);
    }

    /// Kills a worker, and takes it from its tenant in the table at once, because reaping it may take long.
    fn end(&self, worker: &Arc<Worker>, why: &str) {
        worker.kill_because(why);
        self.lock().unassign(worker);
        self.refill();
    }

    /// Kills all workers. The caller has waited for requests in flight, until they ended or ran out of time.
    pub fn drain(&self) {
        self.draining.cancel();
        self.scaler.stop();
        self.table_changed.notify_waiters();
        for worker in self.lock().drain() {
            worker.kill();
        }
    }
}
