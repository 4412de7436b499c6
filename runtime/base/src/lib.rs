//! The vocabulary of Gannet: what every other crate may name, and nothing that acts.
//!
//! No file here opens a socket, starts a process, reads a file or knows a status code. Decisions are pure and take the time as an
//! argument; what waits ([`quota::permits`]) waits for a permit, with a limit. Everything is hostile until a type here says that it was checked: a [`names::TenantName`] is a name, a
//! [`manifest::Manifest`] is within its limits.

// Who and what.
pub mod names;
pub mod scopes;
pub mod identity;
pub mod time;

// What a tenant asks for and may have.
pub mod allowed_hosts;
pub mod manifest;
pub mod kernel_section;
pub mod limits;
pub mod quota;

// What is said between processes, and what is kept.
pub mod hop;
pub mod records;
pub mod bill;

// What goes back to a client.
pub mod headers;
pub mod body;
pub mod refusal;
