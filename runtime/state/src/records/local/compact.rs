//! Gives back the space of records that were overwritten or removed, between groups, in bounded steps.
//!
//! ```text
//!  more than half of the sealed segments is not needed
//!     └▶ the oldest one, a step at a time: read lines ─▶ copy the records that are still needed to the newest ─▶ sync
//!                                                                                                             │ at its end
//!                          sync the folder ◀─ remove it (or rename it to .damaged, if it has damaged bytes) ◀─┘
//! ```
//!
//! A copy keeps its revision. Removals in the oldest segment need no copy, since nothing older is left that they could
//! remove. So segments must go in their order, and none goes before the removal of the one before it is durable.

use super::format::{self, Change};
use super::index::Location;
use super::segment::Compaction;
use super::writer::Writer;
use crate::lines;
use crate::store::files::sync_folder;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Least number of bytes that a step reads.
const STEP_BYTES: u64 = 1 << 20;
/// How long compaction pauses after a failure.
const RETRY: Duration = Duration::from_secs(60);

/// A record that was copied.
struct Copied {
    key: String,
    location: Location,
}

impl Writer {
    /// Begins to compact, if it is due and not under way.
    pub(super) fn plan_compaction(&mut self) {
        if self.compaction.is_none() {
            self.compaction = self.begin_compaction();
        }
    }

    /// Does the next step, if compaction is due. `group_bytes` were written since the last one: a step reads twice as
    /// much, so that it keeps up with commits that overwrite everything.
    pub(super) fn compact(&mut self, group_bytes: u64, buffer: &mut Vec<u8>) {
        self.plan_compaction();
        let Some(compaction) = self.compaction.take() else { return };
        match self.compact_step(compaction, STEP_BYTES.max(2 * group_bytes), buffer) {
            Ok(rest) => {
                self.compaction = rest;
                self.plan_compaction();
            }
            Err(error) => {
                tracing::error!(%error, "records could not be compacted");
                self.compact_after = Some(Instant::now() + RETRY);
            }
        }
    }

    fn begin_compaction(&self) -> Option<Compaction> {
        if self.compact_after.is_some_and(|after| Instant::now() < after) {
            return None;
        }
        let index = self.shared.read();
        let number = index.to_compact()?;
        let oldest = index.segments.get(&number)?;
        Some(Compaction { number, file: Arc::clone(&oldest.file), at: 0, bytes: oldest.bytes })
    }

    fn compact_step(
        &mut self,
        mut compaction: Compaction,
        step_bytes: u64,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Option<Compaction>> {
        self.ready()?;
        buffer.clear();
        let mut copied = Vec::new();
        let mut wanted = step_bytes;
        loop {
            let length = wanted.min(compaction.bytes - compaction.at);
            let end = self.copy_lines(&compaction, length, buffer, &mut copied)?;
            if compaction.at + length == compaction.bytes {
                compaction.at = compaction.bytes;
            } else if end == compaction.at {
                // There is a longer line, or damage.
                wanted *= 2;
                continue;
            } else {
                compaction.at = end;
            }
            break;
        }
        if !buffer.is_empty() {
            self.append(buffer).map_err(io::Error::other)?;
            let mut index = self.shared.write();
            for Copied { key, location } in copied {
                index.put(&key, location);
            }
            self.count_newest(&mut index);
        }
        if compaction.at < compaction.bytes {
            return Ok(Some(compaction));
        }
        self.remove_oldest(compaction.number)?;
        Ok(None)
    }

    /// Reads `length` bytes of the segment, and encodes copies of the records in them that are still needed. Returns
    /// where the last whole line ended.
    fn copy_lines(
        &self,
        compaction: &Compaction,
        length: u64,
        buffer: &mut Vec<u8>,
        copied: &mut Vec<Copied>,
    ) -> io::Result<u64> {
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        compaction.file.read_exact_at(&mut bytes, compaction.at)?;
        let index = self.shared.read();
        let mut failed = None;
        let found = lines::scan(bytes.as_slice(), compaction.at, |line_at, text| {
            for change in format::parse(text).map(|line| line.changes).unwrap_or_default() {
                let Change::Put { key, bytes, stored } = change else { continue };
                let offset = line_at + stored.at as u64;
                let here = |known: &Location| known.segment == compaction.number && u64::from(known.offset) == offset;
                let Some(known) = index.get(key).filter(here) else { continue };
                match self.copy(known, key, bytes, stored.escaped, buffer) {
                    Ok(copy) => copied.push(copy),
                    Err(error) => failed = Some(error),
                }
            }
        })?;
        failed.map_or(Ok(found.end), Err)
    }

    fn copy(
        &self,
        known: Location,
        key: &str,
        stored: &[u8],
        escaped: bool,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Copied> {
        let (number, at) = self.place()?;
        let start = buffer.len();
        format::begin(buffer, "copy", known.revision)?;
        let stored = format::put_stored(buffer, key, stored, escaped)?;
        lines::seal(buffer, start)?;
        let location = Location::new(known.revision, number, at, &stored)?;
        Ok(Copied { key: key.to_owned(), location })
    }

    /// Removes the oldest segment, all of whose records were copied.
    fn remove_oldest(&mut self, number: u32) -> io::Result<()> {
        let (damaged, left_bytes) = match self.shared.read().segments.get(&number) {
            Some(segment) => (segment.damaged, segment.live_bytes),
            None => (false, 0),
        };
        if left_bytes > 0 {
            // Their lines were damaged after the store was opened. They must not seem absent.
            return Err(io::Error::other(format!("records of {left_bytes} bytes in segment {number} cannot be read")));
        }
        let segments = self.appender.segments();
        let (folder, place) = (segments.folder(), segments.path(u64::from(number)));
        // The segment before may have been removed without this.
        sync_folder(folder)?;
        if damaged {
            // Somebody may want to look at it.
            std::fs::rename(&place, place.with_extension("damaged"))?;
        } else {
            std::fs::remove_file(&place)?;
        }
        self.shared.write().segments.remove(&number);
        sync_folder(folder)
    }
}
