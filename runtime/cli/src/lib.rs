//! The commands of `gannet` that talk to a server over HTTP: every command except `serve`, `config check`,
//! `completions` and `doctor`.
//!
//! This crate is a client. It must never depend on the server's crates (process, sandbox, state, fleet, door): a change
//! to the server then compiles none of this again, and what a command does can also be done by anyone else who speaks
//! HTTP.
//!
//! Data goes to stdout, everything else to stderr ([`printer`]). Exit codes are in [`failure`].

pub mod command;

// The commands.
mod deploy;
mod invoke;
mod function;
mod traffic;
mod configure;
mod logs;
mod receipt;
mod job;
mod batch;
mod queue;
mod schedule;
mod hook;
mod webhook;
mod usage;
mod audit;
mod asset;
mod secret;
mod login;
mod gpu;
pub mod kernel;
mod tenant;
mod key;

// What they share, highest first: each file imports only those below it.
mod package;
mod upload;
mod job_api;
mod proxy;
mod client;
mod connection;
mod stored_login;
mod answer;
mod data;
mod terminal;
pub mod failure;
mod pinned_tls;
pub mod printer;
