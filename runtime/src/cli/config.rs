//! `gannet config check`: everything that is wrong with a server's file, at once.

use super::{Failure, Outcome, printer};
use crate::config;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Check a server's file
    Check {
        /// The file
        #[arg(default_value = "gannet-server.toml")]
        path: PathBuf,
    },
}

pub(super) fn run(arguments: &ConfigArgs) -> Outcome {
    let ConfigVerb::Check { path } = &arguments.verb;
    match config::read(path) {
        Ok(_) => {
            printer::note(&format!("{} is good", path.display()));
            Ok(())
        }
        Err(error) => {
            let each = error.each();
            for error in each {
                printer::line(&error.to_string());
            }
            let (count, path) = (each.len(), path.display());
            Err(Failure::usage(format!("{path} has {count} error{}", if count == 1 { "" } else { "s" })))
        }
    }
}
