//! `gannet list`, `versions` and `delete`: list functions and versions, and delete a function.

use crate::answer::print_list;
use crate::client::Client;
use crate::connection::{Connection, ReadArgs};
use crate::failure::Outcome;
use crate::printer;
use clap::Args;

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
    let answer = client.get_all_pages("functions", "functions")?;
    print_list(
        &answer,
        arguments.json,
        "functions",
        &["NAME", "VERSION", "DEPLOYED", "PUBLIC", "URL"],
        &["name", "version", "deployed", "public", "url"],
    );
    Ok(())
}

pub fn versions(arguments: &VersionsArgs) -> Outcome {
    let answer = Client::new(&arguments.connection)?.get(&format!("functions/{}/versions", arguments.name))?;
    print_list(
        &answer,
        arguments.json,
        "versions",
        &["VERSION", "WEIGHT", "TAGS", "DEPLOYED", "SIZE", "DIGEST"],
        &["version", "weight", "tags", "deployed", "size", "digest"],
    );
    Ok(())
}

pub fn delete(arguments: &DeleteArgs) -> Outcome {
    Client::new(&arguments.connection)?.delete(&format!("functions/{}", arguments.name))?;
    printer::note(&format!("deleted {}", arguments.name));
    Ok(())
}
