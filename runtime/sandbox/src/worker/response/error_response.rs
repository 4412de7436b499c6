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
use std::time::Duration;

/// A longer detail is cut off, because it travels in a head.
const DETAIL_CHARACTERS_MAX: usize = 2000;

/// How long the response for a failure waits for the request's work on the GPU.
const SETTLE_MAX: Duration = Duration::from_millis(20);

/// Makes the response for a failure, with the receipt in its head.
pub(crate) fn error_response(mut work: WorkReport, code: FaultCode, detail: &str) -> HopResponse {
    let detail = detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
    work.fault = Some(Fault { code, detail });
    let (status, headers) = (StatusCode::BAD_GATEWAY, HeaderMap::new());
    let head = ResponseHead { status, failed: true, report: Some(work), headers };
    HopResponse { head, body: ResponseBody::Complete(Bytes::new(), None) }
}

/// Returns the response for a guest that has ended and failed. The client does not wait for work that is still on the
/// GPU: then a second report follows.
pub(super) async fn fail(context: ResponseContext, code: FaultCode, detail: &str) -> HopResponse {
    let is_settled = tokio::time::timeout(SETTLE_MAX, context.usage.drain()).await.unwrap_or(false);
    if is_settled {
        return error_response(context.receipt(None), code, detail);
    }
    let mut work = context.usage.work(None);
    work.unsettled = true;
    tokio::spawn(context.send_receipt(None));
    error_response(work, code, detail)
}

/// Cancels a guest that may still run, and returns the response for its failure.
pub(super) async fn cancel(context: ResponseContext, guest: GuestFuture, code: FaultCode, detail: &str) -> HopResponse {
    drop(guest);
    fail(context, code, detail).await
}
