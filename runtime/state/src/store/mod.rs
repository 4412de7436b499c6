//! Durable state: records in sled, large data in files.
//!
//! ```text
//!  DATA/format            version of the format; a server refuses a newer one than it knows
//!  DATA/journal/          every change of the records, and so a second copy of them; see store/journal.rs
//!  DATA/lock              locked while a server runs
//!  DATA/operator.key      the operator's key; mode 0600
//!  DATA/db/               sled: tenants, keys, secrets, functions, versions, assets, sums of the ledger, audit log
//!  DATA/ledger/           see ledger/line.rs
//!  DATA/secrets.key       the key that encrypts secrets; mode 0600. Not made if the key is configured elsewhere
//!  DATA/components/       {tenant}/{sha256}.wasm: components as uploaded
//!  DATA/assets/           {tenant}/{sha256}: assets as uploaded
//!  DATA/uploads/          {tenant}/…: unfinished uploads of assets, see store/uploads.rs
//!  DATA/jobs/             records and blobs of jobs, see records/local
//!  DATA/keyvalue/         records of key-value storage
//!  DATA/incoming/         components being uploaded and builders' outputs; emptied at start
//!  DATA/compiled/         {tenant}/{build}-{engine}.cwasm and .report, from the builder; {build} is the component's
//!                         sha256, with a suffix for a build with a snapshot. The report contains the kernels
//!  DATA/driver-cache/     {tenant}/{sha256}/…, from the builder's driver
//!  DATA/run/              children's folders; emptied at start. In the temporary folder if children cannot enter DATA
//! ```
//!
//! What cannot be made again is reached through traits: records through [`RecordStore`], which [`sled`] is here, what
//! tenants upload through [`TenantBlobs`], and lines through [`crate::streams::LineStream`], which the ledger uses. So
//! another place for them needs no other change.
//! [`guard`] finds out what became of each commit, and [`staged`] makes those that are too large for one.
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
mod guard;
mod journal;
mod read;
mod repair;
pub mod report;
mod sled;
pub mod space;
mod staged;
mod stored;
pub mod uploads;
pub mod usage;
mod verify;
pub mod watermark;

use self::sled::SledRecords;
use crate::records::blobs::{BlobKind, BlobStore, TenantBlobs};
use crate::records::local::tenant_blobs::LocalTenantBlobs;
use crate::records::{Change, CommitError, RecordStore};
use crate::wait::wait;
pub use batch::WriteBatch;
use commit::Committer;
pub use error::StoreError;
use files::{FORMAT, Files};
use gannet_base::hop::build::BuildReport;
use gannet_base::names::TenantName;
use guard::Guard;
pub use guard::Ticket;
use read::OutdatedVersion;
pub use read::StoredState;
pub use repair::{SET_ASIDE, StoredFile, StoredRecords};
use report::StoredReport;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The records that a start reads, by the beginnings of their names. The others are read on demand.
const READ_AT_START: [&str; 7] = ["t/", "g/", "k/", "s/", "asset/", "f/", "v/"];
/// Records that are read at once.
const PAGE_RECORDS: usize = 1_000;
/// How often a commit is repeated that changes nothing when it is made twice.
const REPEATS: usize = 8;

/// The durable state; see the module.
#[derive(Debug)]
pub struct Store {
    files: Files,
    guard: Guard,
    records: Arc<dyn RecordStore>,
    /// What tenants have uploaded.
    blobs: Arc<dyn TenantBlobs>,
    /// Whether changes were decided that are not made yet; see [`staged`].
    is_unfinished: AtomicBool,
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
        let mut replayed = journal::replay(&journal, stored::record_sum)?;
        if let Some(damaged) = replayed.as_ref().filter(|replayed| !replayed.damage.is_empty()) {
            // sled changes its files when it is opened, and they may be the better copy.
            return Err(StoreError::Damaged { findings: damaged.damage.clone() });
        }
        let db = verify::open_database(&database)?;
        if format.is_none_or(|found| found < FORMAT) {
            repair::upgrade(&db, &database, &journal)?;
            // An older binary must not read what is written from now on.
            files::write_format(data)?;
            replayed = journal::replay(&journal, stored::record_sum)?;
        }
        let missing = || StoreError::Damaged { findings: vec!["the journal is missing".into()] };
        let replayed = replayed.ok_or_else(missing)?;
        let (journal, count) = verify::verify(&db, &database, &journal, &replayed)?;
        let committer = Committer { db, folder: database, journal, count };
        let blobs = Arc::new(LocalTenantBlobs::new(files.data()));
        Self::over(files, lock, Arc::new(SledRecords::start(committer)?), blobs)
    }

    /// Returns the records.
    #[cfg(test)]
    pub(crate) fn records(&self) -> Arc<dyn RecordStore> {
        Arc::clone(&self.records)
    }

    /// Opens a data folder whose records and blobs are elsewhere.
    #[cfg(test)]
    pub(crate) fn simulated(
        data: &Path,
        records: Arc<dyn RecordStore>,
        blobs: Arc<dyn TenantBlobs>,
    ) -> Result<(Self, StoredState), StoreError> {
        let files = Files::open(data, "x")?;
        let lock = files::lock(files.data())?;
        Self::over(files, lock, records, blobs)
    }

    /// Reads the stored state of any store of records.
    fn over(
        files: Files,
        lock: File,
        records: Arc<dyn RecordStore>,
        blobs: Arc<dyn TenantBlobs>,
    ) -> Result<(Self, StoredState), StoreError> {
        let guard = wait(Guard::open(Arc::clone(&records)))?;
        let store = Self { files, guard, records, blobs, is_unfinished: AtomicBool::new(true), _lock: lock };
        wait(store.finish_staged())?;
        let mut contents = wait(store.read_all())?;
        if !contents.outdated.is_empty() {
            store.rewrite(std::mem::take(&mut contents.outdated))?;
        }
        Ok((store, contents))
    }

    pub(crate) async fn read_all(&self) -> Result<StoredState, StoreError> {
        let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for prefix in READ_AT_START {
            let mut after = None::<String>;
            loop {
                let page = self.records.page(prefix, after.as_deref(), PAGE_RECORDS).await?;
                after = page.entries.last().map(|entry| entry.key.clone());
                for entry in page.entries {
                    found.extend(stored::key_of(&entry.key).map(|key| (key, entry.value)));
                }
                if !page.more || after.is_none() {
                    break;
                }
            }
        }
        let (contents, unfit) = read::read(found.iter().map(|(key, value)| (key.as_slice(), value.as_slice())));
        if !unfit.is_empty() {
            return Err(StoreError::Damaged { findings: unfit.iter().map(read::UnfitRecord::told).collect() });
        }
        Ok(contents)
    }

    /// Returns the files beside the database.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Returns what all tenants have uploaded.
    pub fn tenant_blobs(&self) -> &Arc<dyn TenantBlobs> {
        &self.blobs
    }

    /// Returns what a tenant has uploaded.
    pub fn blobs(&self, kind: BlobKind, tenant: &TenantName) -> Arc<dyn BlobStore> {
        self.blobs.of(kind, tenant)
    }

    /// Removes all blobs and files of a tenant. Blocks.
    pub fn remove_tenant(&self, tenant: &TenantName) {
        if let Err(error) = wait(self.blobs.remove_tenant(tenant)) {
            tracing::warn!(%error, "what a deleted tenant had uploaded could not be removed");
        }
        self.files.remove_tenant(tenant);
    }

    /// Makes a change durable, as a whole. When this returns `Ok`, it is on disk. After [`StoreError::Unknown`] the
    /// caller asks [`Store::outcome`]; after another error nothing was changed, also not later.
    pub async fn commit(&self, change: WriteBatch) -> Result<(), StoreError> {
        self.finish_staged().await.map_err(StoreError::of_another)?;
        let changes = change.into_changes();
        if staged::fits(&changes) {
            return self.guard.commit(changes).await;
        }
        staged::decide(&self.guard, changes).await?;
        self.is_unfinished.store(true, Ordering::Release);
        if let Err(error) = self.finish_staged().await {
            // It is decided: the next change or start goes on with it.
            tracing::warn!(%error, "a large change was decided and is not made yet");
        }
        Ok(())
    }

    /// Finds out whether a change that ended with [`StoreError::Unknown`] was made.
    pub async fn outcome(&self, ticket: Ticket) -> Result<bool, StoreError> {
        let made = self.guard.outcome(ticket).await?;
        if made {
            // It may have been what decides a large change.
            self.is_unfinished.store(true, Ordering::Release);
        }
        Ok(made)
    }

    /// Makes what was decided and is not made yet.
    async fn finish_staged(&self) -> Result<(), StoreError> {
        if self.is_unfinished.load(Ordering::Acquire) {
            staged::finish(&self.guard, &*self.records).await?;
            self.is_unfinished.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Makes changes that are the same when they are made twice, so one whose end is unknown is repeated.
    async fn commit_repeated(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let mut last = None;
        for _ in 0..REPEATS {
            match self.records.commit(changes.clone()).await {
                Ok(_) => return Ok(()),
                // It was made by the time it was repeated.
                Err(CommitError::Conflict { .. }) if last.is_some() => return Ok(()),
                Err(CommitError::Unknown(why)) => last = Some(why),
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Io(format!("it is not known whether a change was stored: {}", last.unwrap_or_default())))
    }

    /// Does the same as [`Store::commit`], for a thread that may block.
    pub fn commit_blocking(&self, change: WriteBatch) -> Result<(), StoreError> {
        wait(self.commit(change))
    }

    /// Writes the records of versions that an earlier format wrote, without the sources of their kernels. These go into
    /// reports, as if the version had been built now.
    fn rewrite(&self, outdated: Vec<OutdatedVersion>) -> Result<(), StoreError> {
        match self.try_rewrite(outdated) {
            // The records can be read as they are.
            Err(StoreError::Full) => {
                tracing::warn!("the records of versions could not be rewritten, because the disk is full");
                Ok(())
            }
            other => other,
        }
    }

    fn try_rewrite(&self, outdated: Vec<OutdatedVersion>) -> Result<(), StoreError> {
        let mut change = WriteBatch::new();
        for OutdatedVersion { tenant, function, record, kernels } in outdated {
            let path = self.files.build_report(&tenant, &record.build_name());
            if !path.exists() {
                let snapshot_size = record.snapshot_size;
                let report = BuildReport { kernels, warnings: record.warnings.clone(), snapshot_size };
                let bytes = StoredReport::to_bytes("an earlier format".into(), &report);
                files::make_folder(path.parent().unwrap_or(self.files.data()), 0o700)?;
                files::write_durably(&path, &bytes, 0o600)?;
            }
            change = change.version(&tenant, &function, &record)?;
        }
        self.commit_blocking(change)
    }
}

/// Returns whether a folder without a readable format is what a crash during the first start left: nothing in it was
/// acknowledged.
fn is_half_made(data: &Path) -> Result<bool, StoreError> {
    if files::has_entries(data, &["ledger", "components", "assets"]) {
        return Ok(false);
    }
    let journal = data.join("journal");
    let replayed = if journal.exists() { journal::replay(&journal, stored::record_sum)? } else { None };
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
        let (_, reopened) = Store::open(folder.path(), "x").unwrap();
        assert!(reopened.tenants.contains_key(&name));
    }

    /// Writes a data folder as format 5 did: values without revisions.
    fn write_format_5(data: &Path, records: &[(&[u8], serde_json::Value)]) {
        let records: std::collections::BTreeMap<Vec<u8>, Vec<u8>> =
            records.iter().map(|(key, value)| (key.to_vec(), value.to_string().into_bytes())).collect();
        drop(Files::open(data, "x").unwrap());
        let all = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
        drop(journal::Journal::write(&data.join("journal"), 7, all).unwrap());
        repair::write_database(&data.join("db"), 7, &records).unwrap();
        std::fs::write(data.join("format"), "5\n").unwrap();
    }

    #[test]
    fn a_folder_without_revisions_is_opened_and_goes_on() {
        use gannet_base::names::RequestId;
        use serde_json::json;
        let folder = tempfile::tempdir().unwrap();
        let (time, request) = ("2026-11-01T00:00:00Z", RequestId::new());
        let (acme, hash) = (TenantName::new("acme").unwrap(), [0x2f; 32]);
        let scopes = gannet_base::scopes::Scopes::FULL;
        let key = json!({ "id": "2f", "tenant": "acme", "scopes": scopes, "created": time });
        let entry = json!({ "request": request.to_string(), "time": time, "actor": "operator", "address": "::1", "action": "x", "path": "/" });
        let entry_key = [b"a/acme/".as_slice(), &request.to_bytes()].concat();
        let sums = json!(gannet_base::bill::usage::Sums { requests: 3, ..Default::default() });
        let row = b"l/acme/00020000/f/0000000001/1-2-3/any".as_slice();
        write_format_5(
            folder.path(),
            &[
                (b"t/acme", json!({ "created": time })),
                (&[b"k/".as_slice(), &hash].concat(), key),
                (&entry_key, entry),
                (row, sums),
                (b"w", json!({ "segment": 4, "offset": 17 })),
            ],
        );
        for round in 0..2 {
            let (store, contents) = Store::open(folder.path(), "x").unwrap();
            assert!(contents.tenants.contains_key(&acme) && contents.keys.contains_key(&hash), "round {round}");
            assert_eq!(store.read_audit("acme", None, 10).unwrap().len(), 1);
            assert_eq!(store.usage(&acme, 0..=i64::MAX).unwrap().into_values().next().unwrap().requests, 3);
            assert_eq!(store.watermark().unwrap(), watermark::Watermark { segment: 4, offset: 17 });
            assert_eq!(files::read_format(folder.path()).unwrap(), Some(FORMAT));
            // A record that is written now gets a higher revision than the old ones have.
            let record = TenantRecord::new(jiff::Timestamp::now());
            let name = TenantName::new("other").unwrap();
            store.commit_blocking(WriteBatch::new().tenant(&name, &record).unwrap()).unwrap();
            let revision_of = |name: &str| wait(store.records().get(name)).unwrap().unwrap().revision;
            assert!(revision_of("t/other") > revision_of("t/acme"));
            drop(store);
            assert_eq!(StoredRecords::read(folder.path()).unwrap().findings(), &[] as &[String]);
        }
    }

    #[test]
    fn a_change_of_any_size_is_made_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path(), "x").unwrap();
        let mut change = WriteBatch::new();
        for number in 0..2_500 {
            let name = TenantName::new(&format!("tenant-{number}")).unwrap();
            change = change.tenant(&name, &TenantRecord::new(jiff::Timestamp::now())).unwrap();
        }
        store.commit_blocking(change).unwrap();
        drop(store);
        let (store, contents) = Store::open(folder.path(), "x").unwrap();
        assert_eq!(contents.tenants.len(), 2_500);
        assert!(wait(store.records().page(staged::STAGED, None, 1)).unwrap().entries.is_empty());
    }

    #[test]
    fn a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("format"), "99\n").unwrap();
        assert!(matches!(Store::open(folder.path(), "x"), Err(StoreError::Newer { found: 99, .. })));
    }
}
