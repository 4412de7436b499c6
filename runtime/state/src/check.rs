//! `gannet check` and `gannet repair`: finds what is damaged or missing in a data folder, and restores what can be
//! restored. No server may use the folder meanwhile.

use crate::ledger::{self, LedgerError};
use crate::records::local::LocalStore;
use crate::secrets::Vault;
use crate::store::files::sync_folder;
use crate::store::{SET_ASIDE, StoreError, StoredFile, StoredRecords};
use gannet_base::names::TenantName;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Why a data folder cannot be checked or repaired.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The records cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger cannot be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A file cannot be read or moved.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
}

/// What a check found.
#[derive(Debug)]
pub struct Checked {
    records: StoredRecords,
    ledger: ledger::check::LedgerCheck,
    /// Files whose bytes are not those that were stored.
    wrong_files: Vec<PathBuf>,
    /// A description of each problem with a file.
    file_findings: Vec<String>,
    /// Secrets that cannot be decrypted, and a description of each.
    lost_secrets: Vec<(TenantName, String)>,
    secret_findings: Vec<String>,
    files: usize,
}

fn is_whole(file: &StoredFile) -> io::Result<bool> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(&file.path)?, &mut hash)?;
    Ok(hex::encode(hash.finalize()) == file.digest)
}

/// Checks a data folder. `key_file` is the configured file with the key of the secrets.
pub fn check(data: &Path, key_file: Option<&PathBuf>) -> Result<Checked, CheckError> {
    let records = StoredRecords::read(data)?;
    let (mut wrong_files, mut file_findings) = (Vec::new(), Vec::new());
    let stored = records.files();
    for file in &stored {
        let (path, what) = (file.path.display(), &file.what);
        match is_whole(file) {
            Ok(true) => {}
            Ok(false) => {
                file_findings.push(format!("{what}: the file {path} has other bytes than were stored"));
                wrong_files.push(file.path.clone());
            }
            Err(error) => file_findings.push(format!("{what}: the file {path} cannot be read: {error}")),
        }
    }
    for (folder, what) in [("jobs/records", "jobs"), ("keyvalue", "key-value storage")] {
        match LocalStore::check(&data.join(folder)) {
            Ok(damage) => {
                file_findings.extend(damage.iter().map(|found| format!("{what}: {found}; a start goes on without it")))
            }
            // A folder of a server that did not have them yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => file_findings.push(format!("{what}: the records cannot be read: {error}")),
        }
    }
    let secrets = records.secrets();
    let vault = if secrets.is_empty() { None } else { Vault::existing(data, key_file).unwrap_or_default() };
    let is_lost = |tenant: &TenantName, name: &str, sealed: &str| {
        vault.as_ref().is_none_or(|vault| vault.unseal(tenant, name, sealed).is_err())
    };
    let lost = secrets.into_iter().filter(|(tenant, name, sealed)| is_lost(tenant, name, sealed));
    let lost_secrets: Vec<_> = lost.map(|(tenant, name, _)| (tenant, name)).collect();
    let why = if vault.is_some() {
        "was encrypted with another key"
    } else {
        "cannot be decrypted: the key is missing or cannot be read"
    };
    let secret_findings =
        lost_secrets.iter().map(|(tenant, name)| format!("secret {name} of {tenant} {why}")).collect();
    let counted = records.watermark();
    let ledger = ledger::check::check(&data.join("ledger"), counted).map_err(LedgerError::from)?;
    Ok(Checked { files: stored.len(), records, ledger, wrong_files, file_findings, lost_secrets, secret_findings })
}

/// Makes a folder that only this user can enter.
fn make_private(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

impl Checked {
    /// Returns a line that says how much was read.
    pub fn summary(&self) -> String {
        let counted = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let (records, files) = (counted(self.records.count() as u64, "record"), counted(self.files as u64, "file"));
        format!("{records}, {files} and {} of the ledger can be read", counted(self.ledger.lines, "line"))
    }

    /// Returns a description of each problem.
    pub fn findings(&self) -> impl Iterator<Item = &str> {
        let all = [self.records.findings(), &self.file_findings, &self.secret_findings, &self.ledger.findings];
        all.into_iter().flatten().map(String::as_str)
    }

    /// Restores what can be restored, and returns a line for each thing that was done. Without `forget_secrets`, secrets that
    /// cannot be decrypted are kept.
    pub fn repair(self, data: &Path, forget_secrets: bool) -> Result<Vec<String>, CheckError> {
        let mut done = Vec::new();
        let aside = data.join(SET_ASIDE).join(jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ-files").to_string());
        for path in &self.wrong_files {
            let failed = |cause| CheckError::File { path: path.clone(), cause };
            make_private(&aside).map_err(failed)?;
            let moved = aside.join(path.file_name().unwrap_or_default());
            std::fs::rename(path, &moved).map_err(failed)?;
            path.parent().map_or(Ok(()), sync_folder).map_err(failed)?;
            done.push(format!("{} is now {}; deploy or upload it again", path.display(), moved.display()));
        }
        if self.ledger.has_damage() {
            make_private(&aside).map_err(|cause| CheckError::File { path: aside.clone(), cause })?;
        }
        let counted = self.records.watermark();
        done.extend(self.ledger.repair(&data.join("ledger"), &aside, counted).map_err(LedgerError::from)?);
        let forgotten = if forget_secrets { self.lost_secrets } else { Vec::new() };
        done.extend(self.records.repair(&forgotten)?);
        Ok(done)
    }
}
