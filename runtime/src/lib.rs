//! Gannet: a self-hosted serverless GPU.
//!
//! The modules stand in the order in which a request meets them. Each step of the path owns the next
//! as a private field, so that none can be skipped: front → auth → route → admit → pool → (another
//! process) worker. `meter` closes the tab and `respond` is the only file that names a status code.

// The path of a request.
pub mod inbound;
pub mod front;
pub mod auth;
pub mod route;
pub mod admit;
pub mod pool;
pub mod hop;
pub mod worker;
pub mod meter;
pub mod respond;

// Beside the path.
pub mod openai;
pub mod control;
pub mod egress;
pub mod registry;
pub mod secrets;
pub mod store;
pub mod build;
pub mod arbiter;
pub mod logs;
pub mod serve;

// What everything stands on.
pub mod engine;
pub mod gpus;
pub mod process;
pub mod limits;
pub mod manifest;
pub mod config;
pub mod names;
pub mod cli;
