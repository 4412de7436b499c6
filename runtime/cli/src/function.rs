//! `gannet list`, `versions` and `delete`: list functions and versions, and delete a function.

use crate::answer::joined;
use crate::client::{Client, segment};
use crate::connection::{Connection, ReadArgs};
use crate::failure::Outcome;
use crate::printer;
use clap::Args;
use gannet_api::{FunctionView, Functions, VersionView, Versions};

#[derive(Debug, Args)]
pub struct VersionsArgs {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
}

pub fn list(arguments: &ReadArgs) -> Outcome {
    let client = Client::new(&arguments.connection)?;
    client.get_all_pages("functions", "functions")?.print(arguments.json, |list: Functions| {
        let row = |function: FunctionView| {
            let FunctionView { name, version, deployed, public, url, workers, workers_wanted, .. } = function;
            // As those that there are of those that are wanted.
            let workers = format!("{workers}/{}", workers_wanted.max(workers));
            vec![name, version.to_string(), deployed, public.to_string(), workers, url]
        };
        let rows: Vec<_> = list.functions.into_iter().map(row).collect();
        printer::table(&["NAME", "VERSION", "DEPLOYED", "PUBLIC", "WORKERS", "URL"], &rows);
    })
}

pub fn versions(arguments: &VersionsArgs) -> Outcome {
    let client = Client::new(&arguments.connection)?;
    client.get(&format!("functions/{}/versions", segment(&arguments.name)))?.print(arguments.json, |list: Versions| {
        let row = |version: VersionView| {
            let VersionView { version, weight, tags, deployed, size, digest, .. } = version;
            vec![version.to_string(), weight.to_string(), joined(&tags), deployed, size.to_string(), digest]
        };
        let rows: Vec<_> = list.versions.into_iter().map(row).collect();
        printer::table(&["VERSION", "WEIGHT", "TAGS", "DEPLOYED", "SIZE", "DIGEST"], &rows);
    })
}

pub fn delete(arguments: &DeleteArgs) -> Outcome {
    Client::new(&arguments.connection)?.delete(&format!("functions/{}", segment(&arguments.name)))?;
    printer::note(&format!("deleted {}", arguments.name));
    Ok(())
}
