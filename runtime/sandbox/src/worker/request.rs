//! Serves one request of the front door: reads its headers, starts an instance of its version, and returns the
//! response.
//!
//! The connection's own task polls the guest, first here until there is a response, then in the response's body
//! ([`crate::worker::response`]). No other task is woken, and dropping the body is all it takes to cancel.

use crate::worker::context::{RequestContext, WorkerContext};
use crate::worker::hop_headers::HopHeaders;
use crate::worker::response::{self, ResponseBody, ResponseContext};
use crate::worker::usage::RequestUsage;
use crate::worker::{instance, request_body};
use gannet_base::hop::{FaultCode, WorkReport};
use http::{Request, Response};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

/// Serves a request. Every failure becomes a response.
pub(super) async fn serve(
    worker: Arc<WorkerContext>,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let arrived = Instant::now();
    let Some(headers) = HopHeaders::take(request.headers_mut()) else {
        return Ok(response::error_response(
            WorkReport::default(),
            FaultCode::Unavailable,
            "the hop's headers are missing",
        ));
    };
    let version = worker.versions().get(&headers.version).cloned();
    let Some(version) = version else {
        return Ok(response::error_response(
            WorkReport::default(),
            FaultCode::Unavailable,
            "the version is not loaded",
        ));
    };
    let usage = Arc::new(RequestUsage::new(arrived));
    let deadline = tokio::time::Instant::now() + headers.deadline;
    let (request, body_complete) = request_body::track(request);
    let limits = version.limits.clone();
    let context =
        RequestContext { worker: Arc::clone(&worker), version, request: headers.request, usage: Arc::clone(&usage) };
    let guest = instance::start(context, request);
    let context =
        ResponseContext { worker, usage, request: headers.request, limits, body_complete, receipt_owed: true };
    Ok(response::respond(context, guest, deadline).await)
}
