//! What clients see of a job: the bodies of Runpod's API.

use crate::job::{Job, State};
use crate::runner::WaitReason;
use serde::Serialize;
use serde_json::value::RawValue;

/// A job as `status` shows it. It has no `workerId`, which Runpod's has: a worker serves many jobs at once, and clients
/// have no name for it. The receipt of `request_id` tells where the attempt ran.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JobStatus)]
pub struct StatusView {
    /// The job's id.
    pub id: String,
    /// Its state.
    pub status: State,
    /// Milliseconds that it waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_time: Option<u64>,
    /// Milliseconds that its latest attempt ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_time: Option<u64>,
    /// Its output, or its progress while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub output: Option<Box<RawValue>>,
    /// Why its latest attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The stable code of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_reason: Option<WaitReason>,
    /// Number of its latest attempt.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// The schedule that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The request of its latest attempt: the id of its receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl StatusView {
    /// Describes a job, with its output if it has one.
    pub fn new(job: &Job, output: Option<Box<RawValue>>, wait_reason: Option<WaitReason>) -> Self {
        let waits = job.state == State::InQueue;
        Self {
            id: job.id.to_string(),
            status: job.state,
            delay_time: job.delay_ms(),
            execution_time: job.execution_ms(),
            output,
            error: job.error.clone(),
            error_code: job.error_code.clone(),
            wait_reason: wait_reason.filter(|_| waits),
            attempt: job.attempt,
            schedule: job.schedule.clone(),
            request_id: job.request.map(|request| request.to_string()),
        }
    }
}

/// Returns why a queued job waits, as far as its own record tells: its last attempt failed.
pub fn own_wait_reason(job: &Job) -> Option<WaitReason> {
    match job.error_code.as_deref()? {
        "spend_limit" | "tenant_limit" => Some(WaitReason::Quota),
        "no_capacity" | "draining" => Some(WaitReason::Capacity),
        "function_backing_off" | "secret_missing" | "component_refused" => Some(WaitReason::CrashLoop),
        _ => (job.failures >= 3 || job.start_failures >= 3).then_some(WaitReason::CrashLoop),
    }
}

/// The parts of a stream since the last call.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = JobStream)]
pub struct StreamView {
    /// The job's state.
    pub status: State,
    /// The parts.
    pub stream: Vec<StreamPart>,
}

/// One part of a stream.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = JobStreamPart)]
pub struct StreamPart {
    /// Its value.
    #[schema(value_type = serde_json::Value)]
    pub output: Box<RawValue>,
}

/// Counts of a function's jobs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobCounts {
    /// Completed, of those whose results are kept.
    pub completed: u64,
    /// Failed or timed out, of those whose results are kept.
    pub failed: u64,
    /// Running.
    pub in_progress: u64,
    /// Waiting.
    pub in_queue: u64,
    /// Attempts after the first, since the server started.
    pub retried: u64,
}
