//! Integration tests, one file for each behaviour, all through the real binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that fails panics"
)]

mod support;

mod assets;
mod attacks;
mod batches;
mod builds;
mod clients;
mod command_line;
mod connecting;
mod damage;
mod deploying;
mod durability;
mod edge;
mod egress;
mod faults;
mod front;
mod full_disk;
mod gpu;
mod hook_results;
mod hooks;
mod http;
mod instances;
mod job_access;
mod job_attempts;
mod job_commands;
mod job_gpu;
mod job_kills;
mod job_limits;
mod job_rules;
mod jobs;
mod keyvalue;
mod leaving;
mod ledger;
mod limits;
mod openai;
mod progress;
mod sandbox;
mod scaling;
mod schedules;
mod secrets;
mod sharing;
mod sibling_kills;
mod siblings;
mod snapshots;
mod spending;
mod tenants;
mod trailers;
mod versions;
mod webhooks;
mod workers;
