//! The errors of a server file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Why a configuration is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {cause}")]
    Read {
        /// The file's path.
        path: PathBuf,
        /// Error of the operating system.
        cause: String,
    },
    /// The file is not TOML, a key is unknown, or its value is invalid.
    #[error("{key}: {cause}")]
    Key {
        /// Full path of the key, as in `limits.keys`, or the line if the file is not TOML.
        key: String,
        /// The error in the setting.
        cause: String,
    },
    /// A value is out of its range.
    #[error("{name} = {value}; it may be {least} to {most}")]
    Range {
        /// Full path of the key.
        name: String,
        /// The value in the file.
        value: u64,
        /// Smallest allowed value.
        least: u64,
        /// Largest allowed value.
        most: u64,
    },
    /// The file names a GPU that was not found.
    #[error("gpus: there is no gpu {index}; {found} were found, see `gannet doctor`")]
    NoSuchGpu {
        /// Index in the file.
        index: u32,
        /// Number of GPUs found.
        found: usize,
    },
    /// `--dev` with an address that other machines can reach.
    #[error("--dev serves only a loopback address, not {0}: its key is known to everybody")]
    DevBeyondLoopback(SocketAddr),
    /// There are errors in a file.
    #[error("{}", errors.iter().map(|error| format!("{}: {error}", path.display())).collect::<Vec<_>>().join("\n"))]
    InFile {
        /// The file's path.
        path: PathBuf,
        /// The errors.
        errors: Vec<ConfigError>,
    },
    /// There are several errors.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Many(Vec<ConfigError>),
}

impl ConfigError {
    /// Returns the single errors that this error consists of.
    pub fn each(&self) -> &[Self] {
        match self {
            Self::Many(errors) | Self::InFile { errors, .. } => errors,
            one => std::slice::from_ref(one),
        }
    }

    /// Returns the error with the name of the file that it is in.
    pub fn in_file(self, path: Option<&Path>) -> Self {
        match (path, self) {
            (None, error) | (_, error @ Self::InFile { .. }) => error,
            (Some(path), Self::Many(errors)) => Self::InFile { path: path.to_owned(), errors },
            (Some(path), error) => Self::InFile { path: path.to_owned(), errors: vec![error] },
        }
    }

    pub(super) fn from_list(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Many(errors)),
        }
    }
}
