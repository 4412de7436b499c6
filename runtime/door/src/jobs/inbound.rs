//! `POST /hooks/{tenant}/{function}/{name}/{token}`: what others post to a hook. The URL is the capability, so it needs
//! no key. What does not exist, what was deleted and a wrong token give the same answer.
//!
//! The answer is 202 `{"id", "status"}`, after the job is synced. The URL is in no log: the access log has no paths.

use super::error::JobApiError;
use super::submission::{BODY_BYTES_MAX, job_limits};
use super::{JobServices, ServerJobs, changes};
use crate::access::AccessError;
use crate::respond::{ReplyStatus, json};
use crate::route::HookPath;
use crate::whole_body;
use gannet_base::body::ResponseBody;
use gannet_base::names::{FunctionName, HookName, TenantName};
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use gannet_fleet::admitted::Target;
use gannet_fleet::inbound::{InboundRequest, discard_refused};
use gannet_jobs::hook::event::Event;
use gannet_jobs::hook::headers::Headers;
use gannet_jobs::hook::signed::Unverified;
use gannet_jobs::job::State;
use gannet_jobs::service::{OpenHook, ReceiveError, Received, SubmitError};
use gannet_state::registry::Snapshot;
use http::{HeaderMap, Method, Response};
use serde::Serialize;
use std::time::Instant;

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = EventAccepted)]
pub(super) struct Accepted {
    id: String,
    /// Missing if the delivery is known and its job's result is not kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<State>,
}

fn not_found() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "hook_not_found", Blame::Caller, "there is no such hook")
        .hint("the URL of a hook is shown when it is made or rotated, and the one before is valid for a day")
}

fn refusal(error: ReceiveError) -> Refusal {
    match error {
        ReceiveError::Unverified(error) => {
            let code = match &error {
                Unverified::Timestamp { .. } => "timestamp_invalid",
                Unverified::Header(_) | Unverified::Signature(_) => "signature_invalid",
            };
            Refusal::new(RefusalKind::Unauthenticated, code, Blame::Caller, &error)
        }
        ReceiveError::Invalid(why) => JobApiError::Invalid(why).into(),
        ReceiveError::Submit(error @ SubmitError::OtherBody { .. }) => {
            let error = format!("{error}: the delivery's id must be another one for another body");
            Refusal::new(RefusalKind::Conflict, "delivery_id_reused", Blame::Caller, error).permanent()
        }
        ReceiveError::Submit(SubmitError::NoFunction) => not_found(),
        ReceiveError::Submit(error) => JobApiError::from(error).into(),
    }
}

/// Collects the headers of a delivery.
fn headers(all: &HeaderMap) -> Headers {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Headers::new(all.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))))
}

/// Finds the hook of a path, and what it is for.
async fn find(
    jobs: &ServerJobs,
    path: &HookPath<'_>,
    snapshot: &Snapshot,
) -> Result<Option<(OpenHook, Target)>, JobApiError> {
    let names = (TenantName::new(path.tenant), FunctionName::new(path.function), HookName::new(path.name));
    let (Ok(tenant), Ok(function), Ok(name)) = names else { return Ok(None) };
    let Some(hook) = jobs.open_hook((&tenant, &function), &name, path.token).await? else { return Ok(None) };
    let target = snapshot.tenants.get(&tenant).and_then(|owner| changes::target_of(owner, path.function));
    Ok(Some(hook).zip(target))
}

/// Serves a request to a hook.
pub async fn answer(
    jobs: &ServerJobs,
    services: &JobServices<'_>,
    inbound: &mut InboundRequest,
    snapshot: &Snapshot,
) -> Result<Response<ResponseBody>, Refusal> {
    if inbound.parts.method != Method::POST {
        let method = inbound.parts.method.to_string();
        return Err(AccessError::MethodNotAllowed { method, allowed: "POST".into() }.into());
    }
    let path = inbound.parts.uri.path().to_owned();
    let found = match crate::route::hook_path(&path) {
        Some(path) => find(jobs, &path, snapshot).await?,
        None => None,
    };
    let Some((hook, target)) = found else {
        discard_refused(&inbound.parts.headers, &mut inbound.body).await;
        services.admit.check_wrong_key(inbound.client, Instant::now())?;
        return Err(not_found());
    };
    let names = (target.version.tenant.clone(), target.version.function.clone());
    // It is set only here, so this cannot fail.
    let _ = inbound.served.set(names.clone());
    let refused = if target.tenant.record.suspended {
        Some(AccessError::Suspended.into())
    } else {
        services.admit.check_hook_rate(&target, Instant::now()).err().map(Refusal::from)
    };
    if let Some(refused) = refused {
        discard_refused(&inbound.parts.headers, &mut inbound.body).await;
        return Err(refused);
    }
    let body = whole_body::collect(inbound, names.0, services.bodies, BODY_BYTES_MAX).await?;
    let query = inbound.parts.uri.query().unwrap_or_default();
    let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let event = Event { headers: headers(&inbound.parts.headers), query, body };
    let limits = job_limits(&target.tenant.limits);
    let Received { id, state } = jobs.receive(&hook, &event, limits).await.map_err(refusal)?;
    Ok(json(ReplyStatus::Accepted, &Accepted { id: id.to_string(), status: state }))
}
