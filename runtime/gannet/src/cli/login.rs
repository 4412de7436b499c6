//! `gannet login`, `gannet logout`: which server, and with which key, where neither a flag nor a variable says so. Kept in
//! `$XDG_CONFIG_HOME/gannet/login.toml`, for its owner's eyes only.

use crate::cli::client::Client;
use crate::cli::{Connection, Failure, Outcome, printer};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct LoginArgs {
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(super) struct LogoutArgs {}

/// What is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) server: Option<String>,
    pub(super) key: Option<String>,
    pub(super) tenant: Option<String>,
}

fn place() -> Option<PathBuf> {
    let of_variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = of_variable("XDG_CONFIG_HOME").or_else(|| Some(of_variable("HOME")?.join(".config")))?;
    Some(folder.join("gannet").join("login.toml"))
}

/// What is kept, if anything is.
pub(super) fn stored() -> Stored {
    let text = place().and_then(|path| std::fs::read_to_string(path).ok());
    text.and_then(|text| toml::from_str(&text).ok()).unwrap_or_default()
}

/// Reads a line from standard input, for what must not stand in a command's history.
pub(super) fn read_hidden(what: &str) -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        printer::note(&format!("{what}, then Enter and Ctrl-D:"));
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage("cannot read standard input").because(error))?;
    Ok(text)
}

pub(super) fn login(arguments: &LoginArgs) -> Outcome {
    let failed = |error: std::io::Error| Failure::failed("the login could not be kept").because(error);
    let mut connection = arguments.connection.clone();
    if connection.key.is_none() {
        connection.key = Some(read_hidden("paste the key")?.trim().to_owned());
    }
    let whoami = Client::new(&connection)?.get("whoami")?;
    let path = place().ok_or_else(|| Failure::usage("neither XDG_CONFIG_HOME nor HOME is set"))?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let stored =
        Stored { server: Some(connection.url()), key: connection.key.clone(), tenant: connection.tenant.clone() };
    let text =
        toml::to_string(&stored).map_err(|error| Failure::failed("the login cannot be written").because(error))?;
    // Made anew, so that an old one that others may read does not lend its mode.
    let _ = std::fs::remove_file(&path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    let who = whoami.get("tenant").and_then(serde_json::Value::as_str).unwrap_or("the operator");
    printer::note(&format!("logged in to {} as {who}", connection.url()));
    Ok(())
}

pub(super) fn logout(_: &LogoutArgs) -> Outcome {
    let path = place().ok_or_else(|| Failure::usage("neither XDG_CONFIG_HOME nor HOME is set"))?;
    match std::fs::remove_file(path) {
        Ok(()) => printer::note("logged out"),
        Err(_) => printer::note("nobody was logged in"),
    }
    Ok(())
}
