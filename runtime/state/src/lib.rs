//! Everything durable: the server file, the store, the ledger, the registry of deployed functions, and secrets.
//!
//! Nothing here serves requests, starts processes or loads a GPU driver.

pub mod config;
mod lines;
mod segments;
mod wait;
mod faults;
pub mod store;
pub mod ledger;
pub mod records;
pub mod streams;
pub mod keyvalue;
pub mod tab;
pub mod registry;
pub mod secrets;
pub mod check;
