//! The one task that sets the number of workers of each function. It looks at what the functions' requests and jobs ask
//! for, decides by [`super::scaling`], publishes the number for the claims, starts the workers that are missing, and
//! ends those that were idle for too long.
//!
//! ```text
//!  every look:  permits, waiting requests, queued jobs ─▶ decide ─▶ publish ─▶ start and load what is missing
//!                                                                            ─▶ retire what is idle
//! ```
//!
//! Jobs count for the current version only. A version that is not served any more gets nothing: who still calls it by its
//! number uses a worker that there is. Beyond `scale.min`, nothing is started or loaded for requests that would be
//! refused, because the tenant's money or GPU time is used up, or the version must wait after kills or failed starts.
//!
//! A request never waits for a start that is made here: a further worker is in the table only once it has loaded the
//! function. Invariant: nobody else calls [`gannet_base::quota::demand::Demand::publish`].

use super::Pool;
use super::error::PoolError;
use super::scaling::{Rules, Scaling, Seen};
use super::table::{ExtraStart, Kept};
use super::worker::Worker;
use crate::gpus::SlotId;
use gannet_base::hop::VersionKey;
use gannet_base::names::{FunctionName, TenantName};
use gannet_state::registry::{Snapshot, Tenant, Version};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the task looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Pause before a further worker is started again that could not be started; it doubles with each failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The jobs of a function that wait and could run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueuedJobs {
    /// Their number.
    pub count: usize,
    /// For how long the next one has waited.
    pub oldest: Duration,
}

/// The workers of a function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FunctionWorkers {
    /// Workers that have loaded it.
    pub now: usize,
    /// Workers that the scaling wants.
    pub wanted: usize,
}

/// Counts the jobs of a function that wait.
type CountJobs = Box<dyn Fn(&TenantName, &FunctionName) -> QueuedJobs + Send + Sync>;

/// What the task works on.
#[derive(Default)]
pub(super) struct Scaler {
    watched: Mutex<HashMap<VersionKey, Watched>>,
    jobs: Mutex<Option<CountJobs>>,
}

impl std::fmt::Debug for Scaler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scaler").field("watched", &self.watched).finish_non_exhaustive()
    }
}

/// A version that is used, or kept.
#[derive(Debug)]
struct Watched {
    version: Arc<Version>,
    scaling: Scaling,
    /// Further workers that could not be started, in a row.
    failed: u32,
    /// None is started before.
    not_before: Option<Instant>,
}

/// What is missing for a version.
enum Missing {
    /// A further worker is to be started.
    Worker(ExtraStart<Arc<Worker>>),
    /// A worker of the tenant, which came for another function or was not the one that a request got, is to load it.
    Load(Arc<Worker>),
}

impl Scaler {
    fn watched(&self) -> MutexGuard<'_, HashMap<VersionKey, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Scales a version from now on, as long as it is used or kept.
    pub(super) fn watch(&self, version: &Arc<Version>) {
        if version.permits.demand().set_watched(true) {
            return;
        }
        let watched =
            Watched { version: Arc::clone(version), scaling: Scaling::default(), failed: 0, not_before: None };
        self.watched().entry(version.key).or_insert(watched);
    }

    /// Returns the versions that are watched.
    fn versions(&self) -> Vec<Arc<Version>> {
        self.watched().values().map(|watched| Arc::clone(&watched.version)).collect()
    }

    fn queued(&self, version: &Version) -> QueuedJobs {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.as_ref().map(|count| count(&version.tenant, &version.function)).unwrap_or_default()
    }

    /// Asks nobody for jobs any more.
    pub(super) fn stop(&self) {
        *self.jobs.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes whether a further worker of a version could be started.
    fn note(&self, version: VersionKey, has_started: bool, now: Instant) {
        let mut watched = self.watched();
        let Some(watched) = watched.get_mut(&version) else { return };
        if has_started {
            (watched.failed, watched.not_before) = (0, None);
            return;
        }
        let pause = RETRY_FIRST.saturating_mul(1 << watched.failed.min(6)).min(RETRY_MAX);
        (watched.failed, watched.not_before) = (watched.failed.saturating_add(1), Some(now + pause));
    }
}

/// Whether a version is the one of its function whose `scale.min` counts.
fn is_kept(version: &Version, snapshot: &Snapshot, slots: usize) -> bool {
    let Some(tenant) = snapshot.tenants.get(&version.tenant) else { return false };
    let may_stay = || tenant.may_stay_resident(jiff::Timestamp::now(), slots);
    version.manifest().scale.min > 0 && snapshot.is_current(version) && may_stay()
}

/// Returns the current versions of the functions of these versions, as far as those are not current themselves.
fn successors(versions: &[Arc<Version>], snapshot: &Snapshot) -> Vec<Arc<Version>> {
    let current = versions.iter().filter_map(|version| {
        let function = snapshot.function(version.tenant.as_str(), version.function.as_str())?;
        (function.current.key != version.key).then(|| Arc::clone(&function.current))
    });
    current.collect()
}

impl Pool {
    /// Sets what counts the jobs that wait.
    pub fn count_jobs_with(&self, count: impl Fn(&TenantName, &FunctionName) -> QueuedJobs + Send + Sync + 'static) {
        *self.scaler.jobs.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(count));
    }

    /// Runs the task until the server drains.
    pub(super) async fn scale(self) {
        while !self.draining.is_cancelled() {
            tokio::time::sleep(LOOK_EVERY).await;
            for (version, missing) in self.look(Instant::now()) {
                match missing {
                    Missing::Worker(start) => {
                        if start.spare.is_some() {
                            self.refill_soon();
                        }
                        tokio::spawn(self.clone().start_extra(version, start));
                    }
                    Missing::Load(worker) => {
                        tokio::spawn(self.clone().load_further(version, worker));
                    }
                }
            }
            let retired = self.lock().retire(Instant::now());
            for worker in &retired {
                worker.kill();
            }
            if !retired.is_empty() {
                self.refill();
            }
        }
    }

    /// Decides the numbers of all watched versions and publishes them. Returns what is missing.
    fn look(&self, now: Instant) -> Vec<(Arc<Version>, Missing)> {
        let (snapshot, mut kept, mut missing) = (self.registry.snapshot(), Kept::new(), Vec::new());
        // A version that was deployed meanwhile takes over the queue of jobs, and the workers that its predecessor kept. So it
        // is looked at even if no request of it has come.
        for version in successors(&self.scaler.versions(), &snapshot) {
            self.scaler.watch(&version);
        }
        let mut all = self.scaler.watched();
        all.retain(|_, watched| {
            let version = Arc::clone(&watched.version);
            if !snapshot.serves(&version) {
                version.permits.demand().publish(0);
                return is_used(&version);
            }
            let candidates = self.candidates(&version);
            let rules =
                Rules::new(&version.manifest().scale, &version.limits, is_kept(&version, &snapshot, self.slots.len()));
            let load = version.permits.look(now);
            let jobs = if snapshot.is_current(&version) { self.scaler.queued(&version) } else { QueuedJobs::default() };
            let places = self.lock().places(&version.tenant, &candidates, now);
            let seen = Seen {
                requests: load.requests.saturating_add(jobs.count),
                oldest: load.oldest.max(jobs.oldest),
                found_full: load.found_full,
                up: places.len(),
                slots: distinct(&candidates),
            };
            let wanted = watched.scaling.decide(&rules, seen, now);
            version.permits.demand().publish(wanted);
            for slot in places.iter().take(rules.min) {
                kept.entry((version.tenant.clone(), *slot)).or_default().push(version.function.clone());
            }
            let may_start = watched.not_before.is_none_or(|at| at <= now)
                // The first one is started by the request that needs it.
                && (!places.is_empty() || rules.min > 0);
            // Those that are kept are there before anyone calls, and end a wait after failed starts.
            let wanted = if self.would_serve(&version, &snapshot) { wanted } else { wanted.min(rules.min) };
            if may_start {
                let found = self.missing(&version, (&candidates, &places), wanted, rules.min);
                missing.extend(found.into_iter().map(|found| (Arc::clone(&version), found)));
            }
            !watched.scaling.is_idle() || rules.min > 0 || is_used(&version)
        });
        drop(all);
        self.lock().keep(&kept);
        missing
    }

    /// Whether requests of a version would be served now: its tenant is active and may still spend, and the version need
    /// not wait.
    fn would_serve(&self, version: &Version, snapshot: &Snapshot) -> bool {
        let is_active = |tenant: &Arc<Tenant>| !tenant.record.suspended;
        let may_spend = |tenant: &Arc<Tenant>| !tenant.account.is_used_up(jiff::Timestamp::now());
        snapshot.tenants.get(&version.tenant).is_some_and(|tenant| is_active(tenant) && may_spend(tenant))
            && !self.must_wait(version)
    }

    /// Returns what is missing for a version that `wanted` workers are to serve: at most one worker at a time, and the
    /// loads of those that there are.
    fn missing(
        &self,
        version: &Version,
        (candidates, places): (&[Vec<SlotId>], &[SlotId]),
        wanted: usize,
        min: usize,
    ) -> Vec<Missing> {
        let mut table = self.lock();
        let mut missing = Vec::new();
        // The only one loads it for the request that needs it.
        let loads = if wanted > 1 || min > 0 { wanted } else { 0 };
        for slot in places.iter().take(loads) {
            let worker = table.worker_at(&version.tenant, *slot);
            let lacks = |worker: &Arc<Worker>| !worker.loaded().contains(&version.key);
            missing.extend(worker.filter(lacks).map(Missing::Load));
        }
        if places.len() < wanted {
            missing.extend(table.claim_extra(&version.tenant, candidates, wanted).map(Missing::Worker));
        }
        missing
    }

    /// Loads a version into a worker for which no request asked. While it does, the version counts as used there.
    async fn load_into(&self, version: &Arc<Version>, worker: &Arc<Worker>) -> Result<(), PoolError> {
        worker.begin_request(version.key);
        let loaded = match self.builder.ensure(version).await {
            Ok(()) => self.prepare(worker, version, true).await.map(drop),
            Err(error) => Err(error.into()),
        };
        worker.end_request_of(version, &self.registry);
        if let Err(error) = &loaded {
            tracing::warn!(tenant = %version.tenant, function = %version.function, %error, "a further worker could not load its function");
        }
        loaded
    }

    async fn load_further(self, version: Arc<Version>, worker: Arc<Worker>) {
        let loaded = self.load_into(&version, &worker).await;
        self.scaler.note(version.key, loaded.is_ok(), Instant::now());
    }

    /// Starts a further worker of a tenant and loads the version, so that the first request there is hot.
    async fn start_extra(self, version: Arc<Version>, start: ExtraStart<Arc<Worker>>) {
        let ExtraStart { slot, spare } = start;
        let started = match spare {
            Some(worker) => Ok(worker),
            None => self.start_worker(slot).await,
        };
        let is_ready = match &started {
            Ok(worker) => self.load_into(&version, worker).await.is_ok(),
            Err(error) => {
                tracing::warn!(tenant = %version.tenant, function = %version.function, %error, "a further worker could not be started");
                false
            }
        };
        self.scaler.note(version.key, is_ready, Instant::now());
        let Ok(worker) = started else {
            self.lock().start_failed(&version.tenant, slot);
            return self.table_changed.notify_waiters();
        };
        {
            // No request gets it in between.
            let mut table = self.lock();
            table.started_extra(&version.tenant, slot, Arc::clone(&worker), Instant::now());
            if worker.dead().is_cancelled() {
                table.died(&worker);
            } else if !is_ready {
                table.unassign(&worker);
            }
        }
        // From here on changes find it in the table. Those that came before are looked for now.
        let is_active = |tenant: &Arc<Tenant>| !tenant.record.suspended;
        if !is_ready {
            worker.kill_because("it could not load its function");
            self.refill();
        } else if self.draining.is_cancelled()
            || !self.registry.snapshot().tenants.get(&version.tenant).is_some_and(is_active)
        {
            self.end(&worker, "its tenant was suspended");
        } else {
            self.catch_up(&version.tenant, &worker).await;
        }
        self.table_changed.notify_waiters();
    }

    /// Returns how many workers have loaded a version, and how many are wanted.
    pub fn workers_of(&self, version: &Version) -> FunctionWorkers {
        let workers = self.lock().workers(&version.tenant);
        let now = workers.iter().filter(|worker| worker.has(version.key)).count();
        FunctionWorkers { now, wanted: version.permits.demand().decided() }
    }

    /// Whether a version is being loaded, or its first worker started, and no worker has it yet.
    pub fn is_loading(&self, version: &Version) -> bool {
        version.permits.demand().is_starting() && self.workers_of(version).now == 0
    }

    /// Returns the sum of the wanted workers of all functions.
    pub fn wanted(&self) -> usize {
        self.scaler.watched().values().map(|watched| watched.version.permits.demand().decided()).sum()
    }
}

/// Stops watching a version, unless a request runs that came meanwhile.
fn is_used(version: &Version) -> bool {
    let demand = version.permits.demand();
    demand.set_watched(false);
    let is_used = version.permits.running() > 0;
    if is_used {
        demand.set_watched(true);
    }
    is_used
}

fn distinct(candidates: &[Vec<SlotId>]) -> usize {
    let mut all: Vec<SlotId> = candidates.iter().flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    all.len()
}
