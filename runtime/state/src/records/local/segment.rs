//! The files of the store: `NUMBER.log`, numbered without gaps. The last one is open, the others are never written
//! again.
//!
//! Every write is one append and one sync. What fails is cut off again before anything else is written, so no file has
//! an unknown end that is followed by something acknowledged.

use super::format;
use crate::lines;
use crate::records::Revision;
use crate::store::files::sync_folder;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Returns the path of a segment.
pub(super) fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:010}.log"))
}

/// Returns the numbers of the segments in a folder, in ascending order.
pub(super) fn list(folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok());
        numbers.extend::<Option<u32>>(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Writes and syncs segments. Tests make it fail.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) faults: std::sync::Arc<std::sync::Mutex<std::collections::VecDeque<Option<io::ErrorKind>>>>,
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
    pub(super) fn append(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)?;
        self.may_fail()?;
        file.sync_data()
    }

    /// Cuts off what follows `end`, durably.
    pub(super) fn cut(&self, file: &File, end: u64) -> io::Result<()> {
        self.may_fail()?;
        file.set_len(end)?;
        file.sync_all()
    }

    /// Makes a segment durably, with its first line. Returns its length.
    pub(super) fn create(&self, folder: &Path, number: u32, last: Revision) -> io::Result<(File, u64)> {
        let place = path(folder, number);
        let make = || {
            // A file of this number can only be what an earlier failure left.
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&place)?;
            let bytes = first_line(last)?;
            self.append(&file, &bytes, 0)?;
            sync_folder(folder)?;
            Ok((file, bytes.len() as u64))
        };
        make().inspect_err(|_: &io::Error| drop(std::fs::remove_file(&place)))
    }
}

/// Returns the line that a segment begins with. It keeps revisions from being given twice when all later ones are
/// removed with the records that they wrote.
pub(super) fn first_line(last: Revision) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    format::begin(&mut bytes, "last", last)?;
    lines::seal(&mut bytes, 0)?;
    Ok(bytes)
}

/// What is behind the last line of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// The beginning of a line that a crash interrupted, from here on. It was never acknowledged.
    Torn(u64),
    /// A line of which only the line feed at this offset is damaged.
    NoLineFeed(u64),
    /// Nothing. Whole lines before it may be damaged.
    Clean,
}

/// Tells what is behind the last line. `found` is what a scan of the whole file found.
pub(super) fn tail(file: &File, found: &lines::Scan) -> io::Result<Tail> {
    let mut bytes = vec![0; usize::try_from(found.tail).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, found.end)?;
    // Damaged lines with their line feeds come first, then the beginning of a line.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let rest = bytes.get(whole..).unwrap_or_default();
    let Some((_, line)) = rest.split_last() else { return Ok(Tail::Clean) };
    if lines::unseal(line).is_some() {
        return Ok(Tail::NoLineFeed(found.end + found.tail - 1));
    }
    Ok(Tail::Torn(found.end + whole as u64))
}

/// The oldest segment, while it is read.
#[derive(Debug)]
pub(super) struct Compaction {
    pub(super) number: u32,
    pub(super) file: Arc<File>,
    /// How far its records are copied.
    pub(super) at: u64,
    /// Its length.
    pub(super) bytes: u64,
}
