//! `gannet gpu`: shows the server's GPUs.

use crate::answer::optional;
use crate::client::Client;
use crate::connection::ReadArgs;
use crate::failure::Outcome;
use crate::printer;
use clap::{Args, Subcommand};
use gannet_api::{GpuView, Gpus};

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
    Client::new(&list.connection)?.get("gpus")?.print(list.json, |list: Gpus| {
        let row = |gpu: GpuView| {
            let (memory, context) = (gpu.memory_bytes.to_string(), gpu.context_bytes.to_string());
            let (workers, most) = (optional(gpu.workers), optional(gpu.workers_max));
            vec![gpu.index.to_string(), gpu.class, gpu.name, gpu.driver, gpu.health, memory, context, workers, most]
        };
        let rows: Vec<_> = list.gpus.into_iter().map(row).collect();
        let head = ["INDEX", "CLASS", "NAME", "DRIVER", "HEALTH", "MEMORY", "CONTEXT", "WORKERS", "MAX"];
        printer::table(&head, &rows);
    })
}
