//! `gannet kernel`: shows a function's kernels, as they were deployed and as they run.

use crate::answer::{items, print_list};
use crate::client::Client;
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::printer;
use clap::{Args, Subcommand};
use serde_json::Value;

#[derive(Debug, Args)]
pub struct KernelArgs {
    #[command(subcommand)]
    command: KernelCommand,
}

#[derive(Debug, Subcommand)]
enum KernelCommand {
    /// List the GPU kernels of a function
    List {
        #[command(flatten)]
        connection: Connection,
        /// Name of the function
        function: String,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the WGSL of a kernel as the server runs it: with code that ends loops that run too long, and that lets
    /// the kernel run in parts
    Show {
        #[command(flatten)]
        connection: Connection,
        /// Name of the function
        function: String,
        /// Name of the kernel, as `gannet kernel list` shows it
        kernel: String,
        /// Print the WGSL as the tenant deployed it instead
        #[arg(long)]
        source: bool,
    },
}

pub fn run(arguments: &KernelArgs) -> Outcome {
    match &arguments.command {
        KernelCommand::List { connection, function, json } => {
            let answer = Client::new(connection)?.get(&format!("functions/{function}/kernels"))?;
            print_list(&answer, *json, "kernels", &["NAME", "ENTRY"], &["name", "entry"]);
            Ok(())
        }
        KernelCommand::Show { connection, function, kernel, source } => {
            let answer = Client::new(connection)?.get(&format!("functions/{function}/kernels"))?;
            let found =
                items(&answer, "kernels").find(|known| known.get("name").and_then(Value::as_str) == Some(kernel));
            let found = found.ok_or_else(|| {
                Failure::failed(format!("function {function} has no kernel {kernel:?}"))
                    .hint(format!("gannet kernel list {function}"))
            })?;
            let wanted = if *source { "wgsl" } else { "hardened" };
            let printed = found.get(wanted).and_then(Value::as_str).ok_or_else(|| {
                Failure::failed(format!("kernel {kernel:?} was not hardened at deploy"))
                    .hint("an override has no default, or the server had no gpu; try --source".to_owned())
            })?;
            printer::line(printed.trim_end());
            Ok(())
        }
    }
}
