//! Step 5: a claim on the tenant's worker (hot, warm or cold), then the hop to it and the answer back.
//!
//! The decisions are in [`table`], which is pure; here they are carried out: processes started, spares
//! refilled, idle workers ended, versions loaded. One worker per tenant; scale to zero after the
//! function's idle timeout.

mod claim;
mod relay;
mod request;
mod table;
pub mod worker;

pub use relay::Relay;
pub use request::BODY_IDLE_MAX;
pub(crate) use request::strip_hop_by_hop;

use crate::admit::Admitted;
use crate::build::Builder;
use crate::front::{FrontError, Inbound};
use crate::hop::{Fault, FaultCode, Work, header};
use crate::logs::Logs;
use crate::meter::StartKind;
use crate::names::{RequestId, TenantName};
use crate::process::spawn::Spawner;
use crate::registry::Version;
use crate::respond::{Blame, ERROR_HEADER, REQUEST_ID_HEADER, Refused, ResponseBody, code_of, status_of};
use crate::route::Target;
use crate::store::Store;
use claim::{Seated, SharedTable};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header as names};
use relay::{SERVER_TIMING, WorkSource};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use table::{Claim, Table};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use worker::{Worker, WorkerSettings};

/// How often idle workers are looked for.
const RETIRE_EVERY: Duration = Duration::from_secs(1);
/// Pause before a spare that could not be started is tried again.
const SPARE_RETRY: Duration = Duration::from_secs(2);

/// Why a request got no answer from a worker.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All workers are busy and no more may be started.
    #[error("all {workers_max} workers are busy")]
    NoCapacity {
        /// How many there may be.
        workers_max: usize,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// A worker could not be started.
    #[error("no worker could be started: {0}")]
    StartFailed(String),
    /// The worker ended while it ran the request.
    #[error("the function's worker ended while it ran the request")]
    Killed,
    /// The guest trapped or did not answer.
    #[error("{0}")]
    Trapped(String),
    /// The guest passed its memory limit.
    #[error("{0}")]
    MemoryLimit(String),
    /// The guest passed a time limit.
    #[error("{0}")]
    Deadline(String),
    /// Our own fault.
    #[error("{0}")]
    Internal(String),
    /// The request's body was cut while it was being sent.
    #[error(transparent)]
    Request(FrontError),
}

impl From<Fault> for PoolError {
    fn from(fault: Fault) -> Self {
        let detail = fault.detail.chars().take(relay::DETAIL_CHARACTERS_MAX).collect();
        match fault.code {
            FaultCode::FunctionTrapped => Self::Trapped(detail),
            FaultCode::MemoryLimit => Self::MemoryLimit(detail),
            FaultCode::DeadlineExceeded => Self::Deadline(detail),
            FaultCode::Unavailable => Self::Internal(detail),
        }
    }
}

/// How many workers there may be.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// Spare workers kept ready.
    pub spares: usize,
    /// Workers and spares together.
    pub workers_max: usize,
}

/// The step. Clones share one pool.
#[derive(Debug, Clone)]
pub struct Pool {
    table: SharedTable,
    changed: Arc<Notify>,
    spawner: Spawner,
    store: Arc<Store>,
    logs: Arc<Logs>,
    builder: Arc<Builder>,
    settings: Arc<WorkerSettings>,
    limits: PoolLimits,
    draining: CancellationToken,
}

impl Pool {
    /// A pool that starts its spares at once.
    pub fn start(
        spawner: Spawner,
        store: Arc<Store>,
        logs: Arc<Logs>,
        builder: Arc<Builder>,
        settings: WorkerSettings,
        limits: PoolLimits,
    ) -> Self {
        let pool = Self {
            table: Arc::new(Mutex::new(Table::new(limits.spares, limits.workers_max))),
            changed: Arc::default(),
            spawner,
            store,
            logs,
            builder,
            settings: Arc::new(settings),
            limits,
            draining: CancellationToken::new(),
        };
        pool.refill();
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

    /// Tenants with a worker, and spares.
    pub fn counts(&self) -> (usize, usize) {
        self.lock().counts()
    }

    /// Starts the spares that are missing.
    fn refill(&self) {
        if self.draining.is_cancelled() {
            return;
        }
        for _ in 0..self.lock().spares_missing() {
            let pool = self.clone();
            tokio::spawn(async move {
                match pool.start_worker().await {
                    Ok(worker) => {
                        let mut table = pool.lock();
                        table.spare_started(Some(Arc::clone(&worker)));
                        // It may have ended before it was in the table.
                        if worker.dead().is_cancelled() {
                            table.died(&worker);
                        }
                        drop(table);
                        pool.changed.notify_waiters();
                    }
                    Err(error) => {
                        tracing::error!(%error, "a spare could not be started");
                        pool.lock().spare_started(None);
                        tokio::time::sleep(SPARE_RETRY).await;
                        pool.refill();
                    }
                }
            });
        }
    }

    async fn start_worker(&self) -> Result<Arc<Worker>, PoolError> {
        let worker = Worker::start(&self.spawner, self.store.files(), &self.settings, &self.logs).await?;
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
    async fn claim(&self, version: &Arc<Version>) -> Result<Seated, PoolError> {
        let tenant = &version.tenant;
        self.builder.ensure(version).await.map_err(|error| PoolError::Internal(error.to_string()))?;
        let mut kind = StartKind::Hot;
        let worker = loop {
            if self.draining.is_cancelled() {
                return Err(PoolError::Draining);
            }
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the table is asked, so that no change is missed.
            changed.as_mut().enable();
            let claim = self.lock().claim(tenant, Instant::now());
            match claim {
                Claim::Use(worker) => break worker,
                Claim::Spare(worker) => {
                    kind = StartKind::Warm;
                    self.refill();
                    break worker;
                }
                Claim::Start => {
                    kind = StartKind::Cold;
                    self.start_for(tenant).await?;
                }
                Claim::Wait => {
                    kind = StartKind::Cold;
                    changed.await;
                }
                Claim::Evict(worker) => worker.kill(),
                Claim::Full => return Err(PoolError::NoCapacity { workers_max: self.limits.workers_max }),
            }
        };
        let mut seated = Seated::new(Arc::clone(&worker), Arc::clone(version), Arc::clone(&self.table), kind);
        let was_loaded = worker.load(version, &version.manifest().env).await?;
        if !was_loaded && kind == StartKind::Hot {
            seated.kind = StartKind::Warm;
        }
        Ok(seated)
    }

    /// Starts a worker for a tenant. It runs to its end even if the request that wanted it leaves:
    /// others may be waiting for the same worker.
    async fn start_for(&self, tenant: &TenantName) -> Result<(), PoolError> {
        let (pool, tenant) = (self.clone(), tenant.clone());
        let starting = tokio::spawn(async move {
            let started = pool.start_worker().await;
            let mut table = pool.lock();
            match &started {
                Ok(worker) => {
                    table.started(&tenant, Arc::clone(worker), Instant::now());
                    if worker.dead().is_cancelled() {
                        table.died(worker);
                    }
                }
                Err(_) => table.start_failed(&tenant),
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

    /// Lets a tenant's worker go when idle, whatever an older version asked for.
    pub fn unpin(&self, tenant: &TenantName) {
        self.lock().unpin(tenant);
    }

    /// Ends all workers. Requests in flight have ended or run out of time before this.
    pub fn drain(&self) {
        self.draining.cancel();
        self.changed.notify_waiters();
        for worker in self.lock().drain() {
            worker.kill();
        }
    }

    /// Sends the request to a worker and its answer back.
    pub async fn call(
        &self,
        inbound: Inbound,
        target: Target,
        mut admitted: Admitted,
    ) -> Result<Response<ResponseBody>, Refused> {
        let version = Arc::clone(&target.function.current);
        match self.try_call(inbound, target, &version, admitted).await {
            Ok(response) => Ok(response),
            Err((error, returned)) => {
                admitted = returned;
                let refused = Refused::from(error);
                let (code, blame) = code_of(&refused);
                let status = status_of(&refused).as_u16();
                admitted.tab.note(|receipt| {
                    receipt.status = status;
                    receipt.error = Some(code.to_owned());
                    receipt.error_detail = Some(refused.to_string());
                    receipt.fault = Some(blame);
                });
                Err(refused)
            }
        }
    }

    async fn try_call(
        &self,
        inbound: Inbound,
        target: Target,
        version: &Arc<Version>,
        mut admitted: Admitted,
    ) -> Result<Response<ResponseBody>, (PoolError, Admitted)> {
        let limits = &version.manifest().limits;
        let timeout = Duration::from_millis(limits.timeout_ms);
        let deadline = tokio::time::Instant::from_std(inbound.arrived + timeout);
        let claimed_at = Instant::now();
        let claimed = tokio::time::timeout_at(deadline, async {
            let seated = self.claim(version).await?;
            let connection = seated.worker().connection().await?;
            Ok((seated, connection))
        });
        let (seated, mut connection) = match claimed.await {
            Ok(Ok(claimed)) => claimed,
            Ok(Err(error)) => return Err((error, admitted)),
            Err(_) => {
                return Err((
                    PoolError::Deadline(format!("no worker was ready within {} ms", limits.timeout_ms)),
                    admitted,
                ));
            }
        };
        let claim_us = u64::try_from(claimed_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        let kind = seated.kind;
        admitted.tab.note(|receipt| receipt.start = Some(kind));
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let id = inbound.id;
        let work = Expected::new(&seated, id);
        let limit = limits.body_mib.saturating_mul(1 << 20);
        let (request, request_body) = request::rebuild(inbound, target.path, version.key, left, limit);
        let mut leaving = Leaving { id, claim_us, held: Some((admitted, seated, work)), late: late(limits) };
        // The worker answers at the deadline; a worker that hangs does not.
        let sent = tokio::time::timeout(left + Duration::from_secs(1), connection.send_request(request)).await;
        let Some((mut admitted, seated, mut work)) = leaving.held.take() else {
            unreachable!("only a dropped future takes it")
        };
        let answer = match sent {
            Ok(Ok(answer)) => answer,
            other => {
                let error = match (request_body.refused(), other) {
                    (Some(refused), _) => {
                        if let Some(rest) = request_body.rest() {
                            crate::front::discard(rest).await;
                        }
                        PoolError::Request(refused)
                    }
                    (None, Err(_)) => {
                        // It has missed a deadline by a second: it hangs, and takes its tenant's
                        // other requests with it.
                        seated.worker().kill();
                        self.lock().died(seated.worker());
                        self.refill();
                        PoolError::Killed
                    }
                    (None, Ok(_)) => PoolError::Killed,
                };
                return Err((error, admitted));
            }
        };
        let (mut head, body) = answer.into_parts();
        let known: Option<Work> =
            head.headers.remove(header::WORK).and_then(|value| serde_json::from_slice(value.as_bytes()).ok());
        let source = match known {
            Some(work) => {
                relay::apply(&mut admitted.tab, &work, claim_us);
                if let Some(fault) = work.fault.filter(|_| is_fault(&head.headers)) {
                    // Read to its end: the answer has no body.
                    if request_body.is_done() {
                        seated.worker().give_back(connection);
                    }
                    return Err((fault.into(), admitted));
                }
                WorkSource::Known
            }
            None => WorkSource::Frame(work.take()),
        };
        admitted.tab.note(|receipt| receipt.status = head.status.as_u16());
        finish_head(&mut head.headers, &source, &admitted, kind, id);
        let parts =
            relay::Parts { body, admitted, seated, connection, source, claim_us, request_body, late: late(limits) };
        Ok(Response::from_parts(head, relay::body(parts)))
    }
}

/// How long a tab stays open for a guest that runs on after its answer, or was cut off.
fn late(limits: &crate::manifest::Limits) -> Duration {
    Duration::from_millis(limits.stream_timeout_ms) + Duration::from_secs(15)
}

/// A receipt that may come as a frame; nothing waits for it once this is dropped.
#[derive(Debug)]
pub(crate) struct Expected {
    worker: Arc<Worker>,
    request: RequestId,
    receiver: Option<oneshot::Receiver<Work>>,
}

impl Expected {
    fn new(seated: &Seated, request: RequestId) -> Self {
        let worker = Arc::clone(seated.worker());
        let receiver = Some(worker.expect_work(request));
        Self { worker, request, receiver }
    }

    /// Hands over the expectation.
    fn take(&mut self) -> Self {
        Self { worker: Arc::clone(&self.worker), request: self.request, receiver: self.receiver.take() }
    }

    /// Polls for the receipt. `None`: there will be none.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Work>> {
        match &mut self.receiver {
            Some(receiver) => Pin::new(receiver).poll(context).map(Result::ok),
            None => Poll::Ready(None),
        }
    }

    /// Waits for the receipt.
    pub(crate) async fn wait(mut self, longest: Duration) -> Option<Work> {
        let waiting = std::future::poll_fn(|context| self.poll(context));
        tokio::time::timeout(longest, waiting).await.ok().flatten()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        if self.receiver.is_some() {
            self.worker.forget_work(self.request);
        }
    }
}

/// What a request holds while its worker has it. When the client leaves in that time, the worker is still owed
/// its report, and the tenant its bill.
struct Leaving {
    id: RequestId,
    claim_us: u64,
    held: Option<(Admitted, Seated, Expected)>,
    late: Duration,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some((mut admitted, seated, work)) = self.held.take() else { return };
        tracing::debug!(request = %self.id, "the client left before its answer");
        let (claim_us, late) = (self.claim_us, self.late);
        tokio::spawn(async move {
            if let Some(work) = work.wait(late).await {
                relay::apply(&mut admitted.tab, &work, claim_us);
            }
            admitted.tab.note(|receipt| {
                receipt.error = Some("client_closed".into());
                receipt.fault = Some(Blame::Caller);
            });
            drop(seated);
        });
    }
}

/// Whether an answer is the worker's word that the guest failed. A guest cannot say this: its own
/// `x-gannet-` headers were removed in the worker.
fn is_fault(headers: &HeaderMap) -> bool {
    headers.contains_key(header::FAULT)
}

const START: HeaderName = HeaderName::from_static("x-gannet-start");
const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
const SERVICE_WORKER_ALLOWED: HeaderName = HeaderName::from_static("service-worker-allowed");

/// Rebuilds a guest's headers for the client: nothing of the connection, nothing that only we may
/// say, nothing that would let a page under this origin act for it.
fn finish_head(
    headers: &mut HeaderMap,
    source: &WorkSource,
    admitted: &Admitted,
    kind: StartKind,
    id: crate::names::RequestId,
) {
    let length = headers.get(names::CONTENT_LENGTH).cloned();
    strip_hop_by_hop(headers);
    // Kept for HEAD, where no body says it.
    if let Some(length) = length {
        headers.insert(names::CONTENT_LENGTH, length);
    }
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("x-gannet-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    for name in [
        ERROR_HEADER,
        names::SET_COOKIE,
        SERVICE_WORKER_ALLOWED,
        CLEAR_SITE_DATA,
        names::STRICT_TRANSPORT_SECURITY,
        SERVER_TIMING,
    ] {
        headers.remove(name);
    }
    headers.insert(names::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(names::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(START, HeaderValue::from_static(kind.as_str()));
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(REQUEST_ID_HEADER, value);
    }
    if let Ok(value) = HeaderValue::from_str(&admitted.tab.server_timing()) {
        headers.insert(SERVER_TIMING, value);
    }
    // A body of announced length has no trailer.
    if matches!(source, WorkSource::Frame(_)) && !headers.contains_key(names::CONTENT_LENGTH) {
        headers.insert(names::TRAILER, HeaderValue::from_static("server-timing"));
    }
}
