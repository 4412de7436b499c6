//! Hooks of a function, under `/v2/{function}/hooks`: the URLs at which others post events without a key.
//!
//! ```text
//!  GET    hooks                those that there are, without their URLs
//!  POST   hooks                makes one: its URL and, if one was made, its secret are in this answer only
//!  POST   hooks/{name}/rotate  another URL; with {"secret": true} or {"secret": TEXT} another secret instead
//!  DELETE hooks/{name}
//! ```
//!
//! Who may do that: see [`super::changes`].

use super::error::JobApiError;
use super::named_call::NamedCall;
use super::operations::JobOperation;
use super::submission::check_webhook;
use super::{JobServices, ServerJobs, changes};
use crate::access::AccessError;
use crate::audit::AuditSubject;
use crate::respond::{ReplyStatus, json};
use crate::route::{JobPath, hook_url};
use crate::whole_body;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gannet_base::body::ResponseBody;
use gannet_base::identity::Caller;
use gannet_base::names::{FunctionName, HookName, TenantName};
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use gannet_fleet::inbound::{InboundRequest, discard_refused};
use gannet_jobs::hook::record::NewHook;
use gannet_jobs::service::{HookError, HookView, MadeHook, Replaced};
use gannet_state::registry::Snapshot;
use http::Response;
use serde::{Deserialize, Serialize};

/// The largest body, in bytes.
const BODY_BYTES_MAX: u64 = 16 << 10;

type Names = (TenantName, FunctionName);

/// The last part of the path of the call about one of them.
pub(super) const ACTION: &str = "rotate";

/// Returns the call's row in the table of all calls.
pub(super) fn operation(call: NamedCall<'_>) -> JobOperation {
    match call {
        NamedCall::List => JobOperation::ListHooks,
        NamedCall::Make => JobOperation::MakeHook,
        NamedCall::Delete(_) => JobOperation::DeleteHook,
        NamedCall::Act(_) => JobOperation::RotateHook,
    }
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = HooksListed)]
pub(super) struct Listed {
    hooks: Vec<HookView>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = HookMade)]
pub(super) struct Made {
    #[serde(flatten)]
    hook: HookView,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

#[derive(Debug, Serialize)]
struct Deleted {
    deleted: String,
}

/// The body of `rotate`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    secret: Option<NewSecret>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum NewSecret {
    Make(bool),
    Text(String),
}

/// Why a call failed.
#[derive(Debug)]
enum CallError {
    Hook(HookError),
    /// A name or the body is invalid.
    Invalid(String),
}

impl From<HookError> for CallError {
    fn from(error: HookError) -> Self {
        Self::Hook(error)
    }
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        let error = match error {
            CallError::Invalid(why) => return JobApiError::Invalid(why).into(),
            CallError::Hook(HookError::Secret(why)) => return JobApiError::Invalid(why).into(),
            CallError::Hook(error) => error,
        };
        let caller = |kind, code| Self::new(kind, code, Blame::Caller, &error);
        match error {
            HookError::NoFunction => AccessError::NotFound.into(),
            HookError::NotFound { .. } => {
                caller(RefusalKind::NotFound, "hook_not_found").hint("`gannet hook list` shows the hooks of a function")
            }
            HookError::Exists { .. } => caller(RefusalKind::Conflict, "hook_exists")
                .hint("`rotate` makes another URL; to change anything else, delete the hook first")
                .permanent(),
            HookError::LimitReached { .. } => caller(RefusalKind::TooManyRequests, "tenant_limit")
                .retry_after(60)
                .hint("`gannet limits` shows the tenant's limits; the operator sets them")
                .permanent(),
            HookError::Full => JobApiError::from(gannet_jobs::service::SubmitError::Full).into(),
            HookError::Store(error) => JobApiError::from(error).into(),
            HookError::Secret(why) => JobApiError::Invalid(why).into(),
        }
    }
}

/// Serves a request to `/v2/{function}/hooks…`. `tenant` owns the function.
pub(super) async fn answer(
    jobs: &ServerJobs,
    services: &JobServices<'_>,
    inbound: &mut InboundRequest,
    (caller, tenant, path): (&Caller, &TenantName, &JobPath<'_>),
    snapshot: &Snapshot,
) -> Result<Response<ResponseBody>, Refusal> {
    let (names, owner) = changes::admit(services, inbound, (caller, tenant, path), snapshot)?;
    let call = NamedCall::find(path.rest, &inbound.parts.method, ACTION)?;
    let body = if matches!(call, NamedCall::Make | NamedCall::Act(_)) {
        whole_body::collect(inbound, tenant.clone(), services.bodies, BODY_BYTES_MAX).await?
    } else {
        if !http_body::Body::is_end_stream(&inbound.body) {
            discard_refused(&inbound.parts.headers, &mut inbound.body).await;
        }
        Bytes::new()
    };
    let (jobs, base, limit) = (jobs.clone(), services.base.to_owned(), owner.limits.hooks);
    let action = operation(call).name();
    let change: BoxFuture<'static, Result<_, CallError>> = match call {
        NamedCall::List => {
            let hooks = jobs.hooks(&names).await.map_err(CallError::from)?;
            return Ok(json(ReplyStatus::Ok, &Listed { hooks }));
        }
        NamedCall::Make => async move { make(&jobs, &names, &body, (&base, limit)).await }.boxed(),
        NamedCall::Delete(name) => {
            let name = named(name)?;
            async move { delete(&jobs, &names, &name).await }.boxed()
        }
        NamedCall::Act(name) => {
            let name = named(name)?;
            async move { rotate(&jobs, &names, &name, (&body, &base)).await }.boxed()
        }
    };
    let change = change.map(|changed| changed.map_err(Refusal::from));
    changes::audited(services, inbound, (caller, tenant, action), change).await
}

/// Reads the name of a hook. No hook can have an invalid name, so such a name is not found.
fn named(name: &str) -> Result<HookName, CallError> {
    let cut: String = name.chars().take(64).collect();
    HookName::new(name).map_err(|_| HookError::NotFound { name: cut }.into())
}

/// Reads and checks the body of a new hook.
fn read(body: &[u8]) -> Result<NewHook, CallError> {
    let new: NewHook = serde_json::from_slice(body)
        .map_err(|error| CallError::Invalid(format!("the body is no JSON object of a hook: {error}")))?;
    new.check().map_err(CallError::Invalid)?;
    if let Some(webhook) = &new.webhook {
        check_webhook(webhook).map_err(|error| CallError::Invalid(error.to_string()))?;
    }
    Ok(new)
}

fn shown(base: &str, names: &Names, made: MadeHook) -> Made {
    let MadeHook { view, token, secret } = made;
    let url = token.map(|token| hook_url(base, names, &view.name, token.text()));
    Made { hook: view, url, secret }
}

async fn make(
    jobs: &ServerJobs,
    names: &Names,
    body: &[u8],
    (base, limit): (&str, u64),
) -> Result<Response<ResponseBody>, CallError> {
    let made = jobs.make_hook(names, read(body)?, limit).await?;
    let subject = format!("{}: verify {}", made.view.name, made.view.verify.as_str());
    Ok(AuditSubject::of(subject, json(ReplyStatus::Ok, &shown(base, names, made))))
}

async fn delete(jobs: &ServerJobs, names: &Names, name: &HookName) -> Result<Response<ResponseBody>, CallError> {
    jobs.delete_hook(names, name).await?;
    Ok(json(ReplyStatus::Ok, &Deleted { deleted: name.to_string() }))
}

async fn rotate(
    jobs: &ServerJobs,
    names: &Names,
    name: &HookName,
    (body, base): (&[u8], &str),
) -> Result<Response<ResponseBody>, CallError> {
    let invalid = |error: serde_json::Error| CallError::Invalid(format!("the body is no JSON object: {error}"));
    let asked: Rotate =
        if body.trim_ascii().is_empty() { Rotate::default() } else { serde_json::from_slice(body).map_err(invalid)? };
    let what = match asked.secret {
        None | Some(NewSecret::Make(false)) => Replaced::Url,
        Some(NewSecret::Make(true)) => Replaced::Secret(None),
        Some(NewSecret::Text(text)) => Replaced::Secret(Some(text)),
    };
    let subject = if what == Replaced::Url { "the URL" } else { "the secret" };
    let made = jobs.rotate_hook(names, name, what).await?;
    Ok(AuditSubject::of(subject, json(ReplyStatus::Ok, &shown(base, names, made))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_hook_with_a_name_and_an_address_that_can_be_one() {
        let told = |body: &str| match read(body.as_bytes()) {
            Ok(new) => new.name.to_string(),
            Err(CallError::Invalid(why)) => why,
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(told(r#"{"name": "github", "webhook": "https://example.org/"}"#), "github");
        for (body, part) in [
            ("[]", "the body is no JSON object"),
            ("{}", "missing field `name`"),
            (
                r#"{"name": "a", "webhook": "ftp://x"}"#,
                "webhook = \"ftp://x\"; it must be an absolute http or https URL",
            ),
            (r#"{"name": "a", "window_s": 90000}"#, "window_s = 90000"),
        ] {
            assert!(told(body).contains(part), "{}", told(body));
        }
    }
}
