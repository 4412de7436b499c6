//! The response for a guest that failed.
//!
//! The status here is only between worker and front door, which alone chooses what clients see.

use crate::worker::response::body::{HopResponse, ResponseBody};
use crate::worker::response::context::ResponseContext;
use crate::worker::running_guest::GuestFuture;
use bytes::Bytes;
use gannet_base::hop::heads::ResponseHead;
use gannet_base::hop::{Fault, FaultCode, WorkReport};
use http::{HeaderMap, StatusCode};

/// A longer detail is cut off, because it travels in a head.
const DETAIL_CHARACTERS_MAX: usize = 2000;

/// Makes the response for a failure, with the receipt in its head.
pub(crate) fn error_response(mut work: WorkReport, code: FaultCode, detail: &str) -> HopResponse {
    let detail = detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
    work.fault = Some(Fault { code, detail });
    let (status, headers) = (StatusCode::BAD_GATEWAY, HeaderMap::new());
    let head = ResponseHead { status, failed: true, report: Some(work), headers };
    HopResponse { head, body: ResponseBody::Complete(Bytes::new()) }
}

/// Returns the response for a guest that has ended and failed.
pub(super) fn fail(context: ResponseContext, code: FaultCode, detail: &str) -> HopResponse {
    error_response(context.receipt(None), code, detail)
}

/// Cancels a guest that may still run, and returns the response for its failure.
pub(super) async fn cancel(context: ResponseContext, guest: GuestFuture, code: FaultCode, detail: &str) -> HopResponse {
    drop(guest);
    context.usage.drain().await;
    fail(context, code, detail)
}
