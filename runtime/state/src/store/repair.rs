//! `gannet check` and `gannet repair`, for the records. The server must not run meanwhile.
//!
//! ```text
//!  journal whole, database damaged   the records of the journal
//!  database whole, journal damaged   the records of the database: it has as many as it must have, and all checksums
//!                                    are right
//!  both damaged                      those of both, the newer where they differ; keys only from the journal, because
//!                                    one that only the database has may have been revoked
//! ```
//!
//! What was there before is set aside, not removed.

use crate::store::batch::{describe, record_sum, sealed, unsealed};
use crate::store::commit::{self, COUNT, Count};
use crate::store::files::{self, sync_folder};
use crate::store::journal::{self, Change, Journal, Replayed};
use crate::store::usage::Watermark;
use crate::store::verify::{Contents, compare, open_database, read_database};
use crate::store::{FORMAT, StoreError};
use gannet_base::names::TenantName;
use gannet_base::records::{AssetRecord, SecretRecord, VersionRecord};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Records that are written to a new database at once.
const WRITE_AT_ONCE: usize = 1_000;

/// A file that a record refers to.
#[derive(Debug)]
pub struct StoredFile {
    /// Where it must be.
    pub path: PathBuf,
    /// SHA-256 of its bytes, in hex.
    pub digest: String,
    /// The record, in words.
    pub what: String,
}

/// The records of a data folder that no server uses, and what is wrong with them.
#[derive(Debug)]
pub struct StoredRecords {
    data: PathBuf,
    _lock: File,
    contents: Contents,
    /// None if there is no journal.
    journal: Option<Replayed<Vec<u8>>>,
    findings: Vec<String>,
}

impl StoredRecords {
    /// Reads the records of a data folder. Fails if a server uses it.
    pub fn read(data: &Path) -> Result<Self, StoreError> {
        if !data.join("db").exists() && !data.join("journal").exists() {
            return Err(StoreError::Io(format!("{} is not a data folder", data.display())));
        }
        let lock = files::lock(data)?;
        let journal = match journal::replay(&data.join("journal"), |_, value| value.to_vec()) {
            Ok(replayed) => replayed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let contents = match data.join("db").exists().then(|| open_database(&data.join("db"))) {
            Some(Ok(db)) => read_database(&db),
            Some(Err(StoreError::Damaged { findings })) => Contents { damage: findings, ..Contents::default() },
            Some(Err(error)) => return Err(error),
            None => Contents::default(),
        };
        let mut findings = match &journal {
            Some(replayed) => compare(&contents, &summed(replayed)),
            None => {
                let mut findings = contents.damage.clone();
                findings.push("the journal is missing".into());
                findings
            }
        };
        match files::read_format(data)? {
            Some(found) if found < FORMAT => {
                return Err(StoreError::Io(format!(
                    "the data folder has format {found}; start the server once to bring it to format {FORMAT}"
                )));
            }
            Some(_) => {}
            None => findings.push("the file `format` is missing or unreadable".into()),
        }
        Ok(Self { data: data.to_owned(), _lock: lock, contents, journal, findings })
    }

    /// Returns what is wrong, in words.
    pub fn findings(&self) -> &[String] {
        &self.findings
    }

    /// Returns how many records there are.
    pub fn count(&self) -> usize {
        self.contents.records.len()
    }

    /// Returns the position up to which lines of the ledger are included in the stored sums.
    pub fn watermark(&self) -> Watermark {
        self.values("w").next().and_then(|(_, value)| serde_json::from_slice(value).ok()).unwrap_or_default()
    }

    /// Returns the encrypted secrets, each with its tenant and name.
    pub fn secrets(&self) -> Vec<(TenantName, String, String)> {
        let parsed = self.values("s/").filter_map(|(key, value)| {
            let mut parts = std::str::from_utf8(key).ok()?.split('/').skip(1);
            let (tenant, name) = (TenantName::new(parts.next()?).ok()?, parts.next()?.to_owned());
            Some((tenant, name, serde_json::from_slice::<SecretRecord>(value).ok()?.sealed))
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
        let folder = |kind: &str, key: &[u8]| {
            let tenant = String::from_utf8_lossy(key).split('/').nth(1).unwrap_or_default().to_owned();
            self.data.join(kind).join(tenant)
        };
        for (key, value) in self.values("v/") {
            let Ok(version) = serde_json::from_slice::<VersionRecord>(value) else { continue };
            add(folder("components", key).join(format!("{}.wasm", version.digest)), version.digest, key);
            for asset in version.assets.into_values() {
                add(folder("assets", key).join(&asset.digest), asset.digest, key);
            }
        }
        for (key, value) in self.values("asset/") {
            let Ok(asset) = serde_json::from_slice::<AssetRecord>(value) else { continue };
            add(folder("assets", key).join(&asset.digest), asset.digest, key);
        }
        files.into_values().collect()
    }

    fn values(&self, prefix: &'static str) -> impl Iterator<Item = (&[u8], &[u8])> {
        let records = self.contents.records.iter().filter(move |(key, _)| key.starts_with(prefix.as_bytes()));
        records.filter_map(|(key, stored)| Some((key.as_slice(), unsealed(key, stored)?)))
    }

    /// Restores the records from the copy that is whole, or from both, without the secrets in `forgotten`. Returns what
    /// was done, in words.
    pub fn repair(self, forgotten: &[(TenantName, String)]) -> Result<Vec<String>, StoreError> {
        if self.findings.is_empty() && forgotten.is_empty() {
            return Ok(Vec::new());
        }
        let (mut records, round, mut done) = self.restored();
        for (tenant, name) in forgotten {
            if records.remove(format!("s/{tenant}/{name}").as_bytes()).is_some() {
                done.push(format!("secret {name} of {tenant} was removed"));
            }
        }
        let aside = self.data.join("set-aside").join(jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ").to_string());
        std::fs::create_dir_all(&aside)?;
        for name in ["db", "journal"] {
            match std::fs::rename(self.data.join(name), aside.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        for name in ["db", "journal"] {
            std::fs::create_dir_all(self.data.join(name))?;
        }
        // The journal first: if this ends here, the next repair finds it whole.
        let all = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
        Journal::write(&self.data.join("journal"), round, all)?;
        write_database(&self.data.join("db"), round, &records)?;
        files::write_format(&self.data)?;
        sync_folder(&self.data)?;
        done.push(format!("{} records were written anew", records.len()));
        done.push(format!("what was there before is in {}", aside.display()));
        Ok(done)
    }

    fn restored(&self) -> (BTreeMap<Vec<u8>, Vec<u8>>, u64, Vec<String>) {
        let from_database = || {
            let records = self.contents.records.iter();
            records.filter_map(|(key, stored)| Some((key.clone(), unsealed(key, stored)?.to_vec())))
        };
        let (db_round, db_records) = self.contents.count.map_or((0, 0), |count| (count.round, count.records));
        let journal_round = self.journal.as_ref().map_or(0, |replayed| replayed.round);
        let next = db_round.max(journal_round) + 1;
        let is_db_whole = self.contents.damage.is_empty()
            && self.contents.count.is_some()
            && self.contents.records.len() as u64 == db_records
            && db_round >= journal_round;
        match &self.journal {
            Some(replayed) if replayed.damage.is_empty() && db_round <= journal_round => {
                let records = replayed.records.iter().map(|(key, value)| (key.clone(), value.clone()));
                (records.collect(), next, vec!["the records were restored from the journal".into()])
            }
            _ if is_db_whole => {
                (from_database().collect(), next, vec!["the records were restored from the database".into()])
            }
            replayed => {
                let mut done = vec!["both copies are damaged; what can be read of both was kept".to_owned()];
                let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
                if let Some(replayed) = replayed {
                    records.extend(replayed.records.iter().map(|(key, value)| (key.clone(), value.clone())));
                    for (key, value) in &replayed.unfinished {
                        if let Some(value) = value {
                            records.insert(key.clone(), value.clone());
                        }
                    }
                }
                for (key, value) in from_database() {
                    if key.starts_with(b"k/") && !records.contains_key(&key) {
                        done.push(format!("{} was not kept: it may have been revoked", describe(&key)));
                    } else if db_round >= journal_round || !records.contains_key(&key) {
                        records.insert(key, value);
                    }
                }
                (records, next, done)
            }
        }
    }
}

/// Returns the same with checksums in place of values.
fn summed(replayed: &Replayed<Vec<u8>>) -> Replayed<u32> {
    let sums = replayed.records.iter().map(|(key, value)| (key.clone(), record_sum(key, value)));
    replayed.with(sums.collect())
}

/// Writes a new database with all records.
fn write_database(folder: &Path, round: u64, records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<(), StoreError> {
    let db = open_database(folder)?;
    let all: Vec<_> = records.iter().collect();
    for part in all.chunks(WRITE_AT_ONCE) {
        let mut batch = sled::Batch::default();
        for (key, value) in part {
            batch.insert(key.as_slice(), sealed(key, value));
        }
        db.apply_batch(batch)?;
    }
    let before = Count { round: round.saturating_sub(1), records: records.len() as u64 };
    let none: [Change; 0] = [];
    commit::apply(&db, before, &none)?;
    commit::sync(&db, folder)
}

/// Gives a folder of an older format the checksums, the count and the journal of this one. Each step can be repeated.
pub(super) fn upgrade(db: &sled::Db, database: &Path, journal: &Path) -> Result<(), StoreError> {
    let mut records = BTreeMap::new();
    let is_sealed = db.contains_key(COUNT)?;
    for entry in db.iter() {
        let (key, stored) = entry?;
        let value = if is_sealed { unsealed(&key, &stored).unwrap_or_default() } else { &stored };
        if key != COUNT {
            records.insert(key.to_vec(), value.to_vec());
        }
    }
    if !is_sealed {
        let changes: Vec<Change> = records.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        commit::apply(db, Count { round: 0, records: records.len() as u64 }, &changes)?;
        commit::sync(db, database)?;
    }
    let round = read_database(db).count.map_or(1, |count| count.round);
    Journal::write(journal, round, records.iter().map(|(key, value)| (key.as_slice(), value.as_slice())))?;
    Ok(())
}
