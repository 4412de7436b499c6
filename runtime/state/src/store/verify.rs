//! Compares the database with the journal at a start. What differs is damage: nothing is written then, and
//! `gannet repair` restores the records from the copy that is whole.

use crate::store::batch::describe;
use crate::store::commit::{self, Count};
use crate::store::error::StoreError;
use crate::store::journal::{Journal, Replayed};
use crate::store::stored::{COUNT, record_sum, unsealed};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long sled's own lock is waited for. Its threads keep it for a moment after a database was closed.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often the lock is tried meanwhile.
const LOCK_TRY: Duration = Duration::from_millis(5);

/// Opens the database. What sled makes of damaged files is a panic or one of several errors.
///
/// The caller holds the lock of the data folder, so whoever holds sled's is this process, which has closed it.
pub(super) fn open_database(folder: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new().path(folder).mode(sled::Mode::LowSpace).flush_every_ms(None);
    let began = Instant::now();
    let opened = loop {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open())) {
            Ok(Err(error)) if is_locked(&error) && began.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_TRY),
            opened => break opened,
        }
    };
    let unreadable = |cause: String| StoreError::Damaged { findings: vec![format!("the database: {cause}")] };
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error))) if is_of_the_system(&error) => Err(error.into()),
        Ok(Err(error)) => Err(unreadable(error.to_string())),
        Err(_) => Err(unreadable("it cannot be opened".into())),
    }
}

/// Whether another database has sled's lock. sled tells that only by its text.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock"))
}

/// Returns whether an error says something about this machine and nothing about the files.
fn is_of_the_system(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::PermissionDenied, io::ErrorKind::StorageFull, io::ErrorKind::ReadOnlyFilesystem];
    let too_many_files = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].map(|errno| errno.raw_os_error());
    kinds.contains(&error.kind()) || error.raw_os_error().is_some_and(|code| too_many_files.contains(&code))
}

/// The records of the database, each with its checksum, and what is wrong with it by itself.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The count, if it can be read.
    pub(super) count: Option<Count>,
    /// The records whose checksums are right, as they are stored.
    pub(super) records: HashMap<Vec<u8>, sled::IVec>,
    /// A description of each problem.
    pub(super) damage: Vec<String>,
}

impl Contents {
    /// Returns the keys and values of the records.
    pub(super) fn values(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.records.iter().filter_map(|(key, stored)| Some((key.as_slice(), unsealed(key, stored)?)))
    }
}

/// Reads the whole database.
pub(super) fn read_database(db: &sled::Db) -> Contents {
    let mut contents = Contents::default();
    let scanned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for entry in db.iter() {
            match entry {
                Ok((key, stored)) => match unsealed(&key, &stored) {
                    Some(count) if key == COUNT => contents.count = serde_json::from_slice(count).ok(),
                    Some(_) => drop(contents.records.insert(key.to_vec(), stored)),
                    None => contents.damage.push(format!("{} has a wrong checksum", describe(&key))),
                },
                Err(error) => {
                    contents.damage.push(format!("the database: {error}"));
                    break;
                }
            }
        }
    }));
    if scanned.is_err() {
        contents.damage.push("the database cannot be read to its end".into());
    }
    contents
}

/// How the database differs from the journal.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// A description of each problem.
    pub(super) findings: Vec<String>,
    /// Whether the changes of the journal's last round are missing, wholly or in part. A crash explains that.
    pub(super) lacks_last: bool,
}

/// Compares the database with the journal.
pub(super) fn compare(contents: &Contents, replayed: &Replayed<u32>) -> Comparison {
    let mut findings = replayed.damage.clone();
    findings.extend_from_slice(&contents.damage);
    let is_empty = contents.records.is_empty() && replayed.records.is_empty();
    let round = match contents.count {
        Some(count) => count.round,
        None if is_empty => replayed.round,
        None => {
            findings.push(match contents.records.len() {
                0 => "the database is missing or empty".into(),
                _ => "the database has lost its count of records".into(),
            });
            return Comparison { findings, lacks_last: false };
        }
    };
    if round > replayed.round {
        findings.push(format!("the journal ends at round {}, the database at {round}", replayed.round));
    } else if round + 1 < replayed.round {
        findings.push(format!("the database ends at round {round}, the journal at {}", replayed.round));
    }
    let of_last: HashSet<&[u8]> = replayed.last.iter().map(|(key, _)| key.as_slice()).collect();
    let mut lacks_last = round != replayed.round || contents.count.is_none();
    let mut differences: Vec<String> = Vec::new();
    for (key, sum) in &replayed.records {
        let stored = contents.records.get(key).and_then(|stored| unsealed(key, stored));
        let found = match stored.map(|value| record_sum(key, value)) {
            Some(stored) if stored == *sum => continue,
            Some(_) => "differs from the journal's copy",
            None => "is missing in the database",
        };
        if of_last.contains(key.as_slice()) {
            lacks_last = true;
        } else {
            differences.push(format!("{} {found}", describe(key)));
        }
    }
    for key in contents.records.keys().filter(|key| !replayed.records.contains_key(*key)) {
        if of_last.contains(key.as_slice()) {
            lacks_last = true;
        } else {
            differences.push(format!("{} is in the database but not in the journal", describe(key)));
        }
    }
    let (found, expected) = (contents.records.len() as u64, contents.count.map_or(0, |count| count.records));
    if differences.is_empty() && !lacks_last && found != expected {
        findings.push(format!("the database has {found} records; it must have {expected}"));
    }
    differences.sort_unstable();
    findings.extend(differences);
    Comparison { findings, lacks_last }
}

/// Compares the database with the journal, brings it to the journal's last round, and opens the journal for writing.
pub(super) fn verify(
    db: &sled::Db,
    database: &Path,
    journal: &Path,
    replayed: &Replayed<u32>,
) -> Result<(Journal, Count), StoreError> {
    let Comparison { findings, lacks_last } = compare(&read_database(db), replayed);
    if !findings.is_empty() {
        return Err(StoreError::Damaged { findings });
    }
    // The journal is made durable first: an earlier run may have written it and not synced it.
    let resumed = Journal::resume(journal, replayed)?;
    let count = Count { round: replayed.round, records: replayed.records.len() as u64 };
    if lacks_last {
        tracing::info!(round = replayed.round, "the last change is completed; a crash interrupted it");
        commit::apply_as(db, count, &replayed.last)?;
    }
    commit::sync(db, database)?;
    Ok((resumed, count))
}
