//! `gannet asset`: uploads, lists and deletes assets.

use crate::answer::{Answer, joined};
use crate::client::{Client, segment};
use crate::connection::Connection;
use crate::failure::Outcome;
use crate::{printer, upload};
use clap::{Args, Subcommand};
use gannet_api::{AssetView, Assets};
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
            print_asset(&upload::put(&Client::new(connection)?, name, file)?, *json)?;
        }
        AssetCommand::List { connection, json } => list(&Client::new(connection)?, *json)?,
        AssetCommand::Delete { connection, name } => {
            Client::new(connection)?.delete(&format!("assets/{}", segment(name)))?;
            printer::note(&format!("asset {name} was deleted"));
        }
    }
    Ok(())
}

fn print_asset(answer: &Answer<AssetView>, json: bool) -> Outcome {
    answer.print(json, |asset| {
        printer::line(&asset.digest.unwrap_or_default());
        printer::note(&format!("to use it, add to gannet.toml:\n[assets]\nweights = {:?}", asset.name));
    })
}

fn list(client: &Client, json: bool) -> Outcome {
    client.get_all_pages("assets", "assets")?.print(json, |list: Assets| {
        let row = |asset: AssetView| {
            let size = asset.size.map(|size| size.to_string()).unwrap_or_default();
            let digest = asset.digest.unwrap_or_default().chars().take(12).collect();
            let upload = asset.upload.map(|upload| format!("{} of {}", upload.received, upload.size));
            vec![asset.name, size, digest, joined(&asset.functions), upload.unwrap_or_default()]
        };
        let rows: Vec<_> = list.assets.into_iter().map(row).collect();
        printer::table(&["NAME", "BYTES", "DIGEST", "FUNCTIONS", "UPLOADING"], &rows);
    })
}
