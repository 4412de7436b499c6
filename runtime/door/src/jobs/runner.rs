//! Runs attempts of jobs, on the path that requests take: admission, pool, worker, and a line of the ledger.
//!
//! ```text
//!  admission (`Admit::admit_job`) ─▶ POST / with {"id", "input"} ─▶ the answer, whole
//!    reserve, permits: the version's,  pool, worker, GPU              tab closed: receipt
//!    one of the jobs' share, the server's
//! ```

use crate::admit::Admit;
use crate::respond::close_failed;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gannet_base::bill::price::Price;
use gannet_base::bill::{LedgerLine, Receipt};
use gannet_base::hop::RequestCaps;
use gannet_base::log_line::LogLine;
use gannet_base::manifest::Schedule;
use gannet_base::manifest::schedule::named;
use gannet_base::names::{FunctionName, RequestId, ScheduleName, TenantName};
use gannet_base::quota::permits::{ServerPermit, ServerPermits};
use gannet_base::refusal::{Blame, MEMORY_LIMIT, Refusal};
use gannet_fleet::admitted::{AddressingStyle, Admitted, Target};
use gannet_fleet::inbound::{FunctionBody, FunctionRequest, JobAttempt};
use gannet_fleet::logs::Logs;
use gannet_fleet::pool::Pool;
use gannet_jobs::job::Job;
use gannet_jobs::outcome::{Condition, Failure, condition_of};
use gannet_jobs::parts::OUTPUT_BYTES_MAX;
use gannet_jobs::runner::{AnswerSink, Attempt, FunctionJobs, NotNow, Runner, WaitReason, Workers};
use gannet_jobs::service::JobLimits;
use gannet_state::config::LiveConfig;
use gannet_state::ledger::Ledger;
use gannet_state::registry::{Registry, Version};
use gannet_state::store::space;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::BodyExt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one call for permits waits.
const ADMIT_WAIT: Duration = Duration::from_secs(30);
/// How long a start waits for the bills of interrupted attempts.
const BILLS_MAX: Duration = Duration::from_secs(10);
/// How often the bill of a failed attempt is looked for, and how long after each look.
const BILL_LOOKS: u32 = 200;
const BILL_LOOK: Duration = Duration::from_millis(5);
/// How much longer than its own timeout an attempt may take, so that the worker tells first.
const TIMEOUT_GRACE: Duration = Duration::from_secs(5);

/// Runs attempts; see the module.
#[derive(Debug)]
pub struct DoorRunner {
    admit: Arc<Admit>,
    pool: Pool,
    registry: Arc<Registry>,
    ledger: Arc<Ledger>,
    /// What jobs may take of the server's permits.
    share: Arc<ServerPermits>,
    logs: Arc<Logs>,
    live: LiveConfig,
}

/// What an attempt holds.
#[derive(Debug)]
pub struct Admission {
    target: Target,
    admitted: Admitted,
    _share: ServerPermit,
}

impl DoorRunner {
    /// Creates the runner. Jobs may take three quarters of the server's permits.
    pub fn new(
        admit: Arc<Admit>,
        pool: Pool,
        registry: Arc<Registry>,
        ledger: Arc<Ledger>,
        logs: Arc<Logs>,
        live: LiveConfig,
    ) -> Self {
        // A function has one waiter at most, so their number needs no limit.
        let share = ServerPermits::new((live.load().requests_max * 3 / 4).max(1), usize::MAX);
        Self { admit, pool, registry, ledger, share, logs, live }
    }

    fn current(&self, tenant: &TenantName, function: &FunctionName) -> Option<Arc<Version>> {
        let snapshot = self.registry.snapshot();
        snapshot.function(tenant.as_str(), function.as_str()).map(|function| Arc::clone(&function.current))
    }

    fn target(&self, tenant: &TenantName, function: &FunctionName, request: RequestId) -> Result<Target, NotNow> {
        let snapshot = self.registry.snapshot();
        let tenant = snapshot.tenants.get(tenant).ok_or(NotNow::Gone)?;
        let function = tenant.functions.get(function).ok_or(NotNow::Gone)?;
        if tenant.record.suspended {
            return Err(NotNow::Wait(WaitReason::Paused, ADMIT_WAIT));
        }
        // A version that must wait would only refuse the attempt, so the current one runs it.
        let chosen = function.choose(&HeaderMap::new(), request);
        let version = Arc::clone(if self.pool.must_wait(chosen) { &function.current } else { chosen });
        Ok(Target {
            tenant: Arc::clone(tenant),
            function: Arc::clone(function),
            version,
            path: PathAndQuery::from_static("/"),
            prefix: None,
            style: AddressingStyle::Path,
        })
    }
}

/// Whether the disk has room for so many bytes more, above its reserve.
pub(crate) fn has_room(registry: &Registry, live: &LiveConfig, bytes: u64) -> bool {
    let reserve = live.load().disk_reserve_mib << 20;
    // If it cannot be told, the write tells.
    space::free(registry.store().files().data()).map_or(true, |free| free >= reserve.saturating_add(bytes))
}

/// Returns for how long and why an attempt must wait that was not admitted.
fn not_now(refusal: &Refusal) -> NotNow {
    match refusal.code {
        "spend_limit" => NotNow::Wait(WaitReason::Quota, Duration::from_secs(30)),
        "tenant_limit" => NotNow::Wait(WaitReason::Quota, Duration::from_millis(500)),
        _ => NotNow::Wait(WaitReason::Capacity, Duration::from_millis(200)),
    }
}

fn failure(refusal: &Refusal) -> Failure {
    let is_platform = refusal.blame == Blame::Platform;
    Failure {
        condition: condition_of(refusal.code, is_platform, refusal.is_out_of_memory),
        code: refusal.code.to_owned(),
        message: refusal.public.clone(),
        is_permanent: false,
    }
}

fn is_suspended(registry: &Registry, tenant: &TenantName) -> bool {
    registry.snapshot().tenants.get(tenant).is_some_and(|tenant| tenant.record.suspended)
}

/// The workers of a suspended tenant are ended. Its jobs wait until it is resumed.
fn not_begun(failure: Failure) -> Failure {
    match failure.condition {
        Condition::Killed => Failure { condition: Condition::NotBegun, code: "tenant_suspended".into(), ..failure },
        _ => failure,
    }
}

/// Returns the failure of an answer that broke off, as its receipt tells it.
fn broken_off(receipt: Option<Receipt>, error: &dyn std::fmt::Display) -> Failure {
    let code = receipt.as_ref().and_then(|receipt| receipt.error.clone());
    let is_platform = receipt.as_ref().is_some_and(|receipt| receipt.fault == Some(Blame::Platform));
    let code = code.unwrap_or_else(|| "response_broken_off".into());
    let is_out_of_memory = receipt.as_ref().is_some_and(|receipt| receipt.reached.as_deref() == Some(MEMORY_LIMIT));
    let message = receipt.and_then(|receipt| receipt.error_detail).unwrap_or_else(|| error.to_string());
    Failure { condition: condition_of(&code, is_platform, is_out_of_memory), code, message, is_permanent: false }
}

/// Returns the request that a function gets for an attempt.
fn request(attempt: &Attempt, caps: RequestCaps) -> Result<FunctionRequest, http::Error> {
    let mut body = format!("{{\"id\":\"{}\",\"input\":", attempt.job).into_bytes();
    body.extend_from_slice(&attempt.input);
    if let Some((schedule, time)) = attempt.schedule.as_deref().zip(attempt.scheduled) {
        // The name of a schedule needs no escapes.
        let time = jiff::Timestamp::from_millisecond(time).unwrap_or_default();
        body.extend_from_slice(format!(",\"schedule\":\"{schedule}\",\"time\":\"{time}\"").as_bytes());
    }
    body.push(b'}');
    let head = Request::builder()
        .method(Method::POST)
        .uri(attempt.path.as_deref().unwrap_or("/"))
        .header(CONTENT_TYPE, "application/json")
        .header(HOST, HeaderValue::from_static("localhost"));
    let (parts, ()) = head.body(())?.into_parts();
    Ok(FunctionRequest {
        id: attempt.request,
        arrived: Instant::now(),
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        https: false,
        parts,
        body: FunctionBody::Whole(Bytes::from(body)),
        caps: Some(caps),
        job: Some(JobAttempt { id: attempt.job.to_string(), number: attempt.number }),
        call: None,
    })
}

impl Runner for DoorRunner {
    type Admission = Admission;

    fn function(&self, tenant: &TenantName, function: &FunctionName) -> Option<FunctionJobs> {
        let snapshot = self.registry.snapshot();
        let tenant = snapshot.tenants.get(tenant)?;
        let version = &tenant.functions.get(function)?.current;
        let settings = version.jobs.clone();
        let concurrency = settings.concurrency(&version.limits);
        Some(FunctionJobs { settings, concurrency })
    }

    fn do_requests_wait(&self, tenant: &TenantName, function: &FunctionName) -> bool {
        let snapshot = self.registry.snapshot();
        let function = snapshot.tenants.get(tenant).and_then(|tenant| tenant.functions.get(function));
        // A request comes at any time: one permit stays free for it.
        function.is_some_and(|function| function.current.permits.are_all_taken())
    }

    fn is_loading(&self, tenant: &TenantName, function: &FunctionName) -> bool {
        self.current(tenant, function).is_some_and(|version| self.pool.is_loading(&version))
    }

    fn crash_loop(&self, tenant: &TenantName, function: &FunctionName) -> Option<(String, Duration)> {
        self.current(tenant, function).and_then(|version| self.pool.crash_loop(&version))
    }

    fn workers(&self, tenant: &TenantName, function: &FunctionName) -> Option<Workers> {
        let version = self.current(tenant, function)?;
        let workers = self.pool.workers_of(&version);
        let (loaded, wanted) = (workers.now as u64, workers.wanted as u64);
        Some(Workers { loaded, missing: wanted.saturating_sub(loaded) })
    }

    fn schedules(&self) -> Vec<(TenantName, FunctionName, ScheduleName, Schedule)> {
        let snapshot = self.registry.snapshot();
        let active = snapshot.tenants.iter().filter(|(_, tenant)| !tenant.record.suspended);
        let functions =
            active.flat_map(|(name, tenant)| tenant.functions.values().map(move |function| (name, function)));
        let all = functions.flat_map(|(tenant, function)| {
            let schedules = named(&function.current.manifest().schedule);
            schedules.map(move |(name, schedule)| (tenant.clone(), function.name.clone(), name, schedule.clone()))
        });
        all.collect()
    }

    fn job_limits(&self, tenant: &TenantName) -> Option<JobLimits> {
        let snapshot = self.registry.snapshot();
        let tenant = snapshot.tenants.get(tenant).filter(|tenant| !tenant.record.suspended)?;
        Some(JobLimits { queued: tenant.limits.jobs_queued, bytes: tenant.limits.jobs_mib << 20 })
    }

    fn has_room(&self, bytes: u64) -> bool {
        has_room(&self.registry, &self.live, bytes)
    }

    fn admit(
        &self,
        tenant: TenantName,
        function: FunctionName,
        request: RequestId,
    ) -> BoxFuture<'static, Result<Admission, NotNow>> {
        let target = self.target(&tenant, &function, request);
        let (share, admit) = (Arc::clone(&self.share), Arc::clone(&self.admit));
        let pool = self.pool.clone();
        async move {
            let target = target?;
            // An attempt now would be refused, and would count.
            if let Some((_, wait)) = pool.crash_loop(&target.version).filter(|(_, wait)| !wait.is_zero()) {
                return Err(NotNow::Wait(WaitReason::CrashLoop, wait));
            }
            let until = tokio::time::Instant::now() + ADMIT_WAIT;
            let admitted = admit.admit_job(&target, request, until, &share).await;
            let (admitted, _share) = admitted.map_err(|refusal| not_now(&refusal))?;
            Ok(Admission { target, admitted, _share })
        }
        .boxed()
    }

    fn run(
        &self,
        admission: Admission,
        attempt: Attempt,
        sink: Arc<dyn AnswerSink>,
    ) -> BoxFuture<'static, Result<u16, Failure>> {
        let (pool, ledger, registry) = (self.pool.clone(), Arc::clone(&self.ledger), Arc::clone(&self.registry));
        async move {
            let Admission { mut target, mut admitted, _share } = admission;
            let attempt_request = attempt.request;
            admitted.tab.update_receipt(|receipt| {
                receipt.job = Some(attempt.job.to_string());
                receipt.attempt = Some(attempt.number);
                receipt.schedule.clone_from(&attempt.schedule);
                receipt.batch = attempt.batch.map(|batch| batch.to_string());
            });
            if let Some(path) = &attempt.path {
                // It was checked with the schedule.
                target.path = PathAndQuery::try_from(path.as_str()).unwrap_or_else(|_| PathAndQuery::from_static("/"));
            }
            let timeout_ms = u64::try_from(attempt.timeout.as_millis()).unwrap_or(u64::MAX);
            let caps = RequestCaps { timeout_ms, ..target.version.jobs.caps() };
            let request = request(&attempt, caps).map_err(|error| Failure {
                condition: Condition::Platform,
                code: "internal".into(),
                message: error.to_string(),
                is_permanent: true,
            })?;
            let tenant = target.version.tenant.clone();
            let running = answer(&pool, &ledger, request, (target, admitted), &*sink);
            let ended = tokio::time::timeout(attempt.timeout + TIMEOUT_GRACE, running).await.unwrap_or_else(|_| {
                Err(Failure {
                    condition: Condition::Timeout,
                    code: "deadline_exceeded".into(),
                    message: format!("the attempt had not ended after {timeout_ms} ms"),
                    is_permanent: false,
                })
            });
            if !matches!(ended, Ok(200..300)) {
                wait_for_bill(&ledger, attempt_request).await;
            }
            ended.map_err(|failure| if is_suspended(&registry, &tenant) { not_begun(failure) } else { failure })
        }
        .boxed()
    }

    fn log(&self, tenant: &TenantName, function: &FunctionName, request: RequestId) -> Vec<LogLine> {
        self.logs.of_request(tenant, function, request)
    }

    fn receipt(&self, request: RequestId) -> Option<Receipt> {
        self.ledger.get(request).map(|(receipt, _)| receipt)
    }

    fn bill(&self, receipt: Receipt) {
        if self.ledger.get(receipt.request).is_none() {
            self.ledger.write(LedgerLine::Request(Box::new(receipt)));
        }
    }

    fn bills_stored(&self) -> BoxFuture<'static, ()> {
        let ledger = Arc::clone(&self.ledger);
        // If it fails, the ledger is behind, and admission refuses what would be billed.
        async move { drop(tokio::task::spawn_blocking(move || ledger.flush(BILLS_MAX)).await) }.boxed()
    }

    fn bill_lost(&self, job: &Job) {
        let Some(request) = job.request else { return };
        if self.ledger.get(request).is_some() {
            return;
        }
        let snapshot = self.registry.snapshot();
        let function = snapshot.tenants.get(&job.tenant).and_then(|tenant| tenant.functions.get(&job.function));
        let version = function.map_or(0, |function| function.current.record.number);
        let mut receipt = Receipt::open(request, job.tenant.clone(), job.function.clone(), version, Price::default());
        receipt.job = Some(job.id.to_string());
        receipt.attempt = Some(job.attempt);
        receipt.schedule.clone_from(&job.schedule);
        receipt.batch = job.batch.map(|item| item.id.to_string());
        receipt.error = Some("server_restarted".into());
        receipt.error_detail = Some("the server ended while the attempt ran".into());
        receipt.fault = Some(Blame::Platform);
        self.ledger.write(LedgerLine::Request(Box::new(receipt)));
    }
}

/// Waits until the bill of an attempt that failed is on disk. The record of the job names its latest attempt only: if the
/// next one began before and the server ended, this one would have no bill.
async fn wait_for_bill(ledger: &Ledger, request: RequestId) {
    for _ in 0..BILL_LOOKS {
        if ledger.get(request).is_some_and(|(_, is_on_disk)| is_on_disk) {
            return;
        }
        tokio::time::sleep(BILL_LOOK).await;
    }
    tracing::warn!(%request, "the bill of an attempt is late");
}

/// Calls the function and passes its answer to the sink. Returns the answer's status.
async fn answer(
    pool: &Pool,
    ledger: &Ledger,
    request: FunctionRequest,
    (target, admitted): (Target, Admitted),
    sink: &dyn AnswerSink,
) -> Result<u16, Failure> {
    let id = request.id;
    let called = pool.call(request, target, admitted).await;
    // The bill is written with the end of the body, or here.
    sink.recorded().await;
    let response = called.map_err(|failed| failure(&close_failed(*failed)))?;
    let (head, mut body) = response.into_parts();
    let media_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    sink.begin(media_type);
    while let Some(frame) = body.frame().await {
        let data = match frame {
            Ok(frame) => frame.into_data(),
            Err(error) => {
                drop(body);
                return Err(broken_off(ledger.get(id).map(|(receipt, _)| receipt), &error));
            }
        };
        if let Ok(data) = data
            && sink.push(&data).is_err()
        {
            return Err(Failure {
                condition: Condition::Error,
                code: "output_too_large".into(),
                message: format!("the output is larger than {OUTPUT_BYTES_MAX} bytes"),
                is_permanent: true,
            });
        }
    }
    Ok(head.status.as_u16())
}
