//! The parts of the binary that need the server: the list of all commands, and `serve`, `kernel check`, `config check`,
//! `check`, `repair`, `completions` and `doctor`. All other commands are in the crate `gannet-cli`.
//!
//! This is the only crate that knows both the front door and the sandbox. It must do nothing but put them together.
//! Only `main.rs` imports it.

pub mod command;
mod serve;
mod config_check;
mod data_check;
mod doctor;
mod kernel_check;
pub mod logging;
