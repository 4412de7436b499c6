//! Runpod's job API, under `/v2/{function}/`: its clients only change their base URL.
//!
//! ```text
//!  POST run, runsync?wait=ms      a job is accepted; runsync waits for its end
//!  GET  status/{id}, status-sync/{id}?wait=ms, stream/{id}
//!  POST cancel/{id}, retry/{id}, purge-queue, pause, resume
//!  GET  health, jobs?status&cursor&limit, jobs/{id}/logs
//!       schedules…                see `schedules`
//!       batches…                  see `batches`
//!       hooks…                    see `hooks`; what is posted to them: `inbound`
//!  GET  webhooks?status&cursor&limit; POST webhooks/{id}/redeliver; DELETE webhooks/{id}
//! ```
//!
//! The tenant is the key's, or for the operator the one in `x-gannet-tenant`. Refusals have the form `{"error": …}`
//! without a key `status`, because Runpod's clients would take that for the state of a job. The attempts themselves run
//! in [`runner`].

mod batches;
mod call;
mod changes;
mod error;
mod health;
mod hooks;
mod named_call;
pub mod inbound;
pub(crate) mod operations;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod operations_tests;
mod runner;
mod schedules;
pub(crate) mod schemas;
mod sender;
mod services;
mod submission;
mod webhooks;

pub use runner::DoorRunner;
pub(crate) use runner::has_room;
pub use sender::WebhookSender;
pub use services::JobServices;

use crate::access::AccessError;
use crate::respond::{ReplyStatus, json};
use crate::route::{self, calling_tenant, job_path};
use crate::whole_body::BodyBudget;
use call::{JobCall, query_number};
use error::JobApiError;
use gannet_api::LogLines;
use gannet_base::body::ResponseBody;
use gannet_base::identity::Caller;
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::refusal::Refusal;
use gannet_fleet::admitted::Target;
use gannet_fleet::inbound::{InboundRequest, RequestError, discard_refused};
use gannet_jobs::job::{JobId, State};
use gannet_jobs::service::{Jobs, StreamRead};
use gannet_jobs::view::StatusView;
use gannet_state::registry::Snapshot;
use health::Health;
use http::Response;
use serde::Serialize;
use std::time::{Duration, Instant};

/// The server's jobs.
pub type ServerJobs = Jobs<DoorRunner>;

/// How long `stream` waits for the next part. Below the 10 s after which clients give up.
const STREAM_WAIT: Duration = Duration::from_secs(3);
/// Jobs that one call for a list returns at most.
const LIST_MAX: u64 = 1_000;

/// A call of the job API on its way.
struct Asked<'a> {
    jobs: &'a ServerJobs,
    names: (TenantName, FunctionName),
    call: JobCall,
    query: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = JobAccepted)]
struct Changed {
    id: String,
    status: State,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = JobsPurged)]
struct Purged {
    removed: u64,
    status: &'static str,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = JobsPaused)]
struct Paused {
    paused: bool,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = JobsListed)]
struct Listed {
    jobs: Vec<StatusView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// The most bytes of an answer that cannot be repeated, but for one of `runsync`: the parts of a stream.
pub const USUAL_ANSWER_BYTES: u64 = 1 << 20;

/// Whether a call can be made again with the same answer.
pub fn is_repeatable(path: &str) -> bool {
    job_path(path).is_some_and(|asked| matches!(asked.call, "status" | "status-sync" | "jobs" | "health" | "webhooks"))
}

/// Serves a request of the job API and returns its response.
pub async fn answer(
    jobs: &ServerJobs,
    services: &JobServices<'_>,
    inbound: &mut InboundRequest,
    caller: &Caller,
    snapshot: &Snapshot,
) -> Result<Response<ResponseBody>, Refusal> {
    let path = inbound.parts.uri.path().to_owned();
    let asked = job_path(&path).ok_or(AccessError::NotFound)?;
    let tenant = calling_tenant(inbound, caller)?;
    if asked.call == "schedules" {
        return schedules::answer(jobs, services, inbound, (caller, &tenant, &asked), snapshot).await;
    }
    if asked.call == "hooks" {
        return hooks::answer(jobs, services, inbound, (caller, &tenant, &asked), snapshot).await;
    }
    let JobServices { admit, bodies, .. } = *services;
    let target = target_of(&tenant, asked.function, inbound, caller, snapshot).map_err(Refusal::from)?;
    if let Caller::Tenant(key) = caller {
        // A function that anybody may call has no jobs that anybody may read.
        route::check_key(key, &target.version.function)?;
    }
    if asked.call == "batches" {
        let call = batches::BatchCall::find(asked.rest, &inbound.parts.method)?;
        admit.check_rate(caller, inbound.client, &target, Instant::now())?;
        return batches::answer(jobs, bodies, inbound, &target, call).await;
    }
    let call = JobCall::find(&asked, &inbound.parts.method)?;
    if let (JobCall::Log(_), Caller::Tenant(key)) = (call, caller)
        && !key.record.scopes.read
    {
        return Err(AccessError::ScopeMissing { scope: "read" }.into());
    }
    admit.check_rate(caller, inbound.client, &target, Instant::now())?;
    let names = (target.version.tenant.clone(), target.version.function.clone());
    // It is set only here, so this cannot fail.
    let _ = inbound.served.set(names.clone());
    let query = inbound.parts.uri.query().map(str::to_owned);
    let asked = Asked { jobs, names, call, query };
    match call {
        JobCall::Pause(paused) => {
            let (jobs, names, of) = (jobs.clone(), asked.names.clone(), asked.names.0.clone());
            let change = async move { pause(&jobs, &names, paused).await };
            let action = call.operation().name();
            changes::audited(services, inbound, (caller, &of, action), change).await
        }
        JobCall::Run | JobCall::RunSync => submit(&asked, inbound, &target, bodies).await,
        _ => {
            // No other call needs its body; clients send `{}`, or nothing.
            if !http_body::Body::is_end_stream(&inbound.body) {
                discard_refused(&inbound.parts.headers, &mut inbound.body).await;
            }
            asked.serve().await
        }
    }
}

async fn pause(
    jobs: &ServerJobs,
    (tenant, function): &(TenantName, FunctionName),
    paused: bool,
) -> Result<Response<ResponseBody>, Refusal> {
    jobs.pause(tenant, Some(function), paused).await.map_err(JobApiError::from)?;
    Ok(json(ReplyStatus::Ok, &Paused { paused }))
}

fn target_of(
    tenant: &TenantName,
    function: &str,
    inbound: &InboundRequest,
    caller: &Caller,
    snapshot: &Snapshot,
) -> Result<Target, route::RouteError> {
    route::by_model((tenant.as_str(), function, None), "", inbound, caller, snapshot)
}

async fn submit(
    asked: &Asked<'_>,
    inbound: &mut InboundRequest,
    target: &Target,
    bodies: &BodyBudget,
) -> Result<Response<ResponseBody>, Refusal> {
    let sync = asked.call == JobCall::RunSync;
    let wait = if sync { query_number(asked.query.as_deref(), "wait", 1_000, 300_000, 90_000)? } else { 0 };
    let limit = if sync { submission::SYNC_BODY_BYTES_MAX } else { submission::BODY_BYTES_MAX };
    let until = tokio::time::Instant::now() + Duration::from_millis(wait);
    let key = submission::idempotency_key(&inbound.parts.headers)?;
    let body = crate::whole_body::collect(inbound, asked.names.0.clone(), bodies, limit).await?;
    let submission = submission::read(&body, asked.names.clone(), &target.tenant.limits, sync, key)?;
    drop(body);
    let submitted = asked.jobs.submit(submission).await.map_err(JobApiError::from)?;
    if !sync {
        return Ok(json(ReplyStatus::Ok, &Changed { id: submitted.id.to_string(), status: submitted.state }));
    }
    let view = asked.jobs.wait(&asked.names, submitted.id, until).await.map_err(JobApiError::from)?;
    Ok(if view.status.is_terminal() {
        json(ReplyStatus::Ok, &view)
    } else {
        json(ReplyStatus::Ok, &Changed { id: view.id, status: view.status })
    })
}

impl Asked<'_> {
    async fn serve(&self) -> Result<Response<ResponseBody>, Refusal> {
        let (jobs, names) = (self.jobs, &self.names);
        let store = JobApiError::from;
        Ok(match self.call {
            JobCall::Status(id) => json(ReplyStatus::Ok, &jobs.status(names, id).await.map_err(store)?),
            JobCall::StatusSync(id) => {
                let wait = query_number(self.query.as_deref(), "wait", 1_000, 300_000, 90_000)?;
                let until = tokio::time::Instant::now() + Duration::from_millis(wait);
                json(ReplyStatus::Ok, &jobs.wait(names, id, until).await.map_err(store)?)
            }
            JobCall::Stream(id) => {
                let until = tokio::time::Instant::now() + STREAM_WAIT;
                match jobs.stream(names, id, until).await.map_err(store)? {
                    StreamRead::Parts(parts) => json(ReplyStatus::Ok, &parts),
                    StreamRead::Over => return Err(JobApiError::StreamOver.into()),
                }
            }
            JobCall::Cancel(id) => {
                let status = jobs.cancel(names, id).await.map_err(store)?;
                json(ReplyStatus::Ok, &Changed { id: id.to_string(), status })
            }
            JobCall::Retry(id) => {
                let status = jobs.retry(names, id).await.map_err(store)?;
                json(ReplyStatus::Ok, &Changed { id: id.to_string(), status })
            }
            JobCall::Purge => {
                let removed = jobs.purge(names).await.map_err(store)?;
                json(ReplyStatus::Ok, &Purged { removed, status: "completed" })
            }
            JobCall::Health => json(ReplyStatus::Ok, &Health::of(jobs, names)),
            JobCall::List => self.list().await?,
            JobCall::Log(id) => {
                let lines = jobs.log(names, id).await.map_err(store)?;
                json(ReplyStatus::Ok, &LogLines { lines })
            }
            JobCall::Webhooks => webhooks::list(jobs, names, self.query.as_deref()).await?,
            JobCall::Redeliver(id) => webhooks::redeliver(jobs, names, id).await?,
            JobCall::DropWebhook(id) => webhooks::drop_one(jobs, names, id).await?,
            JobCall::Run | JobCall::RunSync | JobCall::Pause(_) => return Err(AccessError::NotFound.into()),
        })
    }

    async fn list(&self) -> Result<Response<ResponseBody>, Refusal> {
        let query = self.query.as_deref();
        let limit = query_number(query, "limit", 1, LIST_MAX, 100)?;
        let state = call::query_state(query)?;
        let after = call::query_cursor(query)?;
        let limit = usize::try_from(limit).unwrap_or(1);
        let (found, cursor) = self.jobs.list(&self.names, state, after, limit).await.map_err(JobApiError::from)?;
        let cursor = cursor.map(|id: JobId| id.to_string());
        Ok(json(ReplyStatus::Ok, &Listed { jobs: found, cursor }))
    }
}

impl From<RequestError> for JobApiError {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}
