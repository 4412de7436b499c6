//! The faults that a receipt reports for a guest whose response could not be finished.

use crate::worker::request_limits::RequestLimits;
use gannet_base::hop::{Fault, FaultCode};
use gannet_base::trailers::FIELDS_MAX;

/// The fault of a guest that exceeded a time limit. `what` is the predicate of the message: "the function `what`";
/// `setting` is the limit's name in `[limits]`.
pub(super) fn time_limit_fault(limits: &RequestLimits, what: &str, setting: &str, limit_ms: u64) -> Fault {
    let detail = format!("the function {what}: {}", limits.time_setting(setting, limit_ms));
    Fault { code: FaultCode::DeadlineExceeded, detail }
}

/// The fault of a guest whose body ended with an error.
pub(super) fn broken_body(error: &impl std::fmt::Display) -> Fault {
    Fault { code: FaultCode::FunctionTrapped, detail: format!("the function's body broke off: {error}") }
}

/// The fault of a guest that sent more trailers than are forwarded.
pub(super) fn too_many_trailers(count: usize) -> Fault {
    let detail = format!("the function sent {count} trailers; there must be at most {FIELDS_MAX}");
    Fault { code: FaultCode::FunctionTrapped, detail }
}

/// The fault of a guest whose body has `sent` bytes so far, or as a whole, where it had announced another number.
pub(super) fn wrong_length(announced: u64, sent: u64) -> Fault {
    let detail = format!("the function announced a body of {announced} bytes and sent {sent}");
    Fault { code: FaultCode::FunctionTrapped, detail }
}
