//! Schedules of a function, under `/v2/{function}/schedules`.
//!
//! ```text
//!  GET    schedules              those of the manifest and those made here
//!  POST   schedules              makes one, with the keys of `[[schedule]]` as JSON, or changes one that was made here
//!  DELETE schedules/{name}       deletes one that was made here
//!  POST   schedules/{name}/run   makes its job now, once
//! ```
//!
//! To read them takes the scope `read` or `invoke`, to change or run them `deploy`.

use super::error::JobApiError;
use super::named_call::NamedCall;
use super::operations::JobOperation;
use super::{JobServices, ServerJobs, changes};
use crate::audit::AuditSubject;
use crate::respond::{ReplyStatus, json};
use crate::route::JobPath;
use crate::whole_body;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gannet_base::body::ResponseBody;
use gannet_base::identity::Caller;
use gannet_base::manifest::{Missed, Overlap, Schedule};
use gannet_base::names::{FunctionName, ScheduleName, TenantName};
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use gannet_fleet::inbound::{InboundRequest, discard_refused};
use gannet_jobs::job::{Millis, State};
use gannet_jobs::service::{ListedSchedule, ScheduleError, ScheduleSource};
use gannet_state::registry::Snapshot;
use http::Response;
use serde::Serialize;
use serde_json::Value;

/// The largest body of a schedule, in bytes: its input may be written with spaces.
const BODY_BYTES_MAX: u64 = 256 << 10;

/// The last part of the path of the call about one of them.
pub(super) const ACTION: &str = "run";

/// Returns the call's row in the table of all calls.
pub(super) fn operation(call: NamedCall<'_>) -> JobOperation {
    match call {
        NamedCall::List => JobOperation::ListSchedules,
        NamedCall::Make => JobOperation::MakeSchedule,
        NamedCall::Delete(_) => JobOperation::DeleteSchedule,
        NamedCall::Act(_) => JobOperation::RunSchedule,
    }
}

/// A schedule as clients see it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ScheduleShown)]
pub(super) struct ScheduleView {
    name: String,
    source: &'static str,
    cron: String,
    timezone: String,
    path: String,
    input: Value,
    missed: Missed,
    overlap: Overlap,
    /// When it fires next.
    next: Option<String>,
    /// The time for which it made its last job.
    last_fired: Option<String>,
    last_job: Option<String>,
    /// The last time for which it made none.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_skipped: Option<SkippedView>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ScheduleSkipped)]
pub(super) struct SkippedView {
    time: Option<String>,
    reason: &'static str,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = SchedulesListed)]
pub(super) struct Schedules {
    schedules: Vec<ScheduleView>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = JobsDeleted)]
pub(super) struct Deleted {
    deleted: String,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ScheduleStarted)]
pub(super) struct Started {
    id: String,
    status: State,
    schedule: String,
}

fn rfc3339(time: Millis) -> Option<String> {
    jiff::Timestamp::from_millisecond(time).ok().map(|time| time.to_string())
}

impl ScheduleView {
    fn new(listed: ListedSchedule) -> Self {
        let ListedSchedule { name, source, schedule, next, fired } = listed;
        let Schedule { cron, timezone, path, input, missed, overlap, .. } = schedule;
        let (last_fired, last_job, last_skipped) =
            fired.map_or((None, None, None), |fired| (fired.last_fired, fired.last_job, fired.last_skipped));
        Self {
            name: name.to_string(),
            source: match source {
                ScheduleSource::Manifest => "manifest",
                ScheduleSource::Api => "api",
            },
            cron,
            timezone,
            path,
            input,
            missed,
            overlap,
            next: next.and_then(rfc3339),
            last_fired: last_fired.and_then(rfc3339),
            last_job: last_job.map(|job| job.to_string()),
            last_skipped: last_skipped
                .map(|skipped| SkippedView { time: rfc3339(skipped.time), reason: skipped.reason.as_str() }),
        }
    }
}

/// Why a call failed.
#[derive(Debug)]
enum CallError {
    Schedule(ScheduleError),
    /// A name or the body is invalid.
    Invalid(String),
}

impl From<ScheduleError> for CallError {
    fn from(error: ScheduleError) -> Self {
        Self::Schedule(error)
    }
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        let error = match error {
            CallError::Invalid(why) => return JobApiError::Invalid(why).into(),
            CallError::Schedule(error) => error,
        };
        let caller = |kind, code| Self::new(kind, code, Blame::Caller, &error);
        match error {
            ScheduleError::NotFound { .. } => caller(RefusalKind::NotFound, "schedule_not_found")
                .hint("`gannet schedule list` shows the schedules of a function"),
            ScheduleError::InManifest { .. } => caller(RefusalKind::Conflict, "schedule_in_manifest").permanent(),
            ScheduleError::LimitReached { .. } => caller(RefusalKind::TooManyRequests, "tenant_limit")
                .retry_after(60)
                .hint("`gannet limits` shows the tenant's limits; the operator sets them")
                .permanent(),
            ScheduleError::Submit(error) => JobApiError::from(error).into(),
        }
    }
}

/// Serves a request to `/v2/{function}/schedules…`. `tenant` owns the function.
pub(super) async fn answer(
    jobs: &ServerJobs,
    services: &JobServices<'_>,
    inbound: &mut InboundRequest,
    (caller, tenant, path): (&Caller, &TenantName, &JobPath<'_>),
    snapshot: &Snapshot,
) -> Result<Response<ResponseBody>, Refusal> {
    let (names, owner) = changes::admit(services, inbound, (caller, tenant, path), snapshot)?;
    let call = NamedCall::find(path.rest, &inbound.parts.method, ACTION)?;
    let body = if call == NamedCall::Make {
        whole_body::collect(inbound, tenant.clone(), services.bodies, BODY_BYTES_MAX).await?
    } else {
        if !http_body::Body::is_end_stream(&inbound.body) {
            discard_refused(&inbound.parts.headers, &mut inbound.body).await;
        }
        Bytes::new()
    };
    let (jobs, limit) = (jobs.clone(), owner.limits.schedules);
    let action = operation(call).name();
    let change: BoxFuture<'static, Result<Response<ResponseBody>, CallError>> = match call {
        NamedCall::List => return Ok(list(&jobs, &names).await?),
        NamedCall::Make => async move { make(&jobs, &names, &body, limit).await }.boxed(),
        NamedCall::Delete(name) => {
            let name = named(name)?;
            async move { delete(&jobs, &names, &name).await }.boxed()
        }
        NamedCall::Act(name) => {
            let name = named(name)?;
            async move { run(&jobs, &names, &name).await }.boxed()
        }
    };
    let change = change.map(|changed| changed.map_err(Refusal::from));
    changes::audited(services, inbound, (caller, tenant, action), change).await
}

async fn make(
    jobs: &ServerJobs,
    names: &(TenantName, FunctionName),
    body: &[u8],
    limit: u64,
) -> Result<Response<ResponseBody>, CallError> {
    let (name, schedule) = read(body)?;
    let made = jobs.make_schedule(names, &name, schedule, limit).await?;
    let view = ScheduleView::new(made);
    let subject = format!("{}: {} {}", view.name, view.cron, view.timezone);
    Ok(AuditSubject::of(subject, json(ReplyStatus::Ok, &view)))
}

/// Reads and checks the body of a schedule.
fn read(body: &[u8]) -> Result<(ScheduleName, Schedule), CallError> {
    let schedule: Schedule = serde_json::from_slice(body)
        .map_err(|error| CallError::Invalid(format!("the body is no JSON object of a schedule: {error}")))?;
    let name = schedule.name.clone().ok_or_else(|| CallError::Invalid("the body has no `name`".into()))?;
    schedule.check(jiff::Timestamp::now()).map_err(|error| CallError::Invalid(error.to_string()))?;
    Ok((name, schedule))
}

/// Reads the name of a schedule. No schedule can have an invalid name, so such a name is not found.
fn named(name: &str) -> Result<ScheduleName, CallError> {
    let cut: String = name.chars().take(64).collect();
    ScheduleName::new(name).map_err(|_| ScheduleError::NotFound { name: cut }.into())
}

async fn list(jobs: &ServerJobs, names: &(TenantName, FunctionName)) -> Result<Response<ResponseBody>, CallError> {
    let schedules = jobs.schedules(names).await?.into_iter().map(ScheduleView::new).collect();
    Ok(json(ReplyStatus::Ok, &Schedules { schedules }))
}

async fn delete(
    jobs: &ServerJobs,
    names: &(TenantName, FunctionName),
    name: &ScheduleName,
) -> Result<Response<ResponseBody>, CallError> {
    jobs.delete_schedule(names, name).await?;
    Ok(json(ReplyStatus::Ok, &Deleted { deleted: name.to_string() }))
}

async fn run(
    jobs: &ServerJobs,
    names: &(TenantName, FunctionName),
    name: &ScheduleName,
) -> Result<Response<ResponseBody>, CallError> {
    let started = jobs.run_schedule(names, name).await?;
    let (id, status) = (started.id.to_string(), started.state);
    let response = json(ReplyStatus::Ok, &Started { id: id.clone(), status, schedule: name.to_string() });
    Ok(AuditSubject::of(format!("job {id}"), response))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_schedule_with_a_name_and_a_pattern_that_fires() {
        let told = |body: &str| match read(body.as_bytes()) {
            Ok((name, _)) => name.to_string(),
            Err(CallError::Invalid(why)) => why,
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(told(r#"{"name": "nightly", "cron": "@daily", "input": [1]}"#), "nightly");
        for (body, part) in [
            ("[]", "the body is no JSON object"),
            (r#"{"cron": "@daily"}"#, "no `name`"),
            (r#"{"name": "a", "cron": "0 0 31 2 *"}"#, "\"0 0 31 2 *\" does not fire within 5 years"),
            (r#"{"name": "a", "cron": "@daily", "zone": "UTC"}"#, "unknown field `zone`"),
            (r#"{"name": "A", "cron": "@daily"}"#, "schedule name \"A\""),
        ] {
            assert!(told(body).contains(part), "{}", told(body));
        }
    }
}
