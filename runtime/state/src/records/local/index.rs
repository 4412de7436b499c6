//! Where each record is: in memory, because it is asked for by every read and every commit. Values are not.
//!
//! It also counts how many bytes of each segment are still needed, which decides when the oldest one is compacted.
//!
//! Invariant: it has only what is on disk and synced. Only the writer changes it.

use super::format::{self, Change, Line, Stored};
use crate::records::{Revision, below};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The bit of `Location::length_and_form` that says that the value was written with `esc`.
const ESCAPED: u32 = 1 << 31;

/// Where a record is. 24 bytes, because there is one for each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    /// The commit that wrote the record.
    pub(super) revision: Revision,
    /// The number of the segment.
    pub(super) segment: u32,
    /// Where the value begins in it.
    pub(super) offset: u32,
    length_and_form: u32,
    sum: u32,
}

impl Location {
    /// Returns the location of a value in a line that begins at `line_at` of a segment. Fails if an offset or a length
    /// is too large for it, which no writer lets happen.
    pub(super) fn new(revision: Revision, segment: u32, line_at: u64, stored: &Stored) -> io::Result<Self> {
        let offset = u32::try_from(line_at + stored.at as u64).map_err(io::Error::other)?;
        let length = u32::try_from(stored.length).ok().filter(|length| *length < ESCAPED);
        let length = length.ok_or_else(|| io::Error::other(format!("a value of {} stored bytes", stored.length)))?;
        let length_and_form = if stored.escaped { length | ESCAPED } else { length };
        Ok(Self { revision, segment, offset, length_and_form, sum: stored.sum })
    }

    /// The length of the value in the file.
    pub(super) fn length(&self) -> usize {
        (self.length_and_form & !ESCAPED) as usize
    }

    /// What the record costs when it is copied.
    fn cost_bytes(&self, key: &str) -> u64 {
        format::copy_bytes(self.revision, key.len(), self.length())
    }

    /// Reads the value, and checks it.
    pub(super) fn read(&self, file: &File, key: &str) -> io::Result<Vec<u8>> {
        let mut stored = vec![0; self.length()];
        file.read_exact_at(&mut stored, u64::from(self.offset))?;
        let intact = crc32fast::hash(&stored) == self.sum;
        let escaped = self.length_and_form & ESCAPED != 0;
        let value = if !intact {
            None
        } else if escaped {
            format::unescape(&stored)
        } else {
            Some(stored)
        };
        value.ok_or_else(|| {
            let (segment, offset) = (self.segment, self.offset);
            let why = format!("the record {key:?} is damaged: offset {offset} of segment {segment}");
            io::Error::new(io::ErrorKind::InvalidData, why)
        })
    }
}

/// A segment that has records.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its file.
    pub(super) file: Arc<File>,
    /// Its length.
    pub(super) bytes: u64,
    /// How many bytes its records would take as copies. Records that share a line take less than that.
    pub(super) live_bytes: u64,
    /// Whether bytes of it cannot be read.
    pub(super) damaged: bool,
}

/// All records; see the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    records: BTreeMap<Box<str>, Location>,
    /// By number, so the first is the oldest and the last is open.
    pub(super) segments: BTreeMap<u32, Segment>,
    /// The newest commit.
    pub(super) position: Revision,
}

impl Index {
    /// Returns where a record is.
    pub(super) fn get(&self, key: &str) -> Option<Location> {
        self.records.get(key).copied()
    }

    /// Returns the file that a record is in.
    pub(super) fn file_of(&self, location: &Location) -> io::Result<Arc<File>> {
        let segment = self.segments.get(&location.segment).map(|segment| Arc::clone(&segment.file));
        segment.ok_or_else(|| io::Error::other(format!("segment {} of the records is missing", location.segment)))
    }

    /// Returns the records whose keys begin with `prefix` and come after `after`.
    pub(super) fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a str, &'a Location)> {
        let start = after.filter(|after| *after >= prefix).map_or(Bound::Included(prefix), Bound::Excluded);
        let from = self.records.range::<str, _>((start, Bound::Unbounded));
        from.map(|(key, location)| (&**key, location)).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Returns the records whose keys begin with `prefix` and come before `before`, in descending order.
    pub(super) fn range_back<'a>(
        &'a self,
        prefix: &'a str,
        before: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a str, &'a Location)> {
        let end = below(prefix, before);
        let to = self.records.range::<str, _>((Bound::Unbounded, end.as_ref().map(String::as_str))).rev();
        to.map(|(key, location)| (&**key, location)).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Writes where a record is.
    pub(super) fn put(&mut self, key: &str, location: Location) {
        self.count(key, &location, true);
        // One search of the tree, which costs more than a key that is not needed.
        let before = self.records.insert(key.into(), location);
        if let Some(before) = before {
            self.count(key, &before, false);
        }
    }

    /// Removes a record.
    pub(super) fn delete(&mut self, key: &str) {
        if let Some(before) = self.records.remove(key) {
            self.count(key, &before, false);
        }
    }

    fn count(&mut self, key: &str, location: &Location, is_live: bool) {
        if let Some(segment) = self.segments.get_mut(&location.segment) {
            let cost = location.cost_bytes(key);
            let live = segment.live_bytes;
            segment.live_bytes = if is_live { live + cost } else { live.saturating_sub(cost) };
        }
    }

    /// Does what a line of a segment says, as the store is opened.
    pub(super) fn replay(&mut self, segment: u32, line_at: u64, line: &Line<'_>) -> io::Result<()> {
        self.position = self.position.max(line.revision);
        for change in &line.changes {
            match change {
                Change::Put { key, stored, .. } => {
                    let location = Location::new(line.revision, segment, line_at, stored)?;
                    // A copy never takes the place of a newer record.
                    let newer = |known: Location| known.revision > line.revision;
                    if !line.is_copy || !self.get(key).is_some_and(newer) {
                        self.put(key, location);
                    }
                }
                Change::Delete { key } => self.delete(key),
            }
        }
        Ok(())
    }

    /// Returns the oldest segment if so much of the sealed ones is not needed that copying pays: more than half.
    pub(super) fn to_compact(&self) -> Option<u32> {
        let (newest, _) = self.segments.last_key_value()?;
        let (mut bytes, mut dead_bytes) = (0, 0);
        for (_, segment) in self.segments.range(..newest) {
            bytes += segment.bytes;
            dead_bytes += segment.bytes.saturating_sub(segment.live_bytes);
        }
        let (oldest, _) = self.segments.first_key_value()?;
        (dead_bytes * 2 > bytes).then_some(*oldest)
    }

    /// Returns how many records there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}
