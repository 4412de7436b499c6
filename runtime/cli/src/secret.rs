//! `gannet secret`: sets, lists and deletes secrets. A value is read from standard input and never shown.

use crate::answer::joined;
use crate::client::{Client, segment};
use crate::connection::{Connection, ReadArgs};
use crate::failure::Outcome;
use crate::printer;
use crate::terminal::read_secret;
use clap::{Args, Subcommand};
use gannet_api::{SecretView, Secrets};

#[derive(Debug, Args)]
pub struct SecretArgs {
    #[command(subcommand)]
    command: SecretCommand,
}

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Set a secret to the text on standard input, as in `gannet secret set API_TOKEN < token.txt`
    Set {
        #[command(flatten)]
        connection: Connection,
        /// Name of the secret
        name: String,
    },
    /// List the names of the secrets, and the functions that use them
    List(ReadArgs),
    /// Delete a secret
    Delete {
        #[command(flatten)]
        connection: Connection,
        /// Name of the secret
        name: String,
    },
}

pub fn run(arguments: &SecretArgs) -> Outcome {
    match &arguments.command {
        SecretCommand::Set { connection, name } => {
            let client = Client::new(connection)?;
            let value = read_secret("the secret's value")?;
            client.send_text("PUT", &format!("secrets/{}", segment(name)), &value)?;
            printer::note(&format!("the secret {name} was set"));
        }
        SecretCommand::List(list) => {
            Client::new(&list.connection)?.get("secrets")?.print(list.json, |secrets: Secrets| {
                let row = |secret: SecretView| vec![secret.name, secret.set, joined(&secret.functions)];
                let rows: Vec<_> = secrets.secrets.into_iter().map(row).collect();
                printer::table(&["NAME", "SET", "FUNCTIONS"], &rows);
            })?;
        }
        SecretCommand::Delete { connection, name } => {
            Client::new(connection)?.delete(&format!("secrets/{}", segment(name)))?;
            printer::note(&format!("the secret {name} was deleted"));
        }
    }
    Ok(())
}
