//! The response for a guest that failed.
//!
//! The status here is only between worker and front door, which alone chooses what clients see.

use crate::worker::response::body::ResponseBody;
use crate::worker::response::context::ResponseContext;
use crate::worker::response::receipt_header::add_receipt;
use crate::worker::running_guest::GuestFuture;
use bytes::Bytes;
use gannet_base::hop::{Fault, FaultCode, WorkReport, header};
use http::{HeaderValue, Response, StatusCode};

/// A longer detail is cut off, because it travels in a header.
const DETAIL_CHARACTERS_MAX: usize = 2000;

/// Makes the response for a failure, with the receipt in its head.
pub(crate) fn error_response(mut work: WorkReport, code: FaultCode, detail: &str) -> Response<ResponseBody> {
    let detail = detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
    work.fault = Some(Fault { code, detail });
    let mut response = Response::new(ResponseBody::Complete(Bytes::new()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    add_receipt(response.headers_mut(), &work);
    response.headers_mut().insert(header::FAULT, HeaderValue::from_static("1"));
    response
}

/// Returns the response for a guest that has ended and failed.
pub(super) fn fail(context: ResponseContext, code: FaultCode, detail: &str) -> Response<ResponseBody> {
    error_response(context.receipt(None), code, detail)
}

/// Cancels a guest that may still run, and returns the response for its failure.
pub(super) async fn cancel(
    context: ResponseContext,
    guest: GuestFuture,
    code: FaultCode,
    detail: &str,
) -> Response<ResponseBody> {
    drop(guest);
    context.usage.drain().await;
    fail(context, code, detail)
}
