//! Writes and syncs segments. Every write is one append and one sync; tests make them fail.

use crate::store::files::sync_folder;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Writes and syncs segments.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// How the next calls end, for tests.
    #[cfg(test)]
    pub faults: std::sync::Arc<std::sync::Mutex<std::collections::VecDeque<Option<io::ErrorKind>>>>,
}

impl Disk {
    /// Fails if a test wants that. Each call takes one element of `faults`.
    fn may_fail(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(kind) = self.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front().flatten()
        {
            return Err(kind.into());
        }
        Ok(())
    }

    /// Writes bytes at the end of a file and syncs them.
    pub fn append(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)?;
        self.may_fail()?;
        file.sync_data()
    }

    /// Cuts off what follows `end`, durably.
    pub fn cut(&self, file: &File, end: u64) -> io::Result<()> {
        self.may_fail()?;
        file.set_len(end)?;
        file.sync_all()
    }

    /// Makes a segment durably, with its first bytes. A file of this name can only be what an earlier failure left.
    pub fn create(&self, place: &Path, first: &[u8]) -> io::Result<File> {
        let make = || {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(place)?;
            self.append(&file, first, 0)?;
            sync_folder(place.parent().unwrap_or(Path::new("/")))?;
            Ok(file)
        };
        make().inspect_err(|_: &io::Error| drop(std::fs::remove_file(place)))
    }
}
