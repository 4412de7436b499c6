//! Finds the reason for a guest's trap: its CPU time, its memory limit, an exit, or an error of the guest.

use crate::guest::GuestState;
use gannet_base::hop::{Fault, FaultCode};

/// A longer message of a trap is cut off.
const DETAIL_CHARACTERS_MAX: usize = 2000;

/// The guest used up its CPU time. The epoch callback ends it with this error.
#[derive(Debug, thiserror::Error)]
#[error("the function used its {limit_ms} ms of cpu time")]
pub(super) struct CpuLimitReached {
    pub(super) limit_ms: u64,
}

/// Whether the guest exited with status 0: its way to say that it is done. It may have responded or not.
pub(super) fn is_clean_exit(error: &wasmtime::Error) -> bool {
    error.downcast_ref::<wasmtime_wasi::I32Exit>().is_some_and(|exit| exit.0 == 0)
}

/// Returns the fault to report for a trap.
pub(super) fn fault_of(error: &wasmtime::Error, guest: &GuestState) -> Fault {
    if let Some(CpuLimitReached { limit_ms }) = error.downcast_ref() {
        let detail = format!("the function used its cpu time: limits.cpu_ms = {limit_ms}");
        return Fault { code: FaultCode::DeadlineExceeded, detail };
    }
    if guest.memory.growth_refused {
        let detail =
            format!("the function reached its memory limit: limits.memory_mib = {}", guest.memory.limit() >> 20);
        return Fault { code: FaultCode::MemoryLimit, detail };
    }
    if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        let detail = format!("the function exited with status {} instead of responding", exit.0);
        return Fault { code: FaultCode::FunctionTrapped, detail };
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
