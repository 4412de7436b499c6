//! `gannet gpu`: shows the server's GPUs.

use crate::answer::print_list;
use crate::client::Client;
use crate::connection::ReadArgs;
use crate::failure::Outcome;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct GpuArgs {
    #[command(subcommand)]
    command: GpuCommand,
}

#[derive(Debug, Subcommand)]
enum GpuCommand {
    /// List the GPUs, with their class, health, memory in bytes and number of workers
    List(ReadArgs),
}

pub fn run(arguments: &GpuArgs) -> Outcome {
    let GpuCommand::List(list) = &arguments.command;
    let answer = Client::new(&list.connection)?.get("gpus")?;
    print_list(
        &answer,
        list.json,
        "gpus",
        &["INDEX", "CLASS", "NAME", "DRIVER", "HEALTH", "MEMORY", "CONTEXT", "WORKERS", "MAX"],
        &["index", "class", "name", "driver", "health", "memory_bytes", "context_bytes", "workers", "workers_max"],
    );
    Ok(())
}
