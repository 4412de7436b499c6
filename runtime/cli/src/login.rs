//! `gannet login`, `logout` and `whoami`: the server and the key that are used when neither an option nor an
//! environment variable sets them.

use crate::client::Client;
use crate::connection::{Connection, ReadArgs};
use crate::failure::Outcome;
use crate::printer;
use crate::stored_login::StoredLogin;
use crate::terminal::read_secret;
use clap::Args;
use gannet_api::Whoami;

#[derive(Debug, Args)]
pub struct LoginArgs {
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub struct LogoutArgs {}

pub fn login(arguments: &LoginArgs) -> Outcome {
    let mut connection = arguments.connection.clone();
    if connection.key.is_none() {
        connection.key = Some(read_secret("paste the key")?.trim().to_owned());
    }
    let whoami = Client::new(&connection)?.get::<Whoami>("whoami")?.view()?;
    let url = connection.url();
    // Later commands may run in another folder.
    let ca_file = connection.ca_file.map(|path| path.canonicalize().unwrap_or(path));
    StoredLogin { server: Some(url.clone()), key: connection.key, tenant: connection.tenant, ca_file }.save()?;
    let who = whoami.tenant.as_deref().unwrap_or("the operator");
    printer::note(&format!("logged in to {url} as {who}"));
    Ok(())
}

pub fn logout(_: &LogoutArgs) -> Outcome {
    printer::note(if StoredLogin::remove()? { "logged out" } else { "nobody was logged in" });
    Ok(())
}

pub fn whoami(arguments: &ReadArgs) -> Outcome {
    Client::new(&arguments.connection)?.get::<Whoami>("whoami")?.print_fields(arguments.json);
    Ok(())
}
