//! The index of a sealed segment of a stream: `NUMBER.idx` has its ids (16 bytes) in order, each followed by the offset
//! of its line (8 bytes, little-endian).
//!
//! Invariant: after a crash an index is complete or missing, and then it is made anew.

use super::SegmentFolder;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Identifies a line.
pub type LineId = [u8; 16];

/// Ending of the name of an index.
pub const ENDING: &str = "idx";
/// Size of an entry.
const ENTRY_BYTES: usize = 24;

/// Makes the entries of an index from a segment's file. A line without an id has none.
pub fn entries(file: &File, id_of: impl Fn(&[u8]) -> Option<LineId>) -> io::Result<Vec<(LineId, u64)>> {
    let mut entries = Vec::new();
    super::scan(file, 0, |at, text| entries.extend(id_of(text).map(|id| (id, at))))?;
    entries.sort_unstable();
    Ok(entries)
}

/// Returns an index as its file has it.
pub fn to_bytes(entries: &[(LineId, u64)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    for (id, at) in entries {
        bytes.extend_from_slice(id);
        bytes.extend_from_slice(&at.to_le_bytes());
    }
    bytes
}

/// Writes the index of a segment durably.
pub fn write(segments: &SegmentFolder, number: u64, mut entries: Vec<(LineId, u64)>) -> io::Result<()> {
    entries.sort_unstable();
    crate::store::files::write_durably(&segments.with_ending(number, ENDING), &to_bytes(&entries), 0o600)
}

/// A sealed segment. Its files are opened only for a lookup, because there may be many segments.
#[derive(Debug)]
pub struct SealedSegment {
    index: PathBuf,
    lines: PathBuf,
    first: LineId,
    last: LineId,
    count: u64,
}

impl SealedSegment {
    /// Opens a sealed segment, and makes its index if a crash prevented that. Returns None if the segment has no lines.
    pub fn open(
        segments: &SegmentFolder,
        number: u64,
        id_of: impl Fn(&[u8]) -> Option<LineId>,
    ) -> io::Result<Option<Self>> {
        let (place, lines) = (segments.with_ending(number, ENDING), segments.path(number));
        let index = match File::open(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write(segments, number, entries(&File::open(&lines)?, id_of)?)?;
                File::open(&place)?
            }
            opened => opened?,
        };
        let count = index.metadata()?.len() / ENTRY_BYTES as u64;
        let Some(end) = count.checked_sub(1) else { return Ok(None) };
        let (first, last) = (entry(&index, 0)?.0, entry(&index, end)?.0);
        Ok(Some(Self { index: place, lines, first, last, count }))
    }

    /// Returns whether a line with this id can be in the segment.
    pub fn may_have(&self, id: LineId) -> bool {
        (self.first..=self.last).contains(&id)
    }

    /// Returns the file with the lines, and where the line with this id begins, if it is in the segment.
    pub fn find(&self, id: LineId) -> io::Result<Option<(File, u64)>> {
        if !self.may_have(id) {
            return Ok(None);
        }
        let index = File::open(&self.index)?;
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let (found, at) = entry(&index, middle)?;
            match found.cmp(&id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some((File::open(&self.lines)?, at))),
            }
        }
        Ok(None)
    }
}

fn entry(index: &File, at: u64) -> io::Result<(LineId, u64)> {
    let mut entry = [0; ENTRY_BYTES];
    index.read_exact_at(&mut entry, at * ENTRY_BYTES as u64)?;
    let (id, offset) = entry.split_at(size_of::<LineId>());
    let id = id.try_into().map_err(io::Error::other)?;
    let offset = offset.try_into().map_err(io::Error::other)?;
    Ok((id, u64::from_le_bytes(offset)))
}
