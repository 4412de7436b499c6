//! Step 5: a claim on the tenant's worker (hot, warm or cold), then the hop to it and the answer back.
//!
//! The decisions are in [`table`], which is pure; here they are carried out: processes started, spares
//! refilled, idle workers ended, versions loaded. One worker per tenant; scale to zero after the
//! function's idle timeout.

mod backoff;
mod beside;
mod claim;
mod error;
mod exchange;
mod expected;
mod head;
mod load;
mod relay;
mod report;
mod request;
mod resident;
mod retry;
mod table;
pub mod worker;

pub use backoff::Kills;
pub use beside::PoolServices;
pub use error::PoolError;
pub use exchange::Failed;
pub use table::WorkerCounts;

use crate::arbiter::Arbiter;
use crate::arbiter::turns::Health;
use crate::build::Builder;
use crate::gpus;
use crate::gpus::{GpuSlot, SlotId};
use backoff::Backoff;
use beside::SecretReader;
use claim::{ClaimedSeat, SharedTable};
use gannet_base::bill::StartKind;
use gannet_base::names::{FunctionName, TenantName};
use gannet_process::spawn::Spawner;
use gannet_state::registry::{Registry, Version};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use table::{Claim, SlotLimits, Table};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use worker::{Worker, WorkerSettings};

/// How often idle workers are looked for.
const RETIRE_EVERY: Duration = Duration::from_secs(1);
/// From the claim on a spare to the start of the next.
const REFILL_DELAY: Duration = Duration::from_millis(50);
/// How often whoever waits for room looks again.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Pause before a spare that could not be started is tried again.
const SPARE_RETRY: Duration = Duration::from_secs(2);

/// The step. Clones share one pool.
#[derive(Debug, Clone)]
pub struct Pool {
    table: SharedTable,
    changed: Arc<Notify>,
    spawner: Spawner,
    builder: Arc<Builder>,
    arbiter: Arc<Arbiter>,
    registry: Arc<Registry>,
    backoff: Arc<Mutex<Backoff>>,
    settings: Arc<WorkerSettings>,
    places: Arc<Vec<GpuSlot>>,
    services: Arc<PoolServices>,
    draining: CancellationToken,
}

impl Pool {
    /// A pool that starts its spares at once.
    pub fn start(
        spawner: Spawner,
        registry: Arc<Registry>,
        builder: Arc<Builder>,
        arbiter: Arc<Arbiter>,
        settings: WorkerSettings,
        places: Arc<Vec<GpuSlot>>,
        services: PoolServices,
    ) -> Self {
        let limits = places.iter().map(|place| SlotLimits { spares: place.spares, workers_max: place.workers_max });
        let pool = Self {
            table: Arc::new(Mutex::new(Table::new(limits))),
            changed: Arc::default(),
            spawner,
            registry,
            backoff: Arc::default(),
            builder,
            arbiter,
            settings: Arc::new(settings),
            places,
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Table<Arc<Worker>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tenants' workers and spares in each place.
    pub fn counts(&self) -> Vec<WorkerCounts> {
        self.lock().counts()
    }

    /// The places where a version may run, its preferences first; a GPU that failed its probe is left out.
    fn candidates(&self, version: &Version) -> Vec<Vec<SlotId>> {
        let mut groups = gpus::candidates(&self.places, &version.manifest().gpu.class);
        for group in &mut groups {
            group.retain(|place| self.arbiter.health(*place) != Some(Health::Cordoned));
        }
        groups
    }

    /// Starts the spares that are missing.
    fn refill(&self) {
        if self.draining.is_cancelled() {
            return;
        }
        // Not in the loop's head, which would keep the lock.
        let missing = self.lock().spares_missing();
        for place in missing {
            let pool = self.clone();
            tokio::spawn(async move {
                match pool.start_worker(place).await {
                    Ok(worker) => {
                        let mut table = pool.lock();
                        table.spare_started(place, Some(Arc::clone(&worker)));
                        // It may have ended before it was in the table.
                        if worker.dead().is_cancelled() {
                            table.died(&worker);
                        }
                        drop(table);
                        pool.changed.notify_waiters();
                    }
                    Err(error) => {
                        tracing::error!(%error, "a spare could not be started");
                        pool.lock().spare_started(place, None);
                        tokio::time::sleep(SPARE_RETRY).await;
                        pool.refill();
                    }
                }
            });
        }
    }

    /// Starts the spares that are missing, after the request that took the last one has had a moment: loading a
    /// GPU driver takes a core for a third of a second.
    fn refill_soon(&self) {
        let pool = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(REFILL_DELAY).await;
            pool.refill();
        });
    }

    async fn start_worker(&self, place: SlotId) -> Result<Arc<Worker>, PoolError> {
        let served = self.places.get(place).ok_or_else(|| PoolError::Internal(format!("there is no place {place}")))?;
        let files = self.registry.store().files();
        let worker = Worker::start(&self.spawner, files, &self.settings, served, &self.services.logs).await?;
        let (pool, watched) = (self.clone(), Arc::clone(&worker));
        tokio::spawn(async move {
            watched.dead().cancelled().await;
            pool.lock().died(&watched);
            pool.changed.notify_waiters();
            pool.refill();
        });
        Ok(worker)
    }

    /// A worker of the tenant with the version loaded.
    async fn claim(&self, version: &Arc<Version>) -> Result<ClaimedSeat, PoolError> {
        let tenant = &version.tenant;
        self.builder.ensure(version).await.map_err(|error| PoolError::Internal(error.to_string()))?;
        let mut kind = StartKind::Hot;
        let began = Instant::now();
        let patience = Duration::from_millis(version.limits.queue_ms);
        let mut capacity_wait = Duration::ZERO;
        let worker = loop {
            if self.draining.is_cancelled() {
                return Err(PoolError::Draining);
            }
            if self.registry.snapshot().tenants.get(tenant).is_none_or(|tenant| tenant.record.suspended) {
                return Err(PoolError::Suspended);
            }
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the table is asked, so that no change is missed.
            changed.as_mut().enable();
            let claim = self.lock().claim(tenant, &self.candidates(version), Instant::now());
            match claim {
                // Its end is not in the table yet.
                Claim::Use(worker) if worker.dead().is_cancelled() => self.lock().died(&worker),
                Claim::Use(worker) => break worker,
                Claim::Spare(worker) => {
                    kind = StartKind::Warm;
                    self.refill_soon();
                    break worker;
                }
                Claim::Start(place) => {
                    kind = StartKind::Cold;
                    self.start_for(tenant, place).await?;
                }
                Claim::Wait => {
                    kind = StartKind::Cold;
                    changed.await;
                }
                Claim::Evict(worker) => worker.kill(),
                Claim::Full => {
                    let waited = began.elapsed();
                    if waited >= patience {
                        return Err(self.no_capacity(version, waited));
                    }
                    // A change that is not told (a GPU that works again) is found by looking.
                    let _ = tokio::time::timeout(LOOK_EVERY.min(patience - waited), changed).await;
                    capacity_wait = began.elapsed();
                }
            }
        };
        let shared = (Arc::clone(&self.table), Arc::clone(&self.changed), Arc::clone(&self.registry));
        let mut seated = ClaimedSeat::new(Arc::clone(&worker), Arc::clone(version), shared, kind);
        seated.capacity_wait = capacity_wait;
        let snapshot = self.registry.snapshot();
        let weight = snapshot.tenants.get(tenant).map_or(1, |tenant| tenant.limits.gpu_weight);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        if worker.join(&self.arbiter, &self.services.egress, tenant, weight) {
            worker.quarantine(self.quarantined(tenant)).await?;
        }
        let opened = SecretReader { vault: &self.services.vault, snapshot };
        let was_loaded = worker.load(version, &opened).await?;
        if !was_loaded && kind == StartKind::Hot {
            seated.kind = StartKind::Warm;
        }
        Ok(seated)
    }

    fn no_capacity(&self, version: &Version, waited: Duration) -> PoolError {
        let classes = &version.manifest().gpu.class;
        let places: Vec<SlotId> = self.candidates(version).concat();
        let ms = waited.as_millis();
        PoolError::NoCapacity(match gpus::candidates(&self.places, classes).is_empty() {
            true => format!("there is no gpu of class {}", classes.join(" or ")),
            false if places.is_empty() => format!("no gpu of class {} works, after {ms} ms", classes.join(" or ")),
            false => format!("no worker was free within {ms} ms"),
        })
    }

    /// Starts a worker for a tenant. It runs to its end even if the request that wanted it leaves:
    /// others may be waiting for the same worker.
    async fn start_for(&self, tenant: &TenantName, place: SlotId) -> Result<(), PoolError> {
        let (pool, tenant) = (self.clone(), tenant.clone());
        let starting = tokio::spawn(async move {
            let started = pool.start_worker(place).await;
            let mut table = pool.lock();
            match &started {
                Ok(worker) => {
                    table.started(&tenant, place, Arc::clone(worker), Instant::now());
                    if worker.dead().is_cancelled() {
                        table.died(worker);
                    }
                }
                Err(_) => table.start_failed(&tenant, place),
            }
            drop(table);
            pool.changed.notify_waiters();
            started.map(drop)
        });
        starting.await.map_err(|error| PoolError::Internal(error.to_string()))?
    }

    /// Keeps the worker of a version with `min = 1` up: claims it, loads the version, lets go.
    pub async fn warm(&self, version: &Arc<Version>) -> Result<(), PoolError> {
        self.claim(version).await.map(drop)
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
    pub fn unpin(&self, tenant: &TenantName) {
        self.lock().unpin(tenant);
    }

    fn quarantined(&self, tenant: &TenantName) -> HashSet<[u8; 32]> {
        let snapshot = self.registry.snapshot();
        let records = snapshot.tenants.get(tenant).map(|tenant| Arc::clone(&tenant.quarantine)).unwrap_or_default();
        records.iter().map(|record| record.source).collect()
    }

    /// A function was deployed anew: what its workers did before is forgotten.
    pub async fn redeployed(&self, tenant: &TenantName, function: &FunctionName) {
        self.backoff().forget(&(tenant.clone(), function.clone()));
        self.push_quarantine(tenant).await;
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

    fn backoff(&self) -> std::sync::MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of kills of a function's workers, and how long it has to wait because of them.
    pub fn kills(&self, tenant: &TenantName, function: &FunctionName) -> Option<(Kills, Duration)> {
        let (key, now) = ((tenant.clone(), function.clone()), Instant::now());
        let backoff = self.backoff();
        let kills = backoff.recent(&key, now)?.clone();
        Some((kills, backoff.wait(&key, now)))
    }

    /// Refuses a function whose workers are killed again and again.
    fn check_kills(&self, version: &Version) -> Result<(), PoolError> {
        match self.kills(&version.tenant, &version.function) {
            Some((kills, wait)) if !wait.is_zero() => {
                let left_s = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Err(PoolError::BackingOff { kills: kills.count, why: kills.why, left_s })
            }
            _ => Ok(()),
        }
    }

    /// Notes that a worker ended while it ran a request, and says why.
    async fn note_kill(&self, version: &Version, worker: &Worker) -> String {
        let why = worker.why_ended().await;
        let key = (version.tenant.clone(), version.function.clone());
        self.backoff().killed(key, worker.id(), &why, Instant::now());
        why
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
