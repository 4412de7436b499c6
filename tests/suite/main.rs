//! Integration tests by behaviour, all through the real binary.

mod support;

mod clients;
mod command_line;
mod deploying;
mod durability;
mod edge;
mod faults;
mod gpu;
mod sandbox;
mod tidy;
mod workers;
