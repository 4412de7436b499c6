//! `gannet kernel`: shows a function's kernels, as they were deployed and as they run.

use crate::client::{Client, segment};
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::printer;
use clap::Subcommand;
use gannet_api::{KernelView, Kernels};

/// The commands about kernels that ask a server.
#[derive(Debug, Subcommand)]
pub enum KernelOfServer {
    /// List the GPU kernels of a function
    List {
        /// How to reach the server
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
        /// How to reach the server
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

impl KernelOfServer {
    /// Runs the command.
    ///
    /// # Errors
    /// The failure says what to print and with which code to exit.
    pub fn run(&self) -> Outcome {
        match self {
            Self::List { connection, function, json } => {
                let answer = Client::new(connection)?.get(&format!("functions/{}/kernels", segment(function)))?;
                answer.print(*json, |list: Kernels| {
                    let row = |kernel: KernelView| vec![kernel.name, kernel.entry];
                    let rows: Vec<_> = list.kernels.into_iter().map(row).collect();
                    printer::table(&["NAME", "ENTRY"], &rows);
                })
            }
            Self::Show { connection, function, kernel, source } => {
                let list: Kernels =
                    Client::new(connection)?.get(&format!("functions/{}/kernels", segment(function)))?.view()?;
                let found = list.kernels.into_iter().find(|known| known.name == *kernel);
                let found = found.ok_or_else(|| {
                    Failure::failed(format!("function {function} has no kernel {kernel:?}"))
                        .hint(format!("gannet kernel list {function}"))
                })?;
                let wanted = if *source { Some(found.wgsl) } else { found.hardened };
                let printed = wanted.ok_or_else(|| {
                    Failure::failed(format!("kernel {kernel:?} was not hardened at deploy"))
                        .hint("an override has no default, or the server had no gpu; try --source".to_owned())
                })?;
                printer::line(printed.trim_end());
                Ok(())
            }
        }
    }
}
