//! Finds the reason for a guest's trap: its CPU time, its memory limit, an exit, or an error of the guest.

use crate::guest::GuestState;
use crate::worker::body_end::BodyEnd;
use gannet_base::hop::{Fault, FaultCode};

/// A longer message of a trap is cut off.
const DETAIL_CHARACTERS_MAX: usize = 2000;

/// The guest used up its CPU time. The epoch callback ends it with this error.
#[derive(Debug, thiserror::Error)]
#[error("the function used its {limit_ms} ms of cpu time")]
pub(super) struct CpuLimitReached {
    /// The manifest's setting that limits it.
    pub(super) setting: &'static str,
    pub(super) limit_ms: u64,
}

/// The guest exited before it was done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Exited {
    /// It had not responded.
    #[error("the function ended without a response: it exited with status {0}")]
    WithoutResponse(i32),
    /// It had not finished the body of its response.
    #[error("the function exited with status {0} before the body of its response was finished")]
    WithinBody(i32),
}

impl Exited {
    /// Decides whether an exit is a failure. A guest that has responded and finished its body may exit, with any status.
    pub(super) async fn check(status: i32, responded: bool, end: &BodyEnd) -> wasmtime::Result<()> {
        if !responded {
            return Err(Self::WithoutResponse(status).into());
        }
        if end.passed_after_exit().await { Ok(()) } else { Err(Self::WithinBody(status).into()) }
    }
}

/// Returns the fault to report for a trap.
pub(super) fn fault_of(error: &wasmtime::Error, guest: &GuestState) -> Fault {
    if let Some(CpuLimitReached { setting, limit_ms }) = error.downcast_ref() {
        let detail = format!("the function used its cpu time: {setting} = {limit_ms}");
        return Fault { code: FaultCode::DeadlineExceeded, detail };
    }
    if guest.memory.growth_refused {
        let detail =
            format!("the function reached its memory limit: limits.memory_mib = {}", guest.memory.limit() >> 20);
        return Fault { code: FaultCode::MemoryLimit, detail };
    }
    if let Some(exited) = error.downcast_ref::<Exited>() {
        return Fault { code: FaultCode::FunctionTrapped, detail: exited.to_string() };
    }
    // The detail goes into responses and receipts, and it may hold secrets that the guest put into its message.
    let mut detail = error.root_cause().to_string();
    if let Some(log) = guest.log() {
        detail = log.mask_secrets(detail);
    }
    if let Some((end, _)) = detail.char_indices().nth(DETAIL_CHARACTERS_MAX) {
        detail.truncate(end);
    }
    Fault { code: FaultCode::FunctionTrapped, detail }
}
