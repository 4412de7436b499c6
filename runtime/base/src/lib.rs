//! The vocabulary of Gannet: types and pure decisions that every other crate may use.
//!
//! No file here opens a socket, starts a process, reads a file or knows an HTTP status code. Decisions are pure and
//! take the time as an argument. Only [`quota::permits`] waits: for a permit, and for a limited time. Input counts as
//! hostile until it has one of these types: a [`names::TenantName`] is a valid name, and the settings of a
//! [`manifest::Manifest`] are within their limits.

// Names and identities.
pub mod names;
pub mod scopes;
pub mod identity;
pub mod time;
pub mod cron;

// What a function asks for, and what its tenant may use.
pub mod allowed_hosts;
pub mod manifest;
pub mod kernel_section;
pub mod limits;
pub mod siblings;
pub mod quota;

// Messages between processes, and what is stored.
pub mod hop;
pub mod records;
pub mod bill;
pub mod log_line;

// Responses to clients.
pub mod headers;
pub mod trailers;
pub mod body;
pub mod refusal;
