//! `gannet check` and `gannet repair`: find damage in a server's data folder, and restore what can be restored.

use clap::Args;
use gannet_cli::failure::{Failure, Outcome};
use gannet_cli::printer;
use gannet_state::check::{CheckError, Checked, check};
use gannet_state::config;
use gannet_state::store::StoreError;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Data folder of a server that is not running
    data: PathBuf,
    /// Configuration file of the server, if it names the key of the secrets
    #[arg(long)]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RepairArgs {
    #[command(flatten)]
    folder: CheckArgs,
    /// Also remove the secrets that cannot be decrypted, because their key is lost
    #[arg(long)]
    forget_secrets: bool,
}

fn failed(error: &CheckError) -> Failure {
    let failure = Failure::server(error.to_string());
    match error {
        CheckError::Store(StoreError::InUse(_)) => failure.hint("stop the server first"),
        _ => failure,
    }
}

fn read(arguments: &CheckArgs) -> Result<Checked, Failure> {
    let file = arguments.config.as_deref().map(config::read).transpose();
    let file = file.map_err(|error| Failure::usage(error.to_string()))?.unwrap_or_default();
    check(&arguments.data, file.secrets_key_file.as_ref()).map_err(|error| failed(&error))
}

/// Prints what is wrong, one finding on a line, and returns how much that is.
fn print(checked: &Checked) -> usize {
    let findings = checked.findings();
    findings.inspect(|finding| printer::line(finding)).count()
}

/// Runs `gannet check`.
pub fn run_check(arguments: &CheckArgs) -> Outcome {
    let checked = read(arguments)?;
    let count = print(&checked);
    printer::note(&checked.summary());
    let data = arguments.data.display();
    if count == 0 {
        printer::note(&format!("{data} is not damaged"));
        return Ok(());
    }
    let plural = if count == 1 { "" } else { "s" };
    Err(Failure::server(format!("{data} has {count} finding{plural}"))
        .hint(format!("`gannet repair {data}` restores what can be restored; it removes nothing")))
}

/// Runs `gannet repair`.
pub fn run_repair(arguments: &RepairArgs) -> Outcome {
    let checked = read(&arguments.folder)?;
    let count = print(&checked);
    let data = &arguments.folder.data;
    if count == 0 {
        printer::note(&format!("{} is not damaged", data.display()));
        return Ok(());
    }
    let done = checked.repair(data, arguments.forget_secrets).map_err(|error| failed(&error))?;
    if done.is_empty() {
        printer::note("none of this can be repaired, but a server starts with it");
    }
    for line in done {
        printer::note(&line);
    }
    Ok(())
}
