//! Which call of the job API a request makes, and its arguments.

use super::error::JobApiError;
use super::operations::JobOperation;
use crate::access::AccessError;
use crate::route::JobPath;
use gannet_base::refusal::Refusal;
use gannet_jobs::job::{JobId, State};
use gannet_jobs::service::DeliveryStatus;
use http::Method;

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobCall {
    Run,
    RunSync,
    Status(JobId),
    StatusSync(JobId),
    Stream(JobId),
    Cancel(JobId),
    Retry(JobId),
    Purge,
    /// Pauses the queue, or lets it go on.
    Pause(bool),
    Health,
    List,
    /// The log of a job.
    Log(JobId),
    Webhooks,
    Redeliver(JobId),
    DropWebhook(JobId),
}

impl JobCall {
    /// Returns its row in the table of all calls.
    pub(super) fn operation(self) -> JobOperation {
        match self {
            Self::Run => JobOperation::Run,
            Self::RunSync => JobOperation::RunSync,
            Self::Status(_) => JobOperation::Status,
            Self::StatusSync(_) => JobOperation::StatusSync,
            Self::Stream(_) => JobOperation::Stream,
            Self::Cancel(_) => JobOperation::Cancel,
            Self::Retry(_) => JobOperation::Retry,
            Self::Purge => JobOperation::Purge,
            Self::Pause(true) => JobOperation::Pause,
            Self::Pause(false) => JobOperation::Resume,
            Self::Health => JobOperation::Health,
            Self::List => JobOperation::List,
            Self::Log(_) => JobOperation::Log,
            Self::Webhooks => JobOperation::Webhooks,
            Self::Redeliver(_) => JobOperation::Redeliver,
            Self::DropWebhook(_) => JobOperation::DropWebhook,
        }
    }

    /// Returns the call that a path and a method make.
    pub(super) fn find(path: &JobPath<'_>, method: &Method) -> Result<Self, Refusal> {
        if path.call == "webhooks" {
            return Self::of_webhooks(path.rest, method);
        }
        if path.call == "jobs"
            && let Some(id) = path.rest.strip_suffix("/logs")
        {
            if !matches!(*method, Method::GET | Method::HEAD) {
                let allowed = "GET, HEAD".into();
                return Err(AccessError::MethodNotAllowed { method: method.to_string(), allowed }.into());
            }
            return Ok(Self::Log(JobId::parse(id).ok_or(JobApiError::NotFound)?));
        }
        let has_id = matches!(path.call, "status" | "status-sync" | "stream" | "cancel" | "retry");
        let known = matches!(path.call, "run" | "runsync" | "purge-queue" | "pause" | "resume" | "health" | "jobs");
        if has_id == path.rest.is_empty() || !(has_id || known) || path.rest.contains('/') {
            return Err(AccessError::NotFound.into());
        }
        // Runpod's own clients use both methods for what only reads.
        let is_change = !matches!(path.call, "status" | "status-sync" | "stream" | "health" | "jobs");
        // HEAD would take parts of a stream that nobody gets.
        let is_read = *method == Method::GET || (*method == Method::HEAD && path.call != "stream");
        let is_allowed = *method == Method::POST || (!is_change && is_read);
        if !is_allowed {
            let allowed = if is_change { "POST" } else { "GET, HEAD, POST" };
            return Err(AccessError::MethodNotAllowed { method: method.to_string(), allowed: allowed.into() }.into());
        }
        // An id that is none cannot be known.
        let id = || JobId::parse(path.rest).ok_or(JobApiError::NotFound);
        Ok(match path.call {
            "run" => Self::Run,
            "runsync" => Self::RunSync,
            "status" => Self::Status(id()?),
            "status-sync" => Self::StatusSync(id()?),
            "stream" => Self::Stream(id()?),
            "cancel" => Self::Cancel(id()?),
            "retry" => Self::Retry(id()?),
            "purge-queue" => Self::Purge,
            "pause" => Self::Pause(true),
            "resume" => Self::Pause(false),
            "health" => Self::Health,
            _ => Self::List,
        })
    }

    /// Returns the call about deliveries of webhooks that the rest of a path and a method make.
    fn of_webhooks(rest: &str, method: &Method) -> Result<Self, Refusal> {
        let id = |text| JobId::parse(text).ok_or(JobApiError::NotFound);
        let (call, allowed) = match rest.split_once('/') {
            None if rest.is_empty() => (Self::Webhooks, &[Method::GET, Method::HEAD][..]),
            None => (Self::DropWebhook(id(rest)?), &[Method::DELETE][..]),
            Some((job, "redeliver")) => (Self::Redeliver(id(job)?), &[Method::POST][..]),
            Some(_) => return Err(AccessError::NotFound.into()),
        };
        if allowed.contains(method) {
            return Ok(call);
        }
        let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
        Err(AccessError::MethodNotAllowed { method: method.to_string(), allowed: names.join(", ") }.into())
    }
}

pub(super) fn query_value(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Reads a number from the query.
pub(super) fn query_number(
    query: Option<&str>,
    name: &'static str,
    least: u64,
    most: u64,
    default: u64,
) -> Result<u64, JobApiError> {
    let Some(text) = query_value(query, name) else { return Ok(default) };
    match text.parse::<u64>() {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => {
            let text: String = text.chars().take(64).collect();
            Err(JobApiError::Invalid(format!("{name} = {text:?}; it may be {least} to {most}")))
        }
    }
}

/// Reads the state that listed jobs must have.
pub(super) fn query_state(query: Option<&str>) -> Result<Option<State>, JobApiError> {
    let Some(text) = query_value(query, "status") else { return Ok(None) };
    let state = serde_json::from_value(serde_json::Value::String(text.clone()));
    state.map(Some).map_err(|_| {
        let text: String = text.chars().take(64).collect();
        JobApiError::Invalid(format!(
            "status = {text:?}; it may be IN_QUEUE, IN_PROGRESS, COMPLETED, FAILED, CANCELLED or TIMED_OUT"
        ))
    })
}

/// Reads which deliveries of webhooks are listed.
pub(super) fn query_delivery(query: Option<&str>) -> Result<Option<DeliveryStatus>, JobApiError> {
    match query_value(query, "status").as_deref() {
        None => Ok(None),
        Some("pending") => Ok(Some(DeliveryStatus::Pending)),
        Some("dead") => Ok(Some(DeliveryStatus::Dead)),
        Some(text) => {
            let text: String = text.chars().take(64).collect();
            Err(JobApiError::Invalid(format!("status = {text:?}; it may be pending or dead")))
        }
    }
}

/// Reads the job after which a list goes on.
pub(super) fn query_cursor(query: Option<&str>) -> Result<Option<JobId>, JobApiError> {
    let Some(text) = query_value(query, "cursor") else { return Ok(None) };
    let id = JobId::parse(&text);
    id.map(Some).ok_or_else(|| JobApiError::Invalid("cursor is not one that a list returned".into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::route::job_path;

    #[test]
    fn calls_are_found_by_path_and_method() {
        let id = JobId::new();
        let find = |method: Method, path: &str| {
            JobCall::find(&job_path(path).unwrap(), &method).map_err(|refusal| refusal.code)
        };
        assert_eq!(find(Method::POST, "/v2/f/run"), Ok(JobCall::Run));
        assert_eq!(find(Method::GET, &format!("/v2/f/status/{id}")), Ok(JobCall::Status(id)));
        assert_eq!(find(Method::POST, &format!("/v2/f/stream/{id}")), Ok(JobCall::Stream(id)));
        assert_eq!(find(Method::GET, &format!("/v2/f/cancel/{id}")), Err("method_not_allowed"));
        assert_eq!(find(Method::PUT, "/v2/f/health"), Err("method_not_allowed"));
        assert_eq!(find(Method::GET, "/v2/f/webhooks"), Ok(JobCall::Webhooks));
        assert_eq!(find(Method::POST, &format!("/v2/f/webhooks/{id}/redeliver")), Ok(JobCall::Redeliver(id)));
        assert_eq!(find(Method::DELETE, &format!("/v2/f/webhooks/{id}")), Ok(JobCall::DropWebhook(id)));
        assert_eq!(find(Method::GET, &format!("/v2/f/webhooks/{id}/redeliver")), Err("method_not_allowed"));
        assert_eq!(find(Method::DELETE, "/v2/f/webhooks/none"), Err("job_not_found"));
        assert_eq!(find(Method::POST, &format!("/v2/f/webhooks/{id}/x")), Err("not_found"));
        for unknown in ["/v2/f/", "/v2/f/runs", "/v2/f/run/x", "/v2/f/status", "/v2/f/status/", "/v2/f/jobs/a/b"] {
            assert_eq!(find(Method::POST, unknown), Err("not_found"), "{unknown}");
        }
        assert_eq!(find(Method::GET, "/v2/f/status/none"), Err("job_not_found"));
        assert!(job_path("/v2/f/openai/v1/models").is_none() && job_path("/v2/f").is_none());
    }
}
