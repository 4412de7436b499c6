//! Lets a guest run on after its response was sent, within its time limit, and sends its receipt when it ends.

use crate::worker::response::context::ResponseContext;
use crate::worker::response::faults::time_limit_fault;
use crate::worker::running_guest::GuestFuture;
use gannet_base::hop::{Fault, FaultCode};
use std::time::Duration;

/// Runs the guest to its end or to its limit, or until the front door ends it.
pub(super) async fn run_on(context: ResponseContext, guest: GuestFuture) {
    let (limits, limit_ms) = (context.limits, context.limits.stream_ms);
    let fault = tokio::select! {
        ended = tokio::time::timeout(Duration::from_millis(limit_ms), guest) => match ended {
            Ok(outcome) => outcome.err(),
            Err(_) => Some(time_limit_fault(&limits, "ran on after its response", "stream_timeout_ms", limit_ms)),
        },
        () = context.running.stopped() => Some(Fault {
            code: FaultCode::DeadlineExceeded,
            detail: "the function ran on after its response, and its tenant has used up what it may".into(),
        }),
    };
    context.send_receipt(fault).await;
}
