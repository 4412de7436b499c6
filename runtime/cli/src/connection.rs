//! The options that every command has: the server, and the key and tenant to use.

use crate::failure::Failure;
use crate::stored_login::StoredLogin;
use clap::Args;
use std::path::PathBuf;

/// The server, and the key and tenant to use.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// URL of the server [default: the one saved by `gannet login`, or http://127.0.0.1:7070]
    #[arg(long, env = "GANNET_SERVER")]
    pub server: Option<String>,
    /// API key [default: the one saved by `gannet login` for this server]
    #[arg(long, env = "GANNET_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Tenant to act for; only with the operator's key, which belongs to no tenant
    #[arg(long)]
    pub tenant: Option<String>,
    /// PEM file with certificates to trust instead of the built-in ones: of CAs, or of the server itself [default: the one
    /// saved by `gannet login` for this server]
    #[arg(long, env = "GANNET_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// The arguments of a command that only shows something.
#[derive(Debug, Args)]
pub struct ReadArgs {
    /// The server, and the key and tenant to use.
    #[command(flatten)]
    pub connection: Connection,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl Connection {
    /// Fills in missing options from the stored login. A stored key is only sent to the server that it was stored for.
    pub fn resolved(&self) -> Result<Self, Failure> {
        // A login that cannot be read matters only where something of it is needed.
        let stored = match StoredLogin::load() {
            Err(_) if self.server.is_some() && self.key.is_some() => StoredLogin::default(),
            stored => stored?,
        };
        let same_server = self.server.is_none() || self.server == stored.server;
        let stored_if_same = |value: Option<String>| value.filter(|_| same_server);
        Ok(Self {
            server: self.server.clone().or(stored.server),
            key: self.key.clone().or_else(|| stored_if_same(stored.key)),
            tenant: self.tenant.clone().or_else(|| stored_if_same(stored.tenant).filter(|_| self.key.is_none())),
            ca_file: self.ca_file.clone().or_else(|| stored.ca_file.filter(|_| same_server)),
        })
    }

    /// Returns the server's URL.
    pub fn url(&self) -> String {
        self.server.clone().unwrap_or_else(|| "http://127.0.0.1:7070".into())
    }
}
