//! The segments of the records: `NUMBER.log`, numbered without gaps; see [`crate::segments`].

use super::format;
use crate::lines;
use crate::records::Revision;
use crate::segments::SegmentFolder;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Returns the segments in a folder.
pub(super) fn segments(folder: &Path) -> SegmentFolder {
    SegmentFolder::new(folder, "log")
}

/// Returns the number of a segment as locations have it.
pub(super) fn short(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| io::Error::other(format!("segment {number} of the records has no short number")))
}

/// Returns the line that a segment begins with. It keeps revisions from being given twice when all later ones are
/// removed with the records that they wrote.
pub(super) fn first_line(last: Revision) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    format::begin(&mut bytes, "last", last)?;
    lines::seal(&mut bytes, 0)?;
    Ok(bytes)
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
