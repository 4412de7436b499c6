//! `gannet config check`: prints all errors of a server's configuration file at once. If it has none, prints the errors
//! of the files that it names.

use clap::{Args, Subcommand};
use gannet_cli::failure::{Failure, Outcome};
use gannet_cli::printer;
use gannet_door::serve::errors_of_named_files;
use gannet_state::config;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a server's configuration file and the files it names
    Check {
        /// Path of the configuration file
        #[arg(default_value = "gannet-server.toml")]
        path: PathBuf,
    },
}

pub fn run(arguments: &ConfigArgs) -> Outcome {
    let ConfigCommand::Check { path } = &arguments.command;
    let wrong = match config::read(path) {
        Ok(file) => errors_of_named_files(&file),
        Err(error) => error.each().iter().map(ToString::to_string).collect(),
    };
    if wrong.is_empty() {
        printer::note(&format!("{} is valid", path.display()));
        return Ok(());
    }
    for line in &wrong {
        printer::line(line);
    }
    let (count, path) = (wrong.len(), path.display());
    Err(Failure::usage(format!("{path} has {count} error{}", if count == 1 { "" } else { "s" })))
}
