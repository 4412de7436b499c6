//! Durable state: records in sled, large data in files.
//!
//! ```text
//!  DATA/format            version of the format; a server refuses a newer one than it knows
//!  DATA/journal/          every change of the records, and so a second copy of them; see store/journal.rs
//!  DATA/lock              locked while a server runs
//!  DATA/operator.key      the operator's key; mode 0600
//!  DATA/db/               sled: tenants, keys, secrets, functions, versions, assets, sums of the ledger, audit log
//!  DATA/ledger/           see ledger/segment.rs
//!  DATA/secrets.key       the key that encrypts secrets; mode 0600. Not made if the key is configured elsewhere
//!  DATA/components/       {tenant}/{sha256}.wasm: components as uploaded
//!  DATA/assets/           {tenant}/{sha256}: assets as uploaded
//!  DATA/uploads/          {tenant}/…: unfinished uploads of assets, see store/uploads.rs
//!  DATA/incoming/         components being uploaded and builders' outputs; emptied at start
//!  DATA/compiled/         {tenant}/{build}-{engine}.cwasm and .report, from the builder; {build} is the component's
//!                         sha256, with a suffix for a build with a snapshot. The report contains the kernels
//!  DATA/driver-cache/     {tenant}/{sha256}/…, from the builder's driver
//!  DATA/run/              children's folders; emptied at start. In the temporary folder if children cannot enter DATA
//! ```
//!
//! Invariants: nothing is acknowledged before it is on disk. sled 0.34's flush writes but does not sync, so one commit
//! thread groups changes, writes and syncs them in the journal, applies them as one batch, flushes, syncs every file of
//! the database and its folder, and only then replies. Files are written under another name, synced, renamed, and their
//! folder is synced, before a change that names them is committed.
//!
//! A start compares the database with the journal. If the difference cannot come from a crash, the start names what is
//! damaged and does not use the folder.

pub mod audit;
mod batch;
mod commit;
mod error;
pub mod files;
mod journal;
mod read;
mod repair;
pub mod report;
pub mod space;
pub mod uploads;
pub mod usage;
mod verify;
pub mod watermark;

pub use batch::WriteBatch;
use commit::{Committer, QUEUE_CAPACITY, Reply};
pub use error::StoreError;
use files::{FORMAT, Files};
use gannet_base::hop::build::BuildReport;
use read::OutdatedVersion;
pub use read::StoredState;
pub use repair::{SET_ASIDE, StoredFile, StoredRecords};
use report::StoredReport;
use std::fs::File;
use std::path::Path;
use tokio::sync::{mpsc, oneshot};

/// The durable state; see the module.
#[derive(Debug)]
pub struct Store {
    files: Files,
    /// Used here only for reads. The commit thread makes all writes.
    db: sled::Db,
    commits: mpsc::Sender<(WriteBatch, Reply)>,
    /// Held while the server runs.
    _lock: File,
}

impl Store {
    /// Opens the data folder, or makes it, and reads the stored state. `engine` identifies the engine that components
    /// are compiled for.
    pub fn open(data: &Path, engine: &str) -> Result<(Self, StoredState), StoreError> {
        let is_used = files::is_used(data);
        let files = Files::open(data, engine)?;
        let lock = files::lock(data)?;
        let (database, journal) = (data.join("db"), data.join("journal"));
        let format = files::read_format(data)?;
        match format {
            Some(found) if found > FORMAT => return Err(StoreError::Newer { found, known: FORMAT }),
            None if is_used => {
                if !is_half_made(data)? {
                    let findings = vec!["the file `format` is missing or unreadable".into()];
                    return Err(StoreError::Damaged { findings });
                }
                for folder in [&database, &journal] {
                    std::fs::remove_dir_all(folder)?;
                    files::make_folder(folder, 0o700)?;
                }
            }
            _ => {}
        }
        files.empty_run()?;
        let mut replayed = journal::replay(&journal, batch::record_sum)?;
        if let Some(damaged) = replayed.as_ref().filter(|replayed| !replayed.damage.is_empty()) {
            // sled changes its files when it is opened, and they may be the better copy.
            return Err(StoreError::Damaged { findings: damaged.damage.clone() });
        }
        let db = verify::open_database(&database)?;
        if format.is_none_or(|found| found < FORMAT) {
            repair::upgrade(&db, &database, &journal)?;
            // An older binary must not read what is written from now on.
            files::write_format(data)?;
            replayed = journal::replay(&journal, batch::record_sum)?;
        }
        let missing = || StoreError::Damaged { findings: vec!["the journal is missing".into()] };
        let replayed = replayed.ok_or_else(missing)?;
        let (journal, count) = verify::verify(&db, &database, &journal, &replayed)?;
        let read_back = verify::read_database(&db);
        let (mut contents, unfit) = read::read(read_back.values());
        if !unfit.is_empty() {
            return Err(StoreError::Damaged { findings: unfit.iter().map(read::UnfitRecord::told).collect() });
        }
        let (commits, inbox) = mpsc::channel(QUEUE_CAPACITY);
        let mut committer = Committer { db: db.clone(), folder: database, journal, count };
        if !contents.outdated.is_empty() {
            rewrite(&files, &mut committer, std::mem::take(&mut contents.outdated))?;
        }
        std::thread::Builder::new().name("commit".into()).spawn(move || committer.run(inbox))?;
        Ok((Self { files, db, commits, _lock: lock }, contents))
    }

    /// Returns the files beside the database.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Makes a change durable. When this returns `Ok`, it is on disk.
    pub async fn commit(&self, change: WriteBatch) -> Result<(), StoreError> {
        let gone = || StoreError::Io("the commit thread has ended".into());
        let (answer, receiver) = oneshot::channel();
        self.commits.send((change, answer)).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }

    /// Does the same as [`Store::commit`], for a thread that may block.
    pub fn commit_blocking(&self, change: WriteBatch) -> Result<(), StoreError> {
        let gone = || StoreError::Io("the commit thread has ended".into());
        let (answer, receiver) = oneshot::channel();
        self.commits.blocking_send((change, answer)).map_err(|_| gone())?;
        receiver.blocking_recv().map_err(|_| gone())?
    }
}

/// Writes the records of versions that an earlier format wrote, without the sources of their kernels. These go into
/// reports, as if the version had been built now.
fn rewrite(files: &Files, committer: &mut Committer, outdated: Vec<OutdatedVersion>) -> Result<(), StoreError> {
    match try_rewrite(files, committer, outdated) {
        // The records can be read as they are.
        Err(StoreError::Full) => {
            tracing::warn!("the records of versions could not be rewritten, because the disk is full");
            Ok(())
        }
        other => other,
    }
}

fn try_rewrite(files: &Files, committer: &mut Committer, outdated: Vec<OutdatedVersion>) -> Result<(), StoreError> {
    let mut change = WriteBatch::new();
    for OutdatedVersion { tenant, function, record, kernels } in outdated {
        let path = files.build_report(&tenant, &record.build_name());
        if !path.exists() {
            let snapshot_size = record.snapshot_size;
            let report = BuildReport { kernels, warnings: record.warnings.clone(), snapshot_size };
            let bytes = StoredReport::to_bytes("an earlier format".into(), &report);
            files::make_folder(path.parent().unwrap_or(files.data()), 0o700)?;
            files::write_durably(&path, &bytes, 0o600)?;
        }
        change = change.version(&tenant, &function, &record)?;
    }
    committer.round(vec![change]).map_err(|(error, _)| error)
}

/// Returns whether a folder without a readable format is what a crash during the first start left: nothing in it was
/// acknowledged.
fn is_half_made(data: &Path) -> Result<bool, StoreError> {
    if files::has_entries(data, &["ledger", "components", "assets"]) {
        return Ok(false);
    }
    let journal = data.join("journal");
    let replayed = if journal.exists() { journal::replay(&journal, batch::record_sum)? } else { None };
    if replayed.is_some_and(|replayed| !replayed.records.is_empty() || !replayed.damage.is_empty()) {
        return Ok(false);
    }
    // A database that cannot be read was never synced.
    let db = verify::open_database(&data.join("db"));
    Ok(db.map_or(true, |db| verify::read_database(&db).records.is_empty()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use gannet_base::names::TenantName;
    use gannet_base::records::TenantRecord;

    #[tokio::test]
    async fn what_was_committed_is_read_back_and_the_lock_holds() {
        let folder = tempfile::tempdir().unwrap();
        let (store, contents) = Store::open(folder.path(), "x").unwrap();
        assert!(contents.tenants.is_empty());
        let name = TenantName::new("acme").unwrap();
        let record = TenantRecord::new(jiff::Timestamp::now());
        store.commit(WriteBatch::new().tenant(&name, &record).unwrap()).await.unwrap();
        assert!(matches!(Store::open(folder.path(), "x"), Err(StoreError::InUse(_))));
        drop(store);
        // The commit thread closes the database a moment after its channel closes.
        let reopened = loop {
            match Store::open(folder.path(), "x") {
                Ok((_, contents)) => break contents,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert!(reopened.tenants.contains_key(&name));
    }

    #[test]
    fn a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("format"), "99\n").unwrap();
        assert!(matches!(Store::open(folder.path(), "x"), Err(StoreError::Newer { found: 99, .. })));
    }
}
