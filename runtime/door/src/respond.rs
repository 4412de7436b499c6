//! Step 9: turns refusals into responses. This is the only place where a refusal becomes a status code.
//!
//! In: a [`Refusal`] from any step. Out: `application/problem+json` (RFC 9457) with a stable `code`, whose fault it is,
//! what was wrong and what to do. The header `x-gannet-error` has the same code. A guest's own response never has this
//! header, so callers can tell the two apart.

use bytes::Bytes;
use gannet_api::Problem;
use gannet_base::body::{self, ResponseBody};
use gannet_base::headers::{ERROR, REQUEST_ID, header_value};
use gannet_base::names::RequestId;
use gannet_base::quota::rate::{Rate, RateState};
use gannet_base::refusal::{Refusal, RefusalKind, Retry};
use gannet_fleet::pool::CallFailure;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use std::time::Duration;

/// Returns the status of a refusal.
pub fn status_of(refusal: &Refusal) -> StatusCode {
    match refusal.kind {
        RefusalKind::Malformed => StatusCode::BAD_REQUEST,
        RefusalKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        RefusalKind::PaymentRequired => StatusCode::PAYMENT_REQUIRED,
        RefusalKind::Forbidden => StatusCode::FORBIDDEN,
        RefusalKind::NotFound => StatusCode::NOT_FOUND,
        RefusalKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        RefusalKind::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
        RefusalKind::Conflict => StatusCode::CONFLICT,
        RefusalKind::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        RefusalKind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        RefusalKind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        RefusalKind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        RefusalKind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        RefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        RefusalKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        RefusalKind::FunctionFailed => StatusCode::BAD_GATEWAY,
        RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        RefusalKind::FunctionTimeout => StatusCode::GATEWAY_TIMEOUT,
        RefusalKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        RefusalKind::CallsTooDeep => StatusCode::LOOP_DETECTED,
    }
}

/// Closes the tab of a request that got no response from its function. The receipt records the status and error that
/// the client gets.
pub fn close_failed(failed: CallFailure) -> Refusal {
    let CallFailure { refusal, mut admitted, awaited } = failed;
    admitted.tab.update_receipt(|receipt| {
        receipt.status = status_of(&refusal).as_u16();
        receipt.fail(&refusal);
    });
    // The client is answered before the request's work is over, and the tab closes when that is known.
    if let Some(awaited) = awaited {
        awaited.settle(admitted);
    }
    refusal
}

/// Returns whole seconds, rounded up.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Turns a refusal into a response.
pub fn refuse(refusal: &Refusal, request: RequestId) -> Response<ResponseBody> {
    let status = status_of(refusal);
    let problem = Problem {
        r#type: "about:blank".into(),
        title: status.canonical_reason().unwrap_or("error").into(),
        status: status.as_u16(),
        code: refusal.code.into(),
        fault: refusal.blame,
        detail: refusal.public.clone(),
        hint: refusal.hint.map(Into::into),
        request_id: request.to_string(),
    };
    let text = serde_json::to_vec_pretty(&problem).unwrap_or_default();
    let mut response = Response::new(body::full(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(ERROR, HeaderValue::from_static(refusal.code));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match &refusal.retry {
        Retry::Unknown => {}
        Retry::After { seconds } => {
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from(*seconds));
        }
        Retry::Rate(exceeded) => {
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from(seconds(exceeded.wait)));
            rate_headers(headers, exceeded.rate, RateState { left: 0, full_in: exceeded.wait });
        }
    }
    if let Some(allow) = refusal.allow.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(http::header::ALLOW, allow);
    }
    if refusal.permanent {
        headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"gannet\""));
    }
    stamp(&mut response, request);
    response
}

/// Returns the JSON body of a refusal in the form that OpenAI's clients read.
pub fn openai_error(refusal: &Refusal, request: RequestId) -> Vec<u8> {
    let kind = match status_of(refusal) {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYMENT_REQUIRED => "rate_limit_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    };
    let param = matches!(refusal.code, "model_not_found" | "model_needed").then_some("model");
    let message = match refusal.hint {
        Some(hint) => format!("{refusal}; {hint}"),
        None => refusal.to_string(),
    };
    let error = serde_json::json!({ "message": message, "type": kind, "param": param, "code": refusal.code,
        "fault": refusal.blame, "request_id": request.to_string() });
    serde_json::to_vec(&serde_json::json!({ "error": error })).unwrap_or_default()
}

/// Turns a refusal into a response for an OpenAI client.
pub fn refuse_openai(refusal: &Refusal, request: RequestId) -> Response<ResponseBody> {
    let mut response = refuse(refusal, request);
    *response.body_mut() = body::full(Bytes::from(openai_error(refusal, request)));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Turns a refusal into a response for a client of the job API. It has no key `status`, which such clients would take
/// for the state of a job.
pub fn refuse_job(refusal: &Refusal, request: RequestId) -> Response<ResponseBody> {
    let mut response = refuse(refusal, request);
    let body = serde_json::json!({ "error": refusal.public, "code": refusal.code, "fault": refusal.blame,
        "hint": refusal.hint, "request_id": request.to_string() });
    *response.body_mut() = body::full(Bytes::from(serde_json::to_vec(&body).unwrap_or_default()));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Adds the headers that report a rate (draft-ietf-httpapi-ratelimit-headers-10). `ratelimit-policy` has the burst and
/// the seconds in which it refills; `ratelimit` has what is left of it and the seconds until it is full again.
pub fn rate_headers(headers: &mut HeaderMap, rate: Rate, rate_state: RateState) {
    let window = rate.burst.div_ceil(rate.per_s.max(1)).max(1);
    let policy = header_value(format_args!("\"requests\";q={};w={window}", rate.burst));
    let (left, full_s) = (rate_state.left, seconds(rate_state.full_in));
    let state = header_value(format_args!("\"requests\";r={left};t={full_s}"));
    for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
        if let Some(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Sets the request's id in the headers of a response, replacing any other.
pub fn stamp<B>(response: &mut Response<B>, request: RequestId) {
    if let Some(value) = header_value(format_args!("{request}")) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
}

/// The outcome of a request that the server handles without a function. It decides the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyStatus {
    /// The operation succeeded.
    Ok,
    /// The operation created something.
    Created,
    /// The upload was accepted and is not complete yet.
    Accepted,
    /// The operation succeeded and the response has no body.
    Empty,
    /// The server is not ready.
    NotReady,
}

/// Returns a JSON response.
pub fn json<T: Serialize>(done: ReplyStatus, value: &T) -> Response<ResponseBody> {
    let text = serde_json::to_vec_pretty(value).unwrap_or_default();
    raw(done, "application/json", Bytes::from(text))
}

/// Returns a response of any media type.
pub fn raw(done: ReplyStatus, media_type: &'static str, bytes: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(body::full(bytes));
    finish(&mut response, done, media_type);
    response
}

/// Returns the response to HEAD: with the length of the body, if it is known, and without the body.
pub fn without_body(response: Response<ResponseBody>) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = http_body::Body::size_hint(&body).exact() {
        parts.headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(parts, body::full(Bytes::new()))
}

/// Returns a streamed response.
pub fn stream(media_type: &'static str, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    finish(&mut response, ReplyStatus::Ok, media_type);
    response
}

fn finish(response: &mut Response<ResponseBody>, done: ReplyStatus, media_type: &'static str) {
    *response.status_mut() = match done {
        ReplyStatus::Ok => StatusCode::OK,
        ReplyStatus::Created => StatusCode::CREATED,
        ReplyStatus::Accepted => StatusCode::ACCEPTED,
        ReplyStatus::Empty => StatusCode::NO_CONTENT,
        ReplyStatus::NotReady => StatusCode::SERVICE_UNAVAILABLE,
    };
    let headers = response.headers_mut();
    if done != ReplyStatus::Empty {
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    }
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use gannet_base::refusal::Blame;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn what_only_the_log_may_say_does_not_reach_a_client() {
        let refusal = Refusal::new(RefusalKind::Unavailable, "no_capacity", Blame::Platform, "the server is full");
        let refusal = refusal.internal("17 requests wait").retry_after(1);
        for response in [refuse(&refusal, RequestId::new()), refuse_openai(&refusal, RequestId::new())] {
            assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "1"));
            let headers = format!("{:?}", response.headers());
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let text = format!("{headers}{}", String::from_utf8_lossy(&body));
            assert!(text.contains("the server is full") && !text.contains("requests wait"), "{text}");
        }
    }
}
