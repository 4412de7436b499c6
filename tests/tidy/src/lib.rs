//! The structure of the code, read from its sources: what the compiler cannot hold.
//!
//! `tests/tidy.rs` holds the tables of rules and applies them to the repository; the modules here are pure, and each is
//! tried on made-up sources that break its rule.

// What there is.
pub mod tree;
pub mod workspace;

// What the code means.
pub mod cfg;
pub mod tokens;
pub mod references;
pub mod code;
pub mod resolve;
pub mod arrows;
pub mod functions;

// The rules.
pub mod circles;
pub mod dependencies;
pub mod foreign;
pub mod promises;
pub mod files;
pub mod examples;
pub mod strays;
