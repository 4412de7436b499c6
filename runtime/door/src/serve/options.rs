//! The options of `gannet serve`, and the errors that keep it from starting or going on.

use gannet_state::config::ConfigError;
use gannet_state::ledger::LedgerError;
use gannet_state::secrets::SecretsError;
use gannet_state::store::StoreError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The options of `gannet serve`.
#[derive(Debug)]
pub struct ServeOptions {
    /// Address to listen on; port 0 picks a free port. None means the file's address, or 127.0.0.1:7070.
    pub listen: Option<SocketAddr>,
    /// Data folder.
    pub data: PathBuf,
    /// Configuration file, if there is one.
    pub config: Option<PathBuf>,
    /// Whether this is a development server: on loopback only, with a tenant whose key everybody knows.
    pub dev: bool,
    /// Serve even when a layer of confinement is missing.
    pub allow_unconfined: bool,
    /// Returns the name of the engine that components are compiled for. The argument says whether `wasi:http` 0.3 is
    /// on. The binary passes this in, because the front door must not depend on wasmtime.
    pub engine_name: fn(bool) -> Result<String, String>,
}

/// Why the server could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server cannot listen on an address.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        cause: io::Error,
    },
    /// A layer of confinement is missing, or a child can do what it must not.
    #[error("children are not fully confined; missing or failed: {missing}")]
    Unconfined {
        /// The missing layers and what a child can do, separated by commas; or why that could not be found out.
        missing: String,
    },
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The key that encrypts secrets cannot be used.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Turns any other error into a [`ServeError`].
pub(super) fn failed(error: impl std::fmt::Display) -> ServeError {
    ServeError::Failed(error.to_string())
}
