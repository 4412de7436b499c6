//! Lets a guest run on after its response was sent, within its time limit, and sends its receipt when it ends.

use crate::worker::response::context::ResponseContext;
use crate::worker::response::faults::time_limit_fault;
use crate::worker::running_guest::GuestFuture;
use std::time::Duration;

/// Runs the guest to its end or to its limit.
pub(super) async fn run_on(context: ResponseContext, guest: GuestFuture) {
    let limit_ms = context.limits.stream_ms;
    let fault = match tokio::time::timeout(Duration::from_millis(limit_ms), guest).await {
        Ok(outcome) => outcome.err(),
        Err(_) => Some(time_limit_fault("ran on after its response", "stream_timeout_ms", limit_ms)),
    };
    context.send_receipt(fault).await;
}
