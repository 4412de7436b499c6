//! The binary: a child when its first word is a hidden verb, else the command line.

use gannet::cli;
use gannet_process::child::{Child, Role, leave};
use gannet_process::confine_check;
use gannet_sandbox::{build, probe, worker};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref().and_then(Role::from_verb) {
        Some(role) => child(role, &arguments.collect::<Vec<_>>()),
        None => cli::run(),
    }
}

/// Nothing may start a thread before [`Child::enter`] returns.
fn child(role: Role, arguments: &[String]) -> ! {
    let result = Child::enter(role).map_err(std::io::Error::other).and_then(|child| {
        cli::printer::log_to_stderr();
        match role {
            Role::Worker => worker::run(child, arguments),
            Role::Builder => build::child::run(child),
            Role::ConfineCheck => confine_check::run(child, arguments),
            Role::Probe => probe::run(&child, arguments),
        }
    });
    match result {
        Ok(()) => leave(0),
        Err(error) => {
            cli::printer::error(&format!("{} child: {error}", role.verb().trim_start_matches('_')), &[], None);
            leave(1)
        }
    }
}
