//! `gannet check` and `gannet repair`, for the records. The server must not run meanwhile.
//!
//! ```text
//!  journal whole, database damaged   the records of the journal
//!  database whole, journal damaged   the records of the database: it has as many as it must have, and all checksums
//!                                    are right
//!  both damaged                      those of both, the newer where they differ; only those keys that both have,
//!                                    because one of them may have been revoked
//! ```
//!
//! The old database and the old journal are moved to `DATA/set-aside`, not removed. An interrupted repair can be repeated.

use crate::records::blobs::BlobKind;
use crate::records::local::tenant_blobs;
use crate::store::batch::describe;
use crate::store::commit::{self, Count};
use crate::store::error::StoreError;
use crate::store::files::{self, FORMAT, sync_folder};
use crate::store::journal::{self, Change, Journal, Replayed};
use crate::store::read::{UnfitRecord, parsed_with_sources, read};
use crate::store::stored::{COUNT, record_sum, sealed, unsealed, value_of};
use crate::store::verify::{Contents, compare, open_database, read_database};
use crate::store::watermark::Watermark;
use gannet_base::names::TenantName;
use gannet_base::records::{AssetRecord, SecretRecord, VersionRecord};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The folder to which repairs move the old database, the old journal and damaged files.
pub const SET_ASIDE: &str = "set-aside";
/// Records that are written to a new database at once.
const WRITE_AT_ONCE: usize = 1_000;

/// A file that a record refers to.
#[derive(Debug)]
pub struct StoredFile {
    /// Where it must be.
    pub path: PathBuf,
    /// SHA-256 of its bytes, in hex.
    pub digest: String,
    /// The name of the record, for people.
    pub what: String,
}

/// The records of a data folder that no server uses, and the problems that were found.
#[derive(Debug)]
pub struct StoredRecords {
    data: PathBuf,
    _lock: File,
    contents: Contents,
    /// None if there is no journal.
    journal: Option<Replayed<Vec<u8>>>,
    findings: Vec<String>,
}

/// Reads a copy of the database: sled changes its files when it is opened, and they may be the better copy.
fn read_copy(data: &Path) -> Result<Contents, StoreError> {
    let database = data.join("db");
    if !database.exists() {
        return Ok(Contents::default());
    }
    let beside = tempfile::Builder::new().prefix(files::CHECK_PREFIX).tempdir_in(data)?;
    let copy = beside.path().join("db");
    copy_tree(&database, &copy)?;
    match open_database(&copy) {
        Ok(db) => Ok(read_database(&db)),
        Err(StoreError::Damaged { findings }) => Ok(Contents { damage: findings, ..Contents::default() }),
        Err(error) => Err(error),
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    files::make_folder(to, 0o700)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

impl StoredRecords {
    /// Reads the records of a data folder. Fails if a server uses it.
    pub fn read(data: &Path) -> Result<Self, StoreError> {
        if !data.join("db").exists() && !data.join("journal").exists() && !data.join("format").exists() {
            return Err(StoreError::Io(format!("{} is not a data folder", data.display())));
        }
        let lock = files::lock(data)?;
        let mut findings = Vec::new();
        match files::read_format(data)? {
            Some(found) if found < FORMAT => {
                return Err(StoreError::Io(format!(
                    "the data folder has format {found}; start the server once to bring it to format {FORMAT}"
                )));
            }
            Some(found) if found > FORMAT => return Err(StoreError::Newer { found, known: FORMAT }),
            Some(_) => {}
            None => findings.push("the file `format` is missing or unreadable".into()),
        }
        let journal = match journal::replay(&data.join("journal"), |_, value| value.to_vec()) {
            Ok(replayed) => replayed,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    findings.push(format!("the journal: {error}"));
                }
                None
            }
        };
        let contents = read_copy(data)?;
        match &journal {
            Some(replayed) => findings.extend(compare(&contents, &summed(replayed)).findings),
            None => {
                findings.extend_from_slice(&contents.damage);
                findings.push("the journal is missing".into());
            }
        }
        if findings.is_empty() {
            findings.extend(read(contents.values()).1.iter().map(UnfitRecord::told));
        }
        Ok(Self { data: data.to_owned(), _lock: lock, contents, journal, findings })
    }

    /// Returns a description of each problem.
    pub fn findings(&self) -> &[String] {
        &self.findings
    }

    /// Returns how many records there are.
    pub fn count(&self) -> usize {
        self.contents.records.len()
    }

    /// Returns the position up to which lines of the ledger are included in the stored sums.
    pub fn watermark(&self) -> Watermark {
        let restored = (!self.findings.is_empty()).then(|| self.restored().records.remove(&b"w"[..])).flatten();
        let restored = restored.and_then(|stored| value_of(&stored).map(Cow::into_owned));
        let stored =
            || self.values("w").next().map(|(_, value)| value.into_owned()).filter(|_| self.findings.is_empty());
        restored.or_else(stored).and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default()
    }

    /// Returns the encrypted secrets, each with its tenant and name.
    pub fn secrets(&self) -> Vec<(TenantName, String, String)> {
        let parsed = self.values("s/").filter_map(|(key, value)| {
            let mut parts = std::str::from_utf8(key).ok()?.split('/').skip(1);
            let (tenant, name) = (TenantName::new(parts.next()?).ok()?, parts.next()?.to_owned());
            Some((tenant, name, serde_json::from_slice::<SecretRecord>(&value).ok()?.sealed))
        });
        parsed.collect()
    }

    /// Returns the files that records refer to and that nothing can make again.
    pub fn files(&self) -> Vec<StoredFile> {
        let mut files: BTreeMap<PathBuf, StoredFile> = BTreeMap::new();
        let mut add = |path: PathBuf, digest: String, key: &[u8]| {
            let file = StoredFile { path: path.clone(), digest, what: describe(key) };
            files.entry(path).or_insert(file);
        };
        let file = |kind, key: &[u8], digest: &str| {
            let tenant = String::from_utf8_lossy(key).split('/').nth(1).unwrap_or_default().to_owned();
            tenant_blobs::place(&self.data, kind, &tenant, digest)
        };
        for (key, value) in self.values("v/") {
            let version = serde_json::from_slice::<VersionRecord>(&value).ok();
            let earlier = || parsed_with_sources(&value).map(|(version, _)| version);
            let Some(version) = version.or_else(earlier) else { continue };
            add(file(BlobKind::Component, key, &version.digest), version.digest, key);
            for asset in version.assets.into_values() {
                add(file(BlobKind::Asset, key, &asset.digest), asset.digest, key);
            }
        }
        for (key, value) in self.values("asset/") {
            let Ok(asset) = serde_json::from_slice::<AssetRecord>(&value) else { continue };
            add(file(BlobKind::Asset, key, &asset.digest), asset.digest, key);
        }
        files.into_values().collect()
    }

    fn values(&self, prefix: &'static str) -> impl Iterator<Item = (&[u8], Cow<'_, [u8]>)> {
        let of_prefix = self.contents.values().filter(move |(key, _)| key.starts_with(prefix.as_bytes()));
        of_prefix.filter_map(|(key, stored)| Some((key, value_of(stored)?)))
    }

    /// Restores the records from the copy that is whole, or from both, without the secrets in `forgotten`. Returns a
    /// line for each thing that was done.
    pub fn repair(self, forgotten: &[(TenantName, String)]) -> Result<Vec<String>, StoreError> {
        if self.findings.is_empty() && forgotten.is_empty() {
            return Ok(Vec::new());
        }
        let Restored { mut records, round, mut done, is_lossy } = self.restored();
        for (tenant, name) in forgotten {
            if records.remove(format!("s/{tenant}/{name}").as_bytes()).is_some() {
                done.push(format!("secret {name} of {tenant} was removed"));
            }
        }
        let unfit = read(records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))).1;
        for record in &unfit {
            records.remove(&record.key);
            done.push(format!("{}; it was not kept", record.told()));
        }
        if records.is_empty() && files::has_entries(&self.data, &["ledger", "components", "assets"]) {
            let findings = vec!["no record can be read in either copy; put a backup of `db` and `journal` back".into()];
            return Err(StoreError::Damaged { findings });
        }
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ").to_string();
        let aside = self.data.join(SET_ASIDE).join(time);
        files::make_folder(&aside, 0o700)?;
        let (database, journal) = (self.data.join("db"), self.data.join("journal"));
        files::make_folder(&journal, 0o700)?;
        copy_tree(&journal, &aside.join("journal"))?;
        // The originals are replaced below.
        commit::sync_folder(&aside)?;
        if is_lossy || !unfit.is_empty() {
            // Otherwise the next start would remove the files of records that are lost.
            files::write_durably(&self.data.join(files::KEEP_FILES), b"", 0o600)?;
            done.push(format!(
                "files that no record refers to are kept until {} is removed",
                self.data.join(files::KEEP_FILES).display()
            ));
        }
        // The journal first, in one step: if this ends anywhere below, the next repair finds it whole.
        let all = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
        Journal::write(&journal, round, all).map_err(|(error, _)| error)?;
        match std::fs::rename(&database, aside.join("db")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        files::make_folder(&database, 0o700)?;
        write_database(&database, round, &records)?;
        files::write_format(&self.data)?;
        sync_folder(&self.data)?;
        done.push(format!("{} records were written anew", records.len()));
        done.push(format!("what was there before is in {}", aside.display()));
        Ok(done)
    }

    fn restored(&self) -> Restored {
        let from_database =
            || self.contents.values().map(|(key, value)| (key.to_vec(), value.to_vec())).collect::<BTreeMap<_, _>>();
        let count = self.contents.count;
        let db_round = count.map_or(0, |count| count.round);
        let journal_round = self.journal.as_ref().map_or(0, |replayed| replayed.round);
        let round = db_round.max(journal_round) + 1;
        let is_db_whole = self.contents.damage.is_empty()
            && count.is_some_and(|count| count.records == self.contents.records.len() as u64)
            && db_round + 1 >= journal_round;
        match &self.journal {
            // An unreadable end may have been a round, which only the database's count can tell.
            Some(replayed)
                if replayed.damage.is_empty()
                    && db_round <= journal_round
                    && (replayed.tail == 0 || count.is_some()) =>
            {
                let records = replayed.records.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
                Restored {
                    records,
                    round,
                    done: vec!["the records were restored from the journal".into()],
                    is_lossy: false,
                }
            }
            replayed if is_db_whole => {
                let mut records = from_database();
                if let Some(replayed) = replayed.as_ref().filter(|_| db_round < journal_round) {
                    apply(&mut records, &replayed.last);
                }
                Restored {
                    records,
                    round,
                    done: vec!["the records were restored from the database".into()],
                    is_lossy: false,
                }
            }
            replayed => {
                let (records, done) = merged(replayed.as_ref(), from_database(), db_round >= journal_round);
                Restored { records, round, done, is_lossy: true }
            }
        }
    }
}

/// The records that a repair writes.
struct Restored {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    round: u64,
    /// A line for each thing that was done.
    done: Vec<String>,
    /// Whether records may be lost.
    is_lossy: bool,
}

fn apply(records: &mut BTreeMap<Vec<u8>, Vec<u8>>, changes: &[Change]) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(records.insert(key.clone(), value.clone())),
            None => drop(records.remove(key)),
        }
    }
}

/// Merges two damaged copies. A key stays only if both have it, because one of them may have been revoked.
fn merged(
    replayed: Option<&Replayed<Vec<u8>>>,
    database: BTreeMap<Vec<u8>, Vec<u8>>,
    is_database_newer: bool,
) -> (BTreeMap<Vec<u8>, Vec<u8>>, Vec<String>) {
    let mut done = vec!["both copies are damaged; what can be read of both was kept".to_owned()];
    let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    if let Some(replayed) = replayed {
        records.extend(replayed.records.iter().map(|(key, value)| (key.clone(), value.clone())));
        apply(&mut records, &replayed.unfinished);
    }
    let is_key = |key: &[u8]| key.starts_with(b"k/");
    let in_one = |key: &Vec<u8>| is_key(key) && records.contains_key(key) != database.contains_key(key);
    let doubtful: BTreeSet<Vec<u8>> =
        records.keys().chain(database.keys()).filter(|key| in_one(key)).cloned().collect();
    // The sums count lines of the ledger up to a position. Those of one copy with the position of the other would count
    // lines twice, so they stay together. Without a position, all lines are counted again.
    let is_sum = |key: &[u8]| key == b"w" || key.starts_with(b"l/") || key.starts_with(b"y/");
    let of_database = database.contains_key(&b"w"[..]) && (is_database_newer || !records.contains_key(&b"w"[..]));
    if of_database || !records.contains_key(&b"w"[..]) {
        records.retain(|key, _| !is_sum(key));
    }
    for (key, value) in database {
        if is_sum(&key) {
            if of_database {
                records.insert(key, value);
            }
        } else if is_database_newer || !records.contains_key(&key) {
            records.insert(key, value);
        }
    }
    for key in doubtful {
        records.remove(&key);
        done.push(format!("{} was not kept: it may have been revoked", describe(&key)));
    }
    (records, done)
}

/// Returns the same with checksums in place of values.
fn summed(replayed: &Replayed<Vec<u8>>) -> Replayed<u32> {
    let sums = replayed.records.iter().map(|(key, value)| (key.clone(), record_sum(key, value)));
    replayed.with(sums.collect())
}

/// Writes a new database with all records.
pub(super) fn write_database(
    folder: &Path,
    round: u64,
    records: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<(), StoreError> {
    let db = open_database(folder)?;
    let all: Vec<_> = records.iter().collect();
    for part in all.chunks(WRITE_AT_ONCE) {
        let mut batch = sled::Batch::default();
        for (key, value) in part {
            batch.insert(key.as_slice(), sealed(key, value));
        }
        db.apply_batch(batch)?;
    }
    commit::apply_as(&db, Count { round, records: records.len() as u64 }, &[])?;
    commit::sync(&db, folder)
}

/// Gives a folder of an older format the checksums, the count and the journal of this one. Each step can be repeated.
pub(super) fn upgrade(db: &sled::Db, database: &Path, journal: &Path) -> Result<(), StoreError> {
    let mut records = BTreeMap::new();
    let is_sealed = db.contains_key(COUNT)?;
    if is_sealed && journal::is_there(journal)? {
        // Only the format was not written yet. The comparison of both follows.
        return Ok(());
    }
    for entry in db.iter() {
        let (key, stored) = entry?;
        let damaged = || StoreError::Damaged { findings: vec![format!("{} has a wrong checksum", describe(&key))] };
        let value = if is_sealed { unsealed(&key, &stored).ok_or_else(damaged)? } else { &stored };
        if key != COUNT {
            records.insert(key.to_vec(), value.to_vec());
        }
    }
    if !is_sealed {
        // Earlier formats dropped them at each start.
        for record in
            read(records.iter().map(|(key, value): (&Vec<u8>, &Vec<u8>)| (key.as_slice(), value.as_slice()))).1
        {
            tracing::warn!(record = record.told(), "a record was removed");
            records.remove(&record.key);
        }
        let gone = db.iter().keys().filter_map(Result::ok).filter(|key| !records.contains_key(key.as_ref()));
        let gone = gone.map(|key| (key.to_vec(), None));
        let kept = records.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
        let changes: Vec<Change> = kept.chain(gone).collect();
        commit::apply_as(db, Count { round: 1, records: records.len() as u64 }, &changes)?;
        commit::sync(db, database)?;
    }
    let round = read_database(db).count.map_or(1, |count| count.round);
    let all = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
    Journal::write(journal, round, all).map_err(|(error, _)| error)?;
    Ok(())
}
