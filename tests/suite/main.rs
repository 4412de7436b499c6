//! Integration tests by behaviour, all through the real binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that fails panics"
)]

mod support;

mod attacks;
mod clients;
mod command_line;
mod deploying;
mod durability;
mod edge;
mod faults;
mod gpu;
mod sandbox;
mod sharing;
mod tidy;
mod workers;
