//! The binary: a child process of the server if its first argument names a role, otherwise the command line.
//!
//! It only starts commands and children; it contains nothing of what they do.

use gannet::{command, logging};
use gannet_cli::printer;
use gannet_process::child::{Child, Role, exit_now};
use gannet_process::confine_check;
use gannet_sandbox::{build, probe, worker};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref().and_then(Role::from_verb) {
        Some(role) => run_child(role, &arguments.collect::<Vec<_>>()),
        None => command::run(),
    }
}

/// Runs a child process. Nothing may start a thread before [`Child::enter`] returns.
fn run_child(role: Role, arguments: &[String]) -> ! {
    let result = Child::enter(role, || {
        if role == Role::Worker {
            worker::open_own_files()
        }
    })
    .map_err(std::io::Error::other)
    .and_then(|child| {
        logging::log_to_stderr();
        match role {
            Role::Worker => worker::run(child, arguments),
            Role::Builder => build::child::run(child),
            Role::ConfineCheck => confine_check::run(child, arguments),
            Role::Probe => probe::run(&child, arguments),
        }
    });
    match result {
        Ok(()) => exit_now(0),
        Err(error) => {
            printer::error(&format!("{} child: {error}", role.verb().trim_start_matches('_')), &[], None);
            exit_now(1)
        }
    }
}
