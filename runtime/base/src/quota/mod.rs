//! How much a caller may use: rates, counters of a tenant, and permits to run requests. Decisions are pure and take the
//! time as an argument.

pub mod rate;
pub mod address;
pub mod account;
mod periods;
pub mod fair;
pub mod demand;
pub mod job_permits;
pub mod permits;
pub mod call_permits;
