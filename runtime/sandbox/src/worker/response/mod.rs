//! Turns a guest's response into the response that the front door gets.
//!
//! ```text
//!              ┌ guest done, body complete ──▶ one message, receipt in the head   (almost every request)
//!  respond ────┤ body complete, guest runs on ▶ one message, receipt as a frame when the guest ends
//!  (≤ GATHER)  └ body goes on ────────────────▶ streamed, receipt as a frame at the end
//! ```
//!
//! Small bodies are gathered for a moment so that the head can say what the request cost. While a body streams, the
//! guest runs inside the body's own poll: a client that reads slowly slows the guest down, and one that disconnects
//! ends it. Every request gets exactly one receipt, however it ends ([`ResponseContext`]).

mod context;
mod gather;
mod streaming;
mod run_on;
mod body;
mod error_response;
mod faults;

use crate::worker::running_guest::{GuestOutcome, RunningGuest};
use error_response::{cancel, fail};
use gannet_base::hop::FaultCode;
use gather::gather;
use tokio::time::Instant;

pub(super) use body::{HopResponse, ResponseBody};
pub(super) use context::{ResponseContext, send_work};
pub(super) use error_response::error_response;

/// Polls the guest until it hands over its response, and returns that. `deadline` is for the head of the response.
pub(super) async fn respond(context: ResponseContext, guest: RunningGuest, deadline: Instant) -> HopResponse {
    let RunningGuest { future: mut guest, response: mut receiver } = guest;
    let mut outcome: Option<GuestOutcome> = None;
    let response = tokio::select! {
        biased;
        response = &mut receiver => response.ok(),
        ended = &mut guest => {
            outcome = Some(ended);
            // It may have responded in the same poll in which it ended.
            receiver.try_recv().ok()
        }
        () = tokio::time::sleep_until(deadline) => {
            let limit = context.limits.time_setting("timeout_ms", context.limits.timeout_ms);
            let detail = format!("the function did not respond within {limit}, waiting included");
            return cancel(context, guest, FaultCode::DeadlineExceeded, &detail).await;
        }
    };
    match (response, outcome) {
        (Some(Ok(response)), outcome) => gather(context, guest, outcome, response).await,
        (_, Some(Err(failure))) => fail(context, failure.code, &failure.detail).await,
        (Some(Err(code)), _) => {
            let detail = format!("the function responded with an error: {code}");
            cancel(context, guest, FaultCode::FunctionTrapped, &detail).await
        }
        (None, Some(Ok(()))) => {
            fail(context, FaultCode::FunctionTrapped, "the function ended without a response").await
        }
        // The guest dropped its outparam without responding, and still runs.
        (None, None) => cancel(context, guest, FaultCode::FunctionTrapped, "the function dropped its response").await,
    }
}
