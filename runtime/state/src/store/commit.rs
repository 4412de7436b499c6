//! Rounds of changes: all commits that wait when a round begins become durable in it, together. [`super::sled`] makes
//! rounds of commits.
//!
//! ```text
//!  round: journal: append, sync ─▶ database: one batch with the new count, flush, sync
//! ```
//!
//! A crash between the two leaves the database one round behind; the next start applies that round.

use crate::store::batch::describe;
use crate::store::error::StoreError;
use crate::store::journal::{Change, Journal};
use crate::store::space::{self, COMMIT_BYTES_MIN};
use crate::store::stored::{COUNT, sealed, unsealed};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What the database must contain. It changes with each round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    /// The last round.
    pub(super) round: u64,
    /// Number of records, without this one.
    pub(super) records: u64,
}

/// Applies the changes of the next round to the database as one batch, and returns the new count.
pub(super) fn apply(db: &sled::Db, count: Count, changes: &[Change]) -> Result<Count, StoreError> {
    let mut records = count.records;
    for (key, value) in changes {
        match (db.contains_key(key)?, value) {
            (false, Some(_)) => records += 1,
            (true, None) => records = records.saturating_sub(1),
            _ => {}
        }
    }
    apply_as(db, Count { round: count.round + 1, records }, changes)
}

/// Applies changes to the database as one batch, after which it has this count.
pub(super) fn apply_as(db: &sled::Db, count: Count, changes: &[Change]) -> Result<Count, StoreError> {
    let mut batch = sled::Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.insert(key.as_slice(), sealed(key, value)),
            None => batch.remove(key.as_slice()),
        }
    }
    let value = serde_json::to_vec(&count).map_err(|error| StoreError::Io(error.to_string()))?;
    batch.insert(COUNT, sealed(COUNT, &value));
    db.apply_batch(batch)?;
    Ok(count)
}

/// Makes the database durable.
pub(super) fn sync(db: &sled::Db, folder: &Path) -> Result<(), StoreError> {
    db.flush()?;
    sync_folder(folder)
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folder(&entry.path())?;
        } else {
            match File::open(entry.path()) {
                Ok(file) => file.sync_all()?,
                // sled may remove an old snapshot file of its own between `read_dir` and `open`.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// Makes rounds. The commit thread owns it.
#[derive(Debug)]
pub(super) struct Committer {
    pub(super) db: sled::Db,
    /// Folder of the database.
    pub(super) folder: PathBuf,
    pub(super) journal: Journal,
    pub(super) count: Count,
}

impl Committer {
    /// Makes one round durable. The round names each key at most once. `apply_here` calls [`apply`], together with what
    /// must happen when readers begin to see the round; the journal has it by then. If the second value of an error is
    /// true, the round may have been kept, and nothing may be written any more.
    pub(super) fn round(
        &mut self,
        changes: &[Change],
        apply_here: impl FnOnce(&sled::Db, Count, &[Change]) -> Result<Count, StoreError>,
    ) -> Result<(), (StoreError, bool)> {
        let bytes: usize = changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        // sled cannot go on after a write that found no room, so it gets none to try.
        let needed = COMMIT_BYTES_MIN.saturating_add((bytes as u64).saturating_mul(4));
        if space::free(&self.folder).map_err(|error| (error.into(), false))? < needed {
            return Err((StoreError::Full, false));
        }
        self.journal.append(changes)?;
        self.count = apply_here(&self.db, self.count, changes).map_err(|error| (error, true))?;
        sync(&self.db, &self.folder).map_err(|error| (error, true))?;
        if self.journal.is_long()
            && let Err((error, breaks)) = self.replace_journal()
        {
            if breaks {
                return Err((error, true));
            }
            // The long one goes on; a later round tries again.
            tracing::warn!(%error, "the journal could not be written anew");
        }
        Ok(())
    }

    fn replace_journal(&mut self) -> Result<(), (StoreError, bool)> {
        let mut records = Vec::new();
        for entry in self.db.iter() {
            let (key, stored) = entry.map_err(|error| (error.into(), false))?;
            if key == COUNT {
                continue;
            }
            let corrupt = || StoreError::Corrupt { record: describe(&key), cause: "its checksum is wrong".into() };
            let value = unsealed(&key, &stored).ok_or_else(|| (corrupt(), false))?.to_vec();
            records.push((key, value));
        }
        if records.len() as u64 != self.count.records {
            let (found, expected) = (records.len(), self.count.records);
            let what = format!("the database has {found} records; it must have {expected}");
            return Err((StoreError::Io(what), false));
        }
        self.journal.replace(records.iter().map(|(key, value)| (key.as_ref(), value.as_slice())))
    }
}
