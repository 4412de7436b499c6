//! Claims a worker for a request (hot, warm or cold): carries out what the table decides about its claim.
//!
//! A version that must wait after failed starts is refused only where it would have to be loaded: a worker that has it
//! loaded serves it.

use super::Pool;
use super::claim::WorkerClaim;
use super::connection::Connection;
use super::error::PoolError;
use super::services::SecretReader;
use super::table::ClaimDecision;
use super::worker::Worker;
use crate::gpus;
use crate::gpus::SlotId;
use gannet_base::bill::StartKind;
use gannet_base::names::TenantName;
use gannet_state::registry::Version;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a request that waits for a free worker claims again.
const LOOK_EVERY: Duration = Duration::from_millis(25);

impl Pool {
    /// Claims a worker and a connection to it before `deadline`, which is `timeout_ms` after the request's
    /// arrival. A worker that ends before it has the request is replaced once.
    pub(super) async fn claim_before(
        &self,
        version: &Arc<Version>,
        deadline: tokio::time::Instant,
        timeout_ms: u64,
    ) -> Result<(WorkerClaim, Connection), PoolError> {
        let claiming = async {
            match connected(self.claim(version)).await {
                Err(PoolError::Killed(_)) => connected(self.claim(version)).await,
                other => other,
            }
        };
        before(deadline, timeout_ms, claiming).await
    }

    /// Claims another worker of the tenant for a call that found no room in those that are `full`, among those that the
    /// function may be spread over, also if it is not now. Returns none if no other has room. One that ends before it has
    /// the call is replaced as for any request.
    pub(super) async fn claim_beside(
        &self,
        version: &Arc<Version>,
        (full, depth): (&[Arc<Worker>], u8),
        deadline: tokio::time::Instant,
        timeout_ms: u64,
    ) -> Result<Option<(WorkerClaim, Connection)>, PoolError> {
        let may_load = self.check_starts(version).is_ok();
        let suits = |worker: &Arc<Worker>| {
            !full.contains(worker) && worker.has_room_at(depth) && (may_load || worker.has(version.key))
        };
        let Some(worker) = self.claim_own_if(version, suits) else { return Ok(None) };
        let claiming = connected(self.make_ready(worker, version, StartKind::Hot, false));
        match before(deadline, timeout_ms, claiming).await {
            Err(PoolError::Killed(_)) => self.claim_before(version, deadline, timeout_ms).await.map(Some),
            other => other.map(Some),
        }
    }

    /// Claims a worker of the tenant, and loads the version into it.
    async fn claim(&self, version: &Arc<Version>) -> Result<WorkerClaim, PoolError> {
        let tenant = &version.tenant;
        self.builder.ensure(version).await.map_err(PoolError::from)?;
        self.scaler.watch(version);
        let mut starting = None;
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
            // Almost every request ends the loop here.
            if let Some(worker) = self.claim_running(version)? {
                break worker;
            }
            starting.get_or_insert_with(|| version.permits.demand().begin_start());
            let changed = self.table_changed.notified();
            tokio::pin!(changed);
            // Registered before the claim, so that no change is missed.
            changed.as_mut().enable();
            let (candidates, wanted) = (self.candidates(version), version.permits.demand().wanted());
            let claim = self.lock().claim(tenant, &candidates, wanted, Instant::now());
            match claim {
                // Its process has ended, but the table does not know that yet.
                ClaimDecision::Use(worker) if worker.dead().is_cancelled() => self.lock().died(&worker),
                ClaimDecision::Use(worker) => break worker,
                ClaimDecision::Spare(worker) => {
                    kind = StartKind::Warm;
                    self.refill_soon();
                    break worker;
                }
                ClaimDecision::Start(slot) => {
                    kind = StartKind::Cold;
                    let at = Instant::now();
                    if let Err(error) = self.start_for(tenant, slot).await {
                        return Err(self.note_start_failure(version, at, error));
                    }
                }
                ClaimDecision::Wait => {
                    kind = StartKind::Cold;
                    changed.await;
                }
                ClaimDecision::Evict(worker) => worker.kill(),
                ClaimDecision::Full => {
                    let waited = began.elapsed();
                    if waited >= patience {
                        return Err(self.no_capacity(version, waited));
                    }
                    // Some changes notify nobody (a GPU that works again), so it claims again after a while.
                    let _ = tokio::time::timeout(LOOK_EVERY.min(patience - waited), changed).await;
                    capacity_wait = began.elapsed();
                }
            }
        };
        let mut worker_claim = self.make_ready(worker, version, kind, starting.is_some()).await?;
        worker_claim.capacity_wait = capacity_wait;
        Ok(worker_claim)
    }

    /// Claims one of the workers that the version's tenant has already, if it has one. Returns an error if the version
    /// must wait after failed starts, and none of them has it loaded.
    fn claim_running(&self, version: &Version) -> Result<Option<Arc<Worker>>, PoolError> {
        let checked = self.check_starts(version);
        let claimed = match &checked {
            Ok(()) => self.claim_own(version).filter(|worker| !worker.dead().is_cancelled()),
            Err(_) => self.claim_own_if(version, |worker| worker.has(version.key)),
        };
        match claimed {
            Some(worker) => Ok(Some(worker)),
            None => checked.map(|()| None),
        }
    }

    /// Turns a worker that the table counts as claimed into a claim, and makes it ready for the version. `is_counted` says
    /// whether the caller counts the request as starting.
    async fn make_ready(
        &self,
        worker: Arc<Worker>,
        version: &Arc<Version>,
        kind: StartKind,
        is_counted: bool,
    ) -> Result<WorkerClaim, PoolError> {
        let shared = (Arc::clone(&self.table), Arc::clone(&self.table_changed), Arc::clone(&self.registry));
        let mut worker_claim = WorkerClaim::new(Arc::clone(&worker), Arc::clone(version), shared, kind);
        let began = Instant::now();
        let loaded = self.prepare(&worker, version, is_counted).await;
        let was_loaded = loaded.map_err(|error| self.note_start_failure(version, began, error))?;
        if !was_loaded && kind == StartKind::Hot {
            worker_claim.kind = StartKind::Warm;
        }
        Ok(worker_claim)
    }

    /// Makes a claimed worker ready for a version: binds it to the tenant, and loads the version. Returns whether the
    /// version was loaded already; if not, its failed starts are forgotten. `is_counted` says whether the caller counts it
    /// as starting.
    pub(super) async fn prepare(
        &self,
        worker: &Arc<Worker>,
        version: &Arc<Version>,
        is_counted: bool,
    ) -> Result<bool, PoolError> {
        let (tenant, snapshot) = (&version.tenant, self.registry.snapshot());
        let weight = snapshot.tenants.get(tenant).map_or(1, |tenant| tenant.limits.gpu_weight);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        if worker.join(&self.arbiter, &self.services.egress, tenant, weight) {
            worker.quarantine(self.quarantined(tenant)).await?;
        }
        let _loading = (!is_counted && !worker.has(version.key)).then(|| version.permits.demand().begin_start());
        let was_loaded = worker.load(version, &SecretReader { vault: &self.services.vault, snapshot }).await?;
        if !was_loaded {
            self.note_start(version.key);
        }
        Ok(was_loaded)
    }

    fn no_capacity(&self, version: &Version, waited: Duration) -> PoolError {
        let classes = &version.manifest().gpu.class;
        let slots: Vec<SlotId> = self.candidates(version).concat();
        let ms = waited.as_millis();
        PoolError::NoCapacity(match gpus::candidates(&self.slots, classes).is_empty() {
            true => format!("there is no gpu of class {}", classes.join(" or ")),
            false if slots.is_empty() => format!("no gpu of class {} works, after {ms} ms", classes.join(" or ")),
            false => format!("no worker was free within {ms} ms"),
        })
    }

    /// Starts a worker for a tenant. The start goes on even if the request that wanted it is dropped,
    /// because others may be waiting for the same worker.
    async fn start_for(&self, tenant: &TenantName, slot: SlotId) -> Result<(), PoolError> {
        let (pool, tenant) = (self.clone(), tenant.clone());
        let starting = tokio::spawn(async move {
            let started = pool.start_worker(slot).await;
            let mut table = pool.lock();
            match &started {
                Ok(worker) => {
                    table.started(&tenant, slot, Arc::clone(worker), Instant::now());
                    if worker.dead().is_cancelled() {
                        table.died(worker);
                    }
                }
                Err(_) => table.start_failed(&tenant, slot),
            }
            drop(table);
            pool.table_changed.notify_waiters();
            started.map(drop)
        });
        starting.await.map_err(|error| PoolError::Internal(error.to_string()))?
    }

    /// Starts the first worker of a version with `scale.min`: claims it, loads the version and releases the claim. The
    /// scaling keeps it up, and starts the others.
    pub async fn warm(&self, version: &Arc<Version>) -> Result<(), PoolError> {
        self.claim(version).await.map(drop)
    }
}

/// Connects to the worker of a claim.
async fn connected(
    claiming: impl Future<Output = Result<WorkerClaim, PoolError>>,
) -> Result<(WorkerClaim, Connection), PoolError> {
    let worker_claim = claiming.await?;
    let connection = worker_claim.worker().connection().await?;
    Ok((worker_claim, connection))
}

/// Waits for a claim until `deadline`, which is `timeout_ms` after the request's arrival.
async fn before<T>(
    deadline: tokio::time::Instant,
    timeout_ms: u64,
    claiming: impl Future<Output = Result<T, PoolError>>,
) -> Result<T, PoolError> {
    let late = || PoolError::Deadline(format!("no worker was ready within {timeout_ms} ms"));
    tokio::time::timeout_at(deadline, claiming).await.unwrap_or_else(|_| Err(late()))
}
