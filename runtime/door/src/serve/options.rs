//! What `gannet serve` is asked for, and why it does not start or go on.

use gannet_state::config::ConfigError;
use gannet_state::ledger::LedgerError;
use gannet_state::secrets::SecretsError;
use gannet_state::store::StoreError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What `gannet serve` was asked for.
#[derive(Debug)]
pub struct ServeOptions {
    /// Address; port 0 picks one.
    pub listen: Option<SocketAddr>,
    /// Data folder.
    pub data: PathBuf,
    /// Configuration file.
    pub config: Option<PathBuf>,
    /// Development server.
    pub dev: bool,
    /// Serve even when a layer of confinement is missing.
    pub allow_unconfined: bool,
    /// Names the engine that components are compiled for, given whether `wasi:http` 0.3 is on. The front door does not know
    /// wasmtime; the binary does.
    pub engine_name: fn(bool) -> Result<String, String>,
}

/// Why the server could not start, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// A layer of confinement is missing.
    #[error("children cannot be confined: {missing} missing")]
    Unconfined {
        /// Which.
        missing: String,
    },
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Secrets cannot be opened.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Any other reason.
pub(super) fn failed(error: impl std::fmt::Display) -> ServeError {
    ServeError::Failed(error.to_string())
}
