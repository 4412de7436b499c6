//! The open segment, and what a failed write does to it.
//!
//! ```text
//!  append + one sync ─ ok
//!     └ failed: cut back to the end before
//!         worked, no space ─▶ Full       Working: the next write goes on
//!         worked           ─▶ Failed     NewSegment: a new segment first
//!         failed too       ─▶ Unknown    Uncut: the cut again, then a new segment; until then nothing is written
//! ```

use super::SegmentFolder;
use super::disk::Disk;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Whether the open segment can be written; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Working,
    NewSegment,
    Uncut,
}

/// The open segment.
#[derive(Debug, Clone)]
pub struct Newest {
    /// Its number.
    pub number: u64,
    /// Its file.
    pub file: Arc<File>,
    /// Where the next line goes.
    pub end: u64,
}

/// What became of a write that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendFailure {
    /// There is no space. Nothing of it was kept.
    Full,
    /// Nothing of it was kept.
    Failed(String),
    /// It may have been kept, wholly or in part.
    Unknown(String),
}

/// Returns whether an error says that there is no space.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Appends to the open segment. One thread owns it.
#[derive(Debug)]
pub struct Appender {
    segments: SegmentFolder,
    disk: Disk,
    newest: Newest,
    state: State,
}

impl Appender {
    /// Goes on with the newest segment.
    pub fn new(segments: SegmentFolder, disk: Disk, newest: Newest) -> Self {
        Self { segments, disk, newest, state: State::Working }
    }

    /// Returns the open segment.
    pub fn newest(&self) -> &Newest {
        &self.newest
    }

    /// Returns the folder.
    pub fn segments(&self) -> &SegmentFolder {
        &self.segments
    }

    /// Repairs what an earlier failure left, and returns whether a new segment must come before the next write.
    pub fn settle(&mut self) -> io::Result<bool> {
        if self.state == State::Uncut {
            self.disk.cut(&self.newest.file, self.newest.end)?;
            self.state = State::NewSegment;
        }
        Ok(self.state != State::Working)
    }

    /// Begins a new segment with these bytes.
    pub fn begin(&mut self, first: &[u8]) -> io::Result<()> {
        let number =
            self.newest.number.checked_add(1).ok_or_else(|| io::Error::other("no more numbers of segments"))?;
        let file = Arc::new(self.disk.create(&self.segments.path(number), first)?);
        self.newest = Newest { number, file, end: first.len() as u64 };
        self.state = State::Working;
        Ok(())
    }

    /// Appends and syncs lines. The caller has called [`Self::settle`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), AppendFailure> {
        let Err(error) = self.disk.append(&self.newest.file, bytes, self.newest.end) else {
            self.newest.end += bytes.len() as u64;
            return Ok(());
        };
        let folder = self.segments.folder().display();
        tracing::error!(%error, %folder, bytes = bytes.len(), "lines could not be written");
        if let Err(cut) = self.disk.cut(&self.newest.file, self.newest.end) {
            tracing::error!(error = %cut, %folder, "what was written of them could not be cut off; nothing is written until it can");
            self.state = State::Uncut;
            return Err(AppendFailure::Unknown(error.to_string()));
        }
        if is_full(&error) {
            return Err(AppendFailure::Full);
        }
        // After a failed sync the system may have dropped what it had of this file.
        self.state = State::NewSegment;
        Err(AppendFailure::Failed(error.to_string()))
    }
}
