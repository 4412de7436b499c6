//! Compares the database with the journal at a start. What differs is damage: nothing is written then, and
//! `gannet repair` restores the records from the copy that is whole.

use crate::store::StoreError;
use crate::store::batch::{describe, record_sum, unsealed};
use crate::store::commit::{self, COUNT, Count};
use crate::store::journal::{Journal, Replayed};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Opens the database. sled may panic on damaged files, which is damage like any other.
pub(super) fn open_database(folder: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new().path(folder).mode(sled::Mode::LowSpace).flush_every_ms(None);
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
    let unreadable = |cause: String| StoreError::Damaged { findings: vec![format!("the database: {cause}")] };
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Corruption { .. })) => Err(unreadable("it is corrupt".into())),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(unreadable("it cannot be opened".into())),
    }
}

/// The records of the database, each with its checksum, and what is wrong with it by itself.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The count, if it can be read.
    pub(super) count: Option<Count>,
    /// The records whose checksums are right, as they are stored.
    pub(super) records: HashMap<Vec<u8>, sled::IVec>,
    /// What is wrong, in words.
    pub(super) damage: Vec<String>,
}

/// Reads the whole database.
pub(super) fn read_database(db: &sled::Db) -> Contents {
    let mut contents = Contents::default();
    let scanned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for entry in db.iter() {
            match entry {
                Ok((key, stored)) if unsealed(&key, &stored).is_some() => {
                    if key == COUNT {
                        contents.count = super::batch::parse(&key, &stored).ok();
                    } else {
                        contents.records.insert(key.to_vec(), stored);
                    }
                }
                Ok((key, _)) => contents.damage.push(format!("{} has a wrong checksum", describe(&key))),
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

/// Returns what is wrong with the database and the journal together. Records that the last round changed may be as they
/// were before it, if the database is one round behind.
pub(super) fn compare(contents: &Contents, replayed: &Replayed<u32>) -> Vec<String> {
    let mut findings = replayed.damage.clone();
    findings.extend_from_slice(&contents.damage);
    let Some(Count { round, records }) = contents.count else {
        findings.push(match contents.records.len() {
            0 => "the database is missing or empty".into(),
            _ => "the database has lost its count of records".into(),
        });
        return findings;
    };
    let found = contents.records.len() as u64;
    if found != records {
        findings.push(format!("the database has {found} records; it must have {records}"));
    }
    let is_behind = round + 1 == replayed.round;
    if round > replayed.round {
        findings.push(format!("the journal ends at round {}, the database at {round}", replayed.round));
    } else if round != replayed.round && !is_behind {
        findings.push(format!("the database ends at round {round}, the journal at {}", replayed.round));
    }
    let last = replayed.last.iter().filter(|_| is_behind);
    let may_differ: HashSet<&[u8]> = last.map(|(key, _)| key.as_slice()).collect();
    let mut differences: Vec<String> = Vec::new();
    for (key, sum) in &replayed.records {
        let stored = contents.records.get(key).and_then(|stored| unsealed(key, stored));
        match stored.map(|value| record_sum(key, value)) {
            _ if may_differ.contains(key.as_slice()) => {}
            None => differences.push(format!("{} is missing in the database", describe(key))),
            Some(stored) if stored != *sum => {
                differences.push(format!("{} differs from the journal's copy", describe(key)));
            }
            Some(_) => {}
        }
    }
    for key in contents.records.keys() {
        if !replayed.records.contains_key(key) && !may_differ.contains(key.as_slice()) {
            differences.push(format!("{} is in the database but not in the journal", describe(key)));
        }
    }
    differences.sort_unstable();
    findings.extend(differences);
    findings
}

/// Compares the database with the journal, brings it to the journal's last round, and opens the journal for writing.
pub(super) fn verify(
    db: &sled::Db,
    database: &Path,
    journal: &Path,
    replayed: &Replayed<u32>,
) -> Result<(Journal, Count), StoreError> {
    let contents = read_database(db);
    let findings = compare(&contents, replayed);
    let Some(mut count) = contents.count.filter(|_| findings.is_empty()) else {
        return Err(StoreError::Damaged { findings });
    };
    if count.round < replayed.round {
        tracing::info!(round = replayed.round, "the last change is completed; a crash interrupted it");
        count = commit::apply(db, count, &replayed.last)?;
        commit::sync(db, database)?;
    }
    Ok((Journal::resume(journal, replayed)?, count))
}
