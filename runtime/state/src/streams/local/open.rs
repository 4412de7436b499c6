//! Opens a stream's segments: repairs the end of the newest one, finds its lines, and opens the indexes of the others.

use super::{StreamForm, StreamIndex};
use crate::lines::Scan;
use crate::segments::appender::Newest;
use crate::segments::disk::Disk;
use crate::segments::index::{ENDING, SealedSegment};
use crate::segments::tail::{Tail, end_for_appending, tail};
use crate::segments::{SegmentFolder, scan};
use crate::store::files::sync_folder;
use crate::streams::{LineId, Position};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Why a stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Lines that were acknowledged are gone.
    #[error("segment {segment} has {length} bytes, but lines up to byte {kept_to} were acknowledged")]
    Lost {
        /// Number of the segment.
        segment: u64,
        /// Its length in bytes.
        length: u64,
        /// The length up to which lines were acknowledged.
        kept_to: u64,
    },
}

fn tell_damage(folder: &Path, segment: u64, found: &Scan) {
    let folder = folder.display();
    for damage in &found.damaged {
        let (at, bytes) = (damage.at, damage.length);
        tracing::error!(%folder, segment, at, bytes, "a stream is damaged: the lines in these bytes cannot be read");
    }
}

/// Opens the segments. Lines up to `kept_to` were acknowledged.
pub(super) fn open(
    segments: &SegmentFolder,
    form: StreamForm,
    disk: &Disk,
    kept_to: Position,
) -> Result<(StreamIndex, Newest), OpenError> {
    let numbers = segments.numbers()?;
    let open_number = numbers.last().copied().unwrap_or(1).max(kept_to.segment);
    let mut sealed = BTreeMap::new();
    for number in numbers.iter().copied().filter(|number| *number != open_number) {
        if number >= kept_to.segment {
            let from = if number == kept_to.segment { kept_to.offset } else { 0 };
            tell_damage(segments.folder(), number, &scan(&File::open(segments.path(number))?, from, |_, _| {})?);
        }
        let opened = SealedSegment::open(segments, number, form.id_of)?;
        sealed.extend(opened.map(|segment| (number, Arc::new(segment))));
    }
    // A crash may have come between the index and the segment after it.
    remove_if_there(&segments.with_ending(open_number, ENDING))?;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = Arc::new(file.open(segments.path(open_number))?);
    let mut open: HashMap<LineId, u64> = HashMap::new();
    let mut take = |at: u64, text: &[u8]| match (form.id_of)(text) {
        Some(id) => drop(open.entry(id).or_insert(at)),
        None => tracing::error!(segment = open_number, at, "a line of a stream cannot be read: its form is unknown"),
    };
    let found = scan(&file, 0, &mut take)?;
    let counted = if open_number == kept_to.segment { kept_to.offset } else { 0 };
    let length = found.end + found.tail;
    if length < counted {
        return Err(OpenError::Lost { segment: open_number, length, kept_to: counted });
    }
    tell_damage(segments.folder(), open_number, &found);
    let behind = tail(&file, &found)?;
    if found.tail > 0 {
        let (at, bytes) = (found.end, found.tail);
        match behind {
            Tail::Torn(torn) if torn == found.end && torn >= counted => {}
            _ => tracing::error!(segment = open_number, at, bytes, "the end of a stream is damaged"),
        }
    }
    let end = end_for_appending(disk, &file, &found, behind, counted)?;
    // Its last line may have got its line feed back.
    scan(&file, found.end, &mut take)?;
    file.sync_all()?;
    sync_folder(segments.folder())?;
    Ok((StreamIndex { open, sealed }, Newest { number: open_number, file, end }))
}

/// Removes a file, unless it is not there.
fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
