//! Why the store cannot be opened, read or written.

use crate::records::CommitError;
use std::io;
use std::path::PathBuf;

/// Findings that an error shows. The others are counted.
const FINDINGS_SHOWN: usize = 8;

/// Why the store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process uses the data folder.
    #[error("{0} is in use by another server, check or repair")]
    InUse(PathBuf),
    /// A newer binary wrote the data folder.
    #[error("the data folder has format {found}; this binary knows up to {known}")]
    Newer {
        /// Format version of the folder.
        found: u32,
        /// The newest format that this binary knows.
        known: u32,
    },
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// A change was made or not, and it is found out later which.
    #[error("it is not known whether the change was stored; it is found out before the next change")]
    Unknown {
        /// Identifies the change.
        ticket: u64,
    },
    /// The operating system or sled failed.
    #[error("storage: {0}")]
    Io(String),
    /// A record cannot be read.
    #[error("{record} cannot be read: {cause}")]
    Corrupt {
        /// The name of the record, for people.
        record: String,
        /// Why the record is invalid.
        cause: String,
    },
    /// The records are not those that were written.
    #[error("the data folder is damaged and is not used: {}", shown(findings))]
    Damaged {
        /// A description of each problem.
        findings: Vec<String>,
    },
}

impl StoreError {
    /// Returns the error of a change that was not begun, because of what is unknown of another one.
    pub(crate) fn of_another(self) -> Self {
        match self {
            Self::Unknown { .. } => Self::Io("it is not known whether an earlier change was stored; try again".into()),
            other => other,
        }
    }
}

fn shown(findings: &[String]) -> String {
    let mut text = findings.iter().take(FINDINGS_SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = findings.len().saturating_sub(FINDINGS_SHOWN);
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull { Self::Full } else { Self::Io(error.to_string()) }
    }
}

impl From<CommitError> for StoreError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Full => Self::Full,
            other => Self::Io(other.to_string()),
        }
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => error.into(),
            other => Self::Io(other.to_string()),
        }
    }
}
