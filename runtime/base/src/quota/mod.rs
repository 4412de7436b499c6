//! How much a caller may use: rates, counters of a tenant, and permits to run. Decisions are pure and take the time.

pub mod rate;
pub mod address;
pub mod account;
pub mod fair;
pub mod permits;
