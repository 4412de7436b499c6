//! Hooks: what tenants do to them (`calls`), and what is posted to them (`receive`). [`crate::hook`] has the decisions.

mod calls;
mod receive;

pub use calls::{HookError, HookView, MadeHook, Replaced};
pub use receive::{OpenHook, ReceiveError, Received};

pub(super) use calls::forget_orphans;
