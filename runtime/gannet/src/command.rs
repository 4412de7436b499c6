//! The command line: all commands, in the order of `gannet --help`, and the code that each runs.

use crate::{config_check, data_check, doctor, kernel_check, serve};
use clap::{CommandFactory, Parser, Subcommand};
use gannet_cli::command::ClientCommand;
use gannet_cli::failure::{Outcome, exit_code};
use gannet_cli::printer;
use std::process::ExitCode;

/// A self-hosted serverless GPU: runs WebAssembly functions over HTTP that share the GPUs of a server.
#[derive(Debug, Parser)]
#[command(name = "gannet", version, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::ServeArgs),
    #[command(flatten)]
    Client(ClientCommand),
    /// Check WGSL files, or show the GPU kernels of a function
    Kernel(kernel_check::KernelArgs),
    /// Check a server's configuration file
    Config(config_check::ConfigArgs),
    /// Look for damage in a server's data folder
    Check(data_check::CheckArgs),
    /// Restore what can be restored in a damaged data folder
    Repair(data_check::RepairArgs),
    /// Print a completion script for a shell
    Completions {
        /// Shell to print the script for
        shell: clap_complete::Shell,
    },
    /// Check whether this machine can run the server: its GPU drivers, and the confinement of workers
    Doctor(doctor::DoctorArgs),
}

/// Runs the command that the process was started with, and returns its exit code.
pub fn run() -> ExitCode {
    match CommandLine::try_parse() {
        Ok(CommandLine { command }) => exit_code(run_command(command)),
        Err(error) => {
            // Help and version are not errors and go to stdout.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { 2 } else { 0 })
        }
    }
}

fn run_command(command: Command) -> Outcome {
    match command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Client(command) => command.run(),
        Command::Kernel(arguments) => kernel_check::run(&arguments),
        Command::Config(arguments) => config_check::run(&arguments),
        Command::Check(arguments) => data_check::run_check(&arguments),
        Command::Repair(arguments) => data_check::run_repair(&arguments),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "gannet", &mut script);
            printer::bytes(&script);
            Ok(())
        }
        Command::Doctor(arguments) => doctor::run(&arguments),
    }
}
