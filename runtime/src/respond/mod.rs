//! The edge: the only place where a refusal becomes a status code.
//!
//! In: a [`Refused`] from any step. Out: `application/problem+json` (RFC 9457) with a stable `code`,
//! whose fault it is, what was wrong and what to do. The header `x-gannet-error` says the same code; a
//! guest's own answer never carries it, so callers can tell the two apart.

mod body;

pub use body::{BrokenOff, ResponseBody};

use crate::admit::AdmitError;
use crate::admit::rate::{Rate, Standing};
use crate::auth::AuthError;
use crate::control::ControlError;
use crate::inbound::FrontError;
use crate::names::RequestId;
use crate::pool::PoolError;
use crate::route::RouteError;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Why a request got no answer of its function, by the step that refused it.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Step 1.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// Step 2.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Step 3.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// Step 4.
    #[error(transparent)]
    Admit(#[from] AdmitError),
    /// Step 5 and beyond.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The control API.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The client's.
    Caller,
    /// The function's.
    Function,
    /// Ours; it costs the tenant nothing.
    Platform,
}

/// What a client is told. Made only here.
struct Answer {
    status: StatusCode,
    code: &'static str,
    blame: Blame,
    hint: Option<String>,
    retry_after_s: Option<u64>,
    /// Whether the same request would fail again.
    repeats: bool,
    /// The rate that was passed, and when it has room again.
    rate: Option<(Rate, Duration)>,
    /// The methods that there are.
    allow: Option<String>,
}

fn answer(status: StatusCode, code: &'static str, blame: Blame) -> Answer {
    Answer { status, code, blame, hint: None, retry_after_s: None, repeats: false, rate: None, allow: None }
}

impl Answer {
    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
    fn rate(mut self, rate: Rate, wait: Duration) -> Self {
        self.rate = Some((rate, wait));
        self.retry_after(seconds(wait))
    }
    fn repeats(mut self) -> Self {
        self.repeats = true;
        self
    }
}

/// Whole seconds, rounded up.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

fn describe(refused: &Refused) -> Answer {
    match refused {
        Refused::Front(error) => front(error),
        Refused::Auth(error) => auth(error),
        Refused::Route(error) => route(error),
        Refused::Admit(error) => admit(error),
        Refused::Pool(error) => pool(error),
        Refused::Control(error) => control(error),
    }
}

fn front(error: &FrontError) -> Answer {
    use Blame::Caller;
    match error {
        FrontError::Malformed(_) => answer(StatusCode::BAD_REQUEST, "malformed_request", Caller),
        FrontError::BadHost { .. } => answer(StatusCode::BAD_REQUEST, "bad_host", Caller)
            .hint("a server started with --dev answers only to localhost"),
        FrontError::UpgradeUnsupported => answer(StatusCode::NOT_IMPLEMENTED, "upgrade_unsupported", Caller)
            .hint("stream the response body instead: functions can send chunks over time"),
        FrontError::BodyTooLarge { .. } => answer(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", Caller)
            .hint("raise [limits] body_mib in gannet.toml"),
        FrontError::BodiesFull { .. } => {
            answer(StatusCode::SERVICE_UNAVAILABLE, "no_capacity", Blame::Platform).retry_after(1)
        }
        FrontError::BodyTooSlow { .. } => answer(StatusCode::REQUEST_TIMEOUT, "body_timeout", Caller),
    }
}

fn auth(error: &AuthError) -> Answer {
    match error {
        AuthError::BadKey => answer(StatusCode::UNAUTHORIZED, "unauthorized", Blame::Caller)
            .hint("send `Authorization: Bearer KEY` or `x-gannet-key: KEY`"),
        AuthError::TooManyWrong { rate, wait } => {
            answer(StatusCode::TOO_MANY_REQUESTS, "rate_limit", Blame::Caller).rate(*rate, *wait)
        }
    }
}

fn route(error: &RouteError) -> Answer {
    use Blame::Caller;
    match error {
        RouteError::PathInvalid(_) => answer(StatusCode::BAD_REQUEST, "path_invalid", Caller),
        RouteError::KeyNeeded => answer(StatusCode::UNAUTHORIZED, "unauthorized", Caller)
            .hint("send `Authorization: Bearer KEY` or `x-gannet-key: KEY`"),
        RouteError::NotFound => answer(StatusCode::NOT_FOUND, "not_found", Caller)
            .hint("`gannet list` shows your functions; other tenants' functions look like this too"),
        RouteError::ModelNotFound { .. } => answer(StatusCode::NOT_FOUND, "model_not_found", Caller)
            .hint("models are functions whose manifest says `[http] openai = true`"),
        RouteError::ModelNeeded => answer(StatusCode::BAD_REQUEST, "model_needed", Caller),
        RouteError::BodyInvalid(_) => answer(StatusCode::BAD_REQUEST, "body_invalid", Caller),
        RouteError::ScopeMissing { .. } | RouteError::KeyOfOther { .. } => {
            answer(StatusCode::FORBIDDEN, "forbidden", Caller)
        }
        RouteError::Suspended => answer(StatusCode::FORBIDDEN, "tenant_suspended", Caller)
            .hint("the operator has suspended the tenant, and can resume it"),
        RouteError::MethodNotAllowed { allowed, .. } => {
            let mut told = answer(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", Caller);
            told.allow = Some(allowed.clone());
            told
        }
    }
}

fn admit(error: &AdmitError) -> Answer {
    use Blame::{Caller, Platform};
    match error {
        AdmitError::TooFast { rate, wait, .. } => {
            answer(StatusCode::TOO_MANY_REQUESTS, "rate_limit", Caller).rate(*rate, *wait)
        }
        AdmitError::LimitReached { wait_s, .. } => answer(StatusCode::TOO_MANY_REQUESTS, "tenant_limit", Caller)
            .retry_after(*wait_s)
            .hint("`gannet limits` shows the tenant's limits; the operator sets them"),
        AdmitError::SpendLimit { .. } => answer(StatusCode::PAYMENT_REQUIRED, "spend_limit", Caller)
            .hint("the operator sets spend_micro_units_per_month; a new month begins on its first day, UTC")
            .repeats(),
        AdmitError::WaitedTooLong { .. } => {
            answer(StatusCode::SERVICE_UNAVAILABLE, "no_capacity", Caller).retry_after(1)
        }
        AdmitError::NodeFull => answer(StatusCode::SERVICE_UNAVAILABLE, "no_capacity", Platform).retry_after(1),
        AdmitError::LedgerBehind(_) => {
            answer(StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable", Platform).retry_after(5)
        }
    }
}

fn pool(error: &PoolError) -> Answer {
    use Blame::{Caller, Function, Platform};
    match error {
        PoolError::NoCapacity(_) => answer(StatusCode::SERVICE_UNAVAILABLE, "no_capacity", Platform).retry_after(1),
        PoolError::Suspended => answer(StatusCode::FORBIDDEN, "tenant_suspended", Caller),
        PoolError::Draining => answer(StatusCode::SERVICE_UNAVAILABLE, "draining", Platform).retry_after(5),
        PoolError::StartFailed(_) => answer(StatusCode::SERVICE_UNAVAILABLE, "no_capacity", Platform).retry_after(5),
        PoolError::Killed(_) => answer(StatusCode::BAD_GATEWAY, "function_killed", Function)
            .hint("the worker process ended while it ran this request; `gannet logs` may say more"),
        PoolError::BackingOff { left_s, .. } => {
            answer(StatusCode::SERVICE_UNAVAILABLE, "function_backing_off", Function)
                .retry_after(*left_s)
                .hint("deploy a version that is not killed, and it is tried at once")
        }
        PoolError::Trapped(_) => answer(StatusCode::BAD_GATEWAY, "function_trapped", Function).repeats(),
        PoolError::MemoryLimit(_) => answer(StatusCode::BAD_GATEWAY, "function_trapped", Function)
            .hint("raise [limits] memory_mib in gannet.toml")
            .repeats(),
        PoolError::Deadline(_) => answer(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", Function)
            .hint("raise [limits] timeout_ms or cpu_ms in gannet.toml"),
        PoolError::Internal(_) => answer(StatusCode::INTERNAL_SERVER_ERROR, "internal", Platform),
        PoolError::Request(error) => {
            let mut told = front(error);
            told.blame = Caller;
            told
        }
    }
}

fn control(error: &ControlError) -> Answer {
    use Blame::{Caller, Platform};
    match error {
        ControlError::Invalid(_) => answer(StatusCode::BAD_REQUEST, "invalid", Caller),
        ControlError::TenantNeeded => answer(StatusCode::BAD_REQUEST, "tenant_needed", Caller)
            .hint("the operator key acts for a tenant with --tenant or the header x-gannet-tenant"),
        ControlError::NotFound => answer(StatusCode::NOT_FOUND, "not_found", Caller),
        ControlError::AboveLimit { .. } => answer(StatusCode::UNPROCESSABLE_ENTITY, "limit_above_tenants", Caller)
            .hint("`gannet limits` shows the tenant's limits; the operator sets them")
            .repeats(),
        ControlError::LimitReached { .. } => answer(StatusCode::TOO_MANY_REQUESTS, "tenant_limit", Caller)
            .retry_after(60)
            .hint("`gannet limits` shows the tenant's limits; the operator sets them")
            .repeats(),
        ControlError::Conflict(_) => answer(StatusCode::CONFLICT, "conflict", Caller),
        ControlError::UnsupportedMediaType(_) => {
            answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", Caller).hint(
                "send the component as application/wasm, or multipart/form-data with the parts manifest and component",
            )
        }
        ControlError::NotJson(_) => {
            answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", Caller).hint("send application/json")
        }
        ControlError::TooLarge { .. } => answer(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", Caller),
        ControlError::Build(rejected) => {
            let told = answer(StatusCode::UNPROCESSABLE_ENTITY, rejected.code.as_str(), Caller).repeats();
            match rejected.code.hint() {
                Some(hint) => told.hint(hint),
                None => told,
            }
        }
        ControlError::Unservable(_) => answer(StatusCode::UNPROCESSABLE_ENTITY, "gpu_class_unavailable", Caller)
            .hint("name a class that `gannet gpu list` shows, or \"any\"")
            .repeats(),
        ControlError::Busy(_) => answer(StatusCode::SERVICE_UNAVAILABLE, "no_capacity", Platform).retry_after(2),
        ControlError::StorageFull => answer(StatusCode::INSUFFICIENT_STORAGE, "storage_full", Platform),
        ControlError::Internal(_) => answer(StatusCode::INTERNAL_SERVER_ERROR, "internal", Platform),
    }
}

/// The stable code of a refusal, and whose fault it is, for receipts.
pub fn code_of(refused: &Refused) -> (&'static str, Blame) {
    let told = describe(refused);
    (told.code, told.blame)
}

/// The status of a refusal, for receipts.
pub fn status_of(refused: &Refused) -> StatusCode {
    describe(refused).status
}

/// A problem as it is written (RFC 9457).
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    code: &'a str,
    fault: Blame,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    request_id: String,
}

/// The name of the header with the code.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("x-gannet-error");
/// The name of the header with the request's id.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Writes a refusal.
pub fn refuse(refused: &Refused, request: RequestId) -> Response<ResponseBody> {
    let told = describe(refused);
    let problem = Problem {
        r#type: "about:blank",
        title: told.status.canonical_reason().unwrap_or("error"),
        status: told.status.as_u16(),
        code: told.code,
        fault: told.blame,
        detail: refused.to_string(),
        hint: told.hint.as_deref(),
        request_id: request.to_string(),
    };
    let text = serde_json::to_vec_pretty(&problem).unwrap_or_default();
    let mut response = Response::new(ResponseBody::full(Bytes::from(text)));
    *response.status_mut() = told.status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(ERROR_HEADER, HeaderValue::from_static(told.code));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = told.retry_after_s {
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some((rate, wait)) = told.rate {
        rate_headers(headers, rate, Standing { left: 0, full_in: wait });
    }
    if let Some(allow) = told.allow.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(http::header::ALLOW, allow);
    }
    if told.repeats {
        headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
    }
    if told.status == StatusCode::UNAUTHORIZED {
        headers.insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"gannet\""));
    }
    stamp(&mut response, request);
    response
}

/// A refusal as OpenAI's clients read it.
pub fn openai_error(refused: &Refused, request: RequestId) -> Vec<u8> {
    let told = describe(refused);
    let kind = match told.status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYMENT_REQUIRED => "rate_limit_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    };
    let param = matches!(refused, Refused::Route(RouteError::ModelNotFound { .. } | RouteError::ModelNeeded))
        .then_some("model");
    let message = match &told.hint {
        Some(hint) => format!("{refused}; {hint}"),
        None => refused.to_string(),
    };
    let error = serde_json::json!({ "message": message, "type": kind, "param": param, "code": told.code,
        "fault": told.blame, "request_id": request.to_string() });
    serde_json::to_vec(&serde_json::json!({ "error": error })).unwrap_or_default()
}

/// Writes a refusal for an OpenAI client.
pub fn refuse_openai(refused: &Refused, request: RequestId) -> Response<ResponseBody> {
    let mut response = refuse(refused, request);
    *response.body_mut() = ResponseBody::full(Bytes::from(openai_error(refused, request)));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Says how a rate stands (draft-ietf-httpapi-ratelimit-headers-10): the burst and the time in which it comes back, what is
/// left of it and when all of it is there again.
pub fn rate_headers(headers: &mut HeaderMap, rate: Rate, standing: Standing) {
    let window = rate.burst.div_ceil(rate.per_s.max(1)).max(1);
    let policy = format!("\"requests\";q={};w={window}", rate.burst);
    let state = format!("\"requests\";r={};t={}", standing.left, seconds(standing.full_in));
    for (name, text) in [("ratelimit-policy", policy), ("ratelimit", state)] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Puts the request's id on a response, in place of any other.
pub fn stamp<B>(response: &mut Response<B>, request: RequestId) {
    if let Ok(value) = HeaderValue::from_str(&request.to_string()) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
}

/// What a control operation did, as far as statuses tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It answered or changed something.
    Ok,
    /// It made something new.
    Created,
    /// It goes on.
    Accepted,
    /// There is nothing to say.
    Empty,
    /// The service is not ready.
    NotReady,
}

/// A JSON answer.
pub fn json<T: Serialize>(done: Done, value: &T) -> Response<ResponseBody> {
    let text = serde_json::to_vec_pretty(value).unwrap_or_default();
    raw(done, "application/json", Bytes::from(text))
}

/// An answer of any media type.
pub fn raw(done: Done, media_type: &'static str, bytes: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(bytes));
    finish(&mut response, done, media_type);
    response
}

/// A streamed answer.
pub fn stream(media_type: &'static str, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    finish(&mut response, Done::Ok, media_type);
    response
}

fn finish(response: &mut Response<ResponseBody>, done: Done, media_type: &'static str) {
    *response.status_mut() = match done {
        Done::Ok => StatusCode::OK,
        Done::Created => StatusCode::CREATED,
        Done::Accepted => StatusCode::ACCEPTED,
        Done::Empty => StatusCode::NO_CONTENT,
        Done::NotReady => StatusCode::SERVICE_UNAVAILABLE,
    };
    let headers = response.headers_mut();
    if done != Done::Empty {
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    }
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
