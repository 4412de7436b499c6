//! The parts of the binary that need the server: the list of all commands, and `serve`, `config check`, `completions` and
//! `doctor`. All other commands are in the crate `gannet-cli`.
//!
//! This is the only crate that knows both the front door and the sandbox, and it must do nothing but put them together:
//! nothing imports it except `main.rs`.

pub mod command;
mod serve;
mod config_check;
mod doctor;
pub mod logging;
