//! Numbered files of lines that only grow: what the records, the streams and so the ledger are kept in.
//!
//! ```text
//!  FOLDER/0000000007.ENDING    sealed: never written again
//!  FOLDER/0000000008.ENDING    open: the last one; lines are appended to it and synced, a group at a time
//! ```
//!
//! A line has a checksum; see [`crate::lines`]. [`tail`] tells what a crash left from damage, [`appender`] owns the open
//! file, and [`index`] finds lines of a sealed one by their ids.
//!
//! Invariant: nothing is written behind bytes whose fate is not known. What a failed write left is cut off first.

pub mod appender;
pub mod disk;
pub mod index;
pub mod tail;

use crate::lines;
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Size of the buffer with which a file is read from its beginning to its end.
const READ_BYTES: usize = 1 << 18;

/// A folder of segments whose names have one ending.
#[derive(Debug, Clone)]
pub struct SegmentFolder {
    folder: PathBuf,
    ending: &'static str,
}

impl SegmentFolder {
    /// Names the segments in a folder. `ending` is without its dot.
    pub fn new(folder: &Path, ending: &'static str) -> Self {
        Self { folder: folder.to_owned(), ending }
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of a segment.
    pub fn path(&self, number: u64) -> PathBuf {
        self.with_ending(number, self.ending)
    }

    /// Returns the path of a file that belongs to a segment.
    pub fn with_ending(&self, number: u64, ending: &str) -> PathBuf {
        self.folder.join(format!("{number:010}.{ending}"))
    }

    /// Returns the numbers of the segments, in ascending order.
    pub fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(self.ending)?.strip_suffix('.'));
            numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// Calls `each` with the offset and the text of every line of a file from `from` on, and returns what else is there.
pub fn scan(file: &File, from: u64, each: impl FnMut(u64, &[u8])) -> io::Result<lines::Scan> {
    let mut reader = BufReader::with_capacity(READ_BYTES, file);
    reader.seek(SeekFrom::Start(from))?;
    lines::scan(reader, from, each)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_files_with_the_ending_are_segments() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["0000000002.log", "0000000010.log", "0000000001.idx", "log", "x.log", "0000000003log"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let segments = SegmentFolder::new(folder.path(), "log");
        assert_eq!(segments.numbers().unwrap(), [2, 10]);
        assert_eq!(segments.path(2), folder.path().join("0000000002.log"));
        assert_eq!(segments.with_ending(2, "idx"), folder.path().join("0000000002.idx"));
    }
}
