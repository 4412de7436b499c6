//! `gannet asset`: uploads, lists and deletes assets.

use crate::answer::{items, text};
use crate::client::Client;
use crate::connection::Connection;
use crate::failure::Outcome;
use crate::{printer, upload};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct AssetArgs {
    #[command(subcommand)]
    command: AssetCommand,
}

#[derive(Debug, Subcommand)]
enum AssetCommand {
    /// Upload a file as an asset; an interrupted upload is continued
    Put {
        #[command(flatten)]
        connection: Connection,
        /// Name of the asset
        name: String,
        /// File to upload
        file: PathBuf,
        /// Print the server's response as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the assets of the tenant
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        connection: Connection,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete the name of an asset; versions that were deployed with the asset keep it
    #[command(visible_alias = "rm")]
    Delete {
        #[command(flatten)]
        connection: Connection,
        /// Name of the asset
        name: String,
    },
}

pub fn run(arguments: &AssetArgs) -> Outcome {
    match &arguments.command {
        AssetCommand::Put { connection, name, file, json } => {
            let answer = upload::put(&Client::new(connection)?, name, file)?;
            print_asset(&answer, *json);
        }
        AssetCommand::List { connection, json } => list(&Client::new(connection)?, *json)?,
        AssetCommand::Delete { connection, name } => {
            Client::new(connection)?.delete(&format!("assets/{name}"))?;
            printer::note(&format!("asset {name} was deleted"));
        }
    }
    Ok(())
}

fn print_asset(answer: &Value, json: bool) {
    if json {
        return printer::json(answer);
    }
    printer::line(text(answer, "digest"));
    printer::note(&format!("to use it, add to gannet.toml:\n[assets]\nweights = {:?}", text(answer, "name")));
}

fn list(client: &Client, json: bool) -> Outcome {
    let answer = client.get_all_pages("assets", "assets")?;
    if json {
        printer::json(&answer);
        return Ok(());
    }
    let row = |asset: &Value| {
        let size = asset.get("size").and_then(Value::as_u64).map(|size| size.to_string()).unwrap_or_default();
        let functions: Vec<&str> = items(asset, "functions").filter_map(Value::as_str).collect();
        let upload = asset.get("upload").filter(|upload| !upload.is_null()).map(|upload| {
            let number = |name| upload.get(name).and_then(Value::as_u64).unwrap_or_default();
            format!("{} of {}", number("received"), number("size"))
        });
        let digest: String = text(asset, "digest").chars().take(12).collect();
        vec![text(asset, "name").to_owned(), size, digest, functions.join(","), upload.unwrap_or_default()]
    };
    let rows: Vec<Vec<String>> = items(&answer, "assets").map(row).collect();
    printer::table(&["NAME", "BYTES", "DIGEST", "FUNCTIONS", "UPLOADING"], &rows);
    Ok(())
}
