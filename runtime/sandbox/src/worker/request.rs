//! Serves one request of the front door: starts an instance of its version, and returns the response.

use crate::worker::context::{RequestContext, WorkerContext};
use crate::worker::request_body::{BodyComplete, RequestBody};
use crate::worker::request_limits::RequestLimits;
use crate::worker::response::{self, HopResponse, ResponseContext};
use crate::worker::usage::RequestUsage;
use crate::worker::{instance, running_requests};
use gannet_base::hop::heads::RequestHead;
use gannet_base::hop::{FaultCode, WorkReport};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Uri};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest deadline, that of a job. It keeps the sum with the current time in range.
const DEADLINE_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// Adds the scheme and the authority that the client used, which the front door has put into the headers. A guest
/// compares them, for instance, with the origin of a form. If the host is no valid authority, the URI stays a path.
fn as_sent(uri: Uri, headers: &HeaderMap) -> Uri {
    let https = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let authority = headers.get(http::header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(if https { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = authority;
    Uri::from_parts(parts).unwrap_or(uri)
}

/// Serves a request. What goes wrong is a response too.
pub(super) async fn serve(
    worker: Arc<WorkerContext>,
    head: RequestHead,
    body: RequestBody,
    body_complete: BodyComplete,
) -> HopResponse {
    let arrived = Instant::now();
    let RequestHead { version, request: id, deadline_ms, caps, depth, method, uri, headers } = head;
    let version = worker.versions().get(&version).cloned();
    let Some(version) = version else {
        return response::error_response(WorkReport::default(), FaultCode::Unavailable, "the version is not loaded");
    };
    let wants_body = method != Method::HEAD;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = as_sent(uri, &headers);
    *request.headers_mut() = headers;
    let usage = Arc::new(RequestUsage::new(arrived));
    let deadline = tokio::time::Instant::from_std(arrived) + Duration::from_millis(deadline_ms.min(DEADLINE_MS_MAX));
    let limits = RequestLimits::new(&version.limits, caps);
    let (worker_of, usage_of) = (Arc::clone(&worker), Arc::clone(&usage));
    let context =
        RequestContext { worker: worker_of, version, request: id, is_call: depth > 0, limits, usage: usage_of };
    let guest = instance::start(context, request);
    let running = running_requests::begin(&worker.running, id, &usage);
    let context =
        ResponseContext { worker, usage, request: id, running, limits, wants_body, body_complete, receipt_owed: true };
    response::respond(context, guest, deadline).await
}
