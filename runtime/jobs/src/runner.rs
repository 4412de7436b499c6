//! What runs an attempt: the front door in the server, a stand-in in tests.

use crate::job::{BatchId, Job, JobId, Millis};
use crate::outcome::Failure;
use crate::parts::OutputTooLarge;
use bytes::Bytes;
use futures::future::BoxFuture;
use gannet_base::bill::Receipt;
use gannet_base::log_line::LogLine;
use gannet_base::manifest::{JobSettings, Schedule};
use gannet_base::names::{FunctionName, RequestId, ScheduleName, TenantName};
use std::fmt::Debug;
use std::time::Duration;

/// Why a job waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JobWaitReason)]
pub enum WaitReason {
    /// All permits or GPUs are in use.
    Capacity,
    /// Its function is being loaded.
    Loading,
    /// Its function fails again and again.
    CrashLoop,
    /// A limit of the tenant is used up.
    Quota,
    /// The queue is paused, or the tenant suspended.
    Paused,
}

impl WaitReason {
    /// Whether more workers may help.
    pub(crate) fn is_about_room(self) -> bool {
        matches!(self, Self::Capacity | Self::Loading)
    }
}

/// Why no attempt may begin now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotNow {
    /// For this reason; ask again after this time.
    Wait(WaitReason, Duration),
    /// The function does not exist any more.
    Gone,
}

/// How a function's jobs run.
#[derive(Debug, Clone)]
pub struct FunctionJobs {
    /// The manifest's settings, within the tenant's limits.
    pub settings: JobSettings,
    /// How many run at once.
    pub concurrency: u64,
}

/// What a tenant's jobs may take.
#[derive(Debug, Clone, Copy)]
pub struct JobLimits {
    /// Jobs that wait or run (`jobs_queued`).
    pub queued: u64,
    /// Bytes of inputs and outputs that are kept (`jobs_mib`).
    pub bytes: u64,
}

/// The workers of a function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Workers {
    /// Those that have loaded it.
    pub loaded: u64,
    /// Those that are to come.
    pub missing: u64,
}

/// One attempt.
#[derive(Debug)]
pub struct Attempt {
    /// The job's id.
    pub job: JobId,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// The id of its request.
    pub request: RequestId,
    /// The job's input as JSON.
    pub input: Bytes,
    /// How long it may take.
    pub timeout: Duration,
    /// The path at which the function gets it. None: `/`.
    pub path: Option<String>,
    /// The schedule that made the job.
    pub schedule: Option<String>,
    /// The time of the schedule that it was made for.
    pub scheduled: Option<Millis>,
    /// The batch that the job is an item of.
    pub batch: Option<BatchId>,
}

/// Takes an answer as it arrives.
pub trait AnswerSink: Send + Sync {
    /// Waits until the record of the attempt is durable. The bill of the attempt is written after that: if the server
    /// ends before, the job runs again with the same number, and there is one bill with it.
    fn recorded(&self) -> BoxFuture<'static, ()>;
    /// The head of the answer has arrived.
    fn begin(&self, media_type: &str);
    /// A piece of its body has arrived.
    fn push(&self, piece: &[u8]) -> Result<(), OutputTooLarge>;
}

/// Runs attempts.
pub trait Runner: Send + Sync + Debug + 'static {
    /// What an attempt holds from its admission to its end.
    type Admission: Send + 'static;

    /// Returns how a function's jobs run. None if it does not exist.
    fn function(&self, tenant: &TenantName, function: &FunctionName) -> Option<FunctionJobs>;

    /// Whether requests of a function wait for a permit, as far as it can be told.
    fn do_requests_wait(&self, _tenant: &TenantName, _function: &FunctionName) -> bool {
        false
    }

    /// Whether a function is being loaded or its worker started, and no worker has it yet.
    fn is_loading(&self, _tenant: &TenantName, _function: &FunctionName) -> bool {
        false
    }

    /// Returns why a function's workers end or do not start, and for how long it waits because of that.
    fn crash_loop(&self, _tenant: &TenantName, _function: &FunctionName) -> Option<(String, Duration)> {
        None
    }

    /// Returns the workers of a function. None if they are not known.
    fn workers(&self, _tenant: &TenantName, _function: &FunctionName) -> Option<Workers> {
        None
    }

    /// Whether the disk has room for so many bytes more.
    fn has_room(&self, bytes: u64) -> bool;

    /// Returns the schedules in the manifests of all functions' current versions, but those of suspended tenants.
    fn schedules(&self) -> Vec<(TenantName, FunctionName, ScheduleName, Schedule)> {
        Vec::new()
    }

    /// Returns what the jobs of a tenant's schedules may take. None if it is suspended or does not exist.
    fn job_limits(&self, _tenant: &TenantName) -> Option<JobLimits> {
        None
    }

    /// Waits, for a bounded time, until an attempt may begin.
    fn admit(
        &self,
        tenant: TenantName,
        function: FunctionName,
        request: RequestId,
    ) -> BoxFuture<'static, Result<Self::Admission, NotNow>>;

    /// Runs an attempt. Returns the status of the function's answer, whose body the sink has. Dropping the future ends
    /// the attempt.
    fn run(
        &self,
        admission: Self::Admission,
        attempt: Attempt,
        sink: std::sync::Arc<dyn AnswerSink>,
    ) -> BoxFuture<'static, Result<u16, Failure>>;

    /// Returns the lines that an attempt has logged, as far as they have arrived.
    fn log(&self, _tenant: &TenantName, _function: &FunctionName, _request: RequestId) -> Vec<LogLine> {
        Vec::new()
    }

    /// Returns the receipt of an attempt that has ended.
    fn receipt(&self, request: RequestId) -> Option<Receipt>;

    /// Records a receipt, unless the ledger has it.
    fn bill(&self, receipt: Receipt);

    /// Waits until what was billed is on disk.
    fn bills_stored(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Records an attempt that a crash of the server ended, unless the ledger has it. It costs nothing.
    fn bill_lost(&self, job: &Job);
}
