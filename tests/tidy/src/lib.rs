//! Checks of the code's structure that the compiler does not make. They read the sources and build nothing.
//!
//! `tests/tidy.rs` has the tables of rules and applies them to the repository. The modules here are pure: each works on
//! files in memory, and its tests break its rule with made-up sources. Run them all with `cargo test -p gannet-tidy`.

// The files and packages.
pub mod tree;
pub mod workspace;

// The meaning of the code.
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
