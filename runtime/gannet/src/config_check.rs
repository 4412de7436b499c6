//! `gannet config check`: prints all errors of a server's configuration file at once. If it has none, prints the errors
//! of the files that it names.

use clap::{Args, Subcommand};
use gannet_cli::failure::{Failure, Outcome};
use gannet_cli::printer;
use gannet_door::front::check_tls;
use gannet_fleet::egress;
use gannet_state::config::ServerConfig;
use gannet_state::{config, secrets};
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

/// Returns the errors of the files that a configuration file names.
fn errors_of_named_files(file: &ServerConfig) -> Vec<String> {
    let tls = file.tls.as_ref().and_then(|files| check_tls(files).err());
    let tls = tls.map(|error| format!("tls: {error}"));
    let key = file.secrets_key_file.as_deref().and_then(|path| secrets::check_key_file(path).err());
    let key = key.map(|error| format!("secrets_key_file: {error}"));
    let ca = file.egress.ca_file.as_deref().and_then(|path| egress::check_ca_file(path).err());
    let ca = ca.map(|error| format!("egress.ca_file: {error}"));
    [tls, key, ca].into_iter().flatten().collect()
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
