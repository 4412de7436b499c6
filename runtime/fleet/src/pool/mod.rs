//! Step 5: a claim on the tenant's worker (hot, warm or cold), then the hop to it and the answer back.
//!
//! The decisions are in [`table`], which is pure; here they are carried out: processes started, spares
//! refilled, idle workers ended, versions loaded. One worker per tenant; scale to zero after the
//! function's idle timeout.

// Decisions, pure.
mod table;
mod backoff;
mod retry;

// One worker.
pub mod worker;
mod load;
mod services;

// The way of a request, in its order.
mod claim;
mod seating;
mod exchange;
mod request;
mod head;
mod relay;
mod expected;
mod report;
mod error;

// What happens without a request.
mod spares;
mod kills;
mod resident;

pub use backoff::KillHistory;
pub use error::PoolError;
pub use exchange::CallFailure;
pub use services::PoolServices;
pub use table::WorkerCounts;

use crate::arbiter::Arbiter;
use crate::arbiter::turns::Health;
use crate::build::BuildService;
use crate::gpus;
use crate::gpus::{GpuSlot, SlotId};
use backoff::Backoff;
use claim::SharedWorkerTable;
use gannet_base::names::TenantName;
use gannet_process::spawn::Spawner;
use gannet_state::registry::{Registry, Version};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use table::{SlotLimits, WorkerTable};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use worker::{Worker, WorkerSettings};

/// How often idle workers are looked for.
const RETIRE_EVERY: Duration = Duration::from_secs(1);

/// The step. Clones share one pool.
#[derive(Debug, Clone)]
pub struct Pool {
    table: SharedWorkerTable,
    changed: Arc<Notify>,
    spawner: Spawner,
    builder: Arc<BuildService>,
    arbiter: Arc<Arbiter>,
    registry: Arc<Registry>,
    backoff: Arc<Mutex<Backoff>>,
    settings: Arc<WorkerSettings>,
    slots: Arc<Vec<GpuSlot>>,
    services: Arc<PoolServices>,
    draining: CancellationToken,
}

impl Pool {
    /// A pool that starts its spares at once.
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
            changed: Arc::default(),
            spawner,
            registry,
            backoff: Arc::default(),
            builder,
            arbiter,
            settings: Arc::new(settings),
            slots,
            services: Arc::new(services),
            draining: CancellationToken::new(),
        };
        pool.refill();
        tokio::spawn(pool.clone().charge_resident());
        let retiring = pool.clone();
        tokio::spawn(async move {
            while !retiring.draining.is_cancelled() {
                tokio::time::sleep(RETIRE_EVERY).await;
                let retired = retiring.lock().retire(Instant::now());
                for worker in &retired {
                    worker.kill();
                }
                if !retired.is_empty() {
                    retiring.refill();
                }
            }
        });
        pool
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, WorkerTable<Arc<Worker>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tenants' workers and spares in each slot.
    pub fn counts(&self) -> Vec<WorkerCounts> {
        self.lock().counts()
    }

    /// The slots where a version may run, its preferences first; a GPU that failed its probe is left out.
    fn candidates(&self, version: &Version) -> Vec<Vec<SlotId>> {
        let mut groups = gpus::candidates(&self.slots, &version.manifest().gpu.class);
        for group in &mut groups {
            group.retain(|slot| self.arbiter.health(*slot) != Some(Health::Cordoned));
        }
        groups
    }

    /// Lets workers of a tenant forget the versions that get no requests any more.
    pub fn unload_unserved(&self, tenant: &TenantName) {
        let (workers, snapshot) = (self.lock().workers(tenant), self.registry.snapshot());
        for worker in workers {
            for version in worker.loaded() {
                let served = snapshot
                    .tenants
                    .get(tenant)
                    .is_some_and(|tenant| tenant.functions.values().any(|function| function.serves_key(version)));
                if !served {
                    worker.unload(version);
                }
            }
        }
    }

    /// Ends a tenant's workers, and with them what runs on them.
    pub fn end_all(&self, tenant: &TenantName, why: &str) {
        let workers = self.lock().workers(tenant);
        for worker in workers {
            self.end(&worker, why);
        }
    }

    /// Lets a tenant's worker go when idle, whatever an older version asked for.
    pub fn clear_always_on(&self, tenant: &TenantName) {
        self.lock().clear_always_on(tenant);
    }

    fn quarantined(&self, tenant: &TenantName) -> HashSet<[u8; 32]> {
        let snapshot = self.registry.snapshot();
        let records = snapshot.tenants.get(tenant).map(|tenant| Arc::clone(&tenant.quarantine)).unwrap_or_default();
        records.iter().map(|record| record.source).collect()
    }

    /// Tells a tenant's workers which kernels they may not run.
    pub async fn push_quarantine(&self, tenant: &TenantName) {
        let workers = self.lock().workers(tenant);
        for worker in workers {
            if let Err(error) = worker.quarantine(self.quarantined(tenant)).await {
                tracing::debug!(%error, "a worker does not hear of its quarantine");
                worker.kill_because("it did not read what the server told it");
            }
        }
    }

    /// Ends a worker that hangs. Its seat is free at once: reaping one may take long.
    fn end(&self, worker: &Arc<Worker>, why: &str) {
        worker.kill_because(why);
        self.lock().abandon(worker);
        self.refill();
    }

    /// Ends all workers. Requests in flight have ended or run out of time before this.
    pub fn drain(&self) {
        self.draining.cancel();
        self.changed.notify_waiters();
        for worker in self.lock().drain() {
            worker.kill();
        }
    }
}
