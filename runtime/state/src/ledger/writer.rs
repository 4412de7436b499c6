//! The thread that writes the ledger. It appends lines, syncs them together, seals full segments, moves sums into the
//! store, and removes segments past their retention.

use super::index::LedgerIndex;
use super::segment;
use super::segment::SealedSegment;
use crate::store::Store;
use crate::store::watermark::Watermark;
use gannet_base::bill::LedgerLine;
use gannet_base::bill::usage::Rollup;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How long lines are gathered before they are synced together.
const GATHER: Duration = Duration::from_millis(25);
/// Size of the buffer that is kept between batches.
const BUFFER_BYTES_KEPT: usize = 4 << 20;
/// A segment with this many lines is sealed.
const SEGMENT_LINES: usize = 200_000;
/// Sums move into the store after this many lines or this much time.
const SETTLE_LINES: usize = 50_000;
const SETTLE_EVERY: Duration = Duration::from_secs(10);
/// Pause before a failed write is retried.
const RETRY: Duration = Duration::from_secs(1);

/// State of the writing thread. It shares the `Arc`s with [`super::Ledger`].
pub(super) struct Writer {
    pub(super) index: Arc<Mutex<LedgerIndex>>,
    pub(super) rollup: Arc<RwLock<Rollup>>,
    pub(super) settle_count: Arc<AtomicUsize>,
    pub(super) waiting: Arc<AtomicUsize>,
    pub(super) failing: Arc<AtomicBool>,
    pub(super) store: Arc<Store>,
    pub(super) folder: PathBuf,
    pub(super) number: u64,
    pub(super) file: Arc<File>,
    pub(super) end: u64,
    pub(super) kept: Duration,
    pub(super) settled_at: Instant,
}

impl Writer {
    pub(super) fn run(mut self, inbox: &Receiver<Arc<LedgerLine>>) {
        let (mut lines, mut bytes) = (Vec::new(), Vec::new());
        loop {
            match inbox.recv_timeout(SETTLE_EVERY) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !lines.is_empty() {
                std::thread::sleep(GATHER);
                lines.extend(inbox.try_iter());
                self.append(&lines, &mut bytes);
                self.waiting.fetch_sub(lines.len(), Ordering::Relaxed);
                lines.clear();
            }
            self.roll();
        }
    }

    /// Appends and syncs lines. Retries until it succeeds, so that no admitted request is dropped.
    fn append(&mut self, lines: &[Arc<LedgerLine>], bytes: &mut Vec<u8>) {
        // The buffer is kept: fresh pages for every batch cost more than writing the lines into them.
        bytes.clear();
        bytes.shrink_to(BUFFER_BYTES_KEPT);
        let mut ats = Vec::with_capacity(lines.len());
        for line in lines {
            ats.push(self.end + bytes.len() as u64);
            if let Err(error) = segment::encode(line, bytes) {
                tracing::error!(%error, "a line of the ledger cannot be encoded");
            }
        }
        while let Err(error) = self.file.write_all_at(bytes, self.end).and_then(|()| self.file.sync_data()) {
            self.failing.store(true, Ordering::Relaxed);
            tracing::error!(%error, lines = lines.len(), "the ledger cannot be written; nothing is admitted until it can");
            std::thread::sleep(RETRY);
        }
        self.failing.store(false, Ordering::Relaxed);
        self.end += bytes.len() as u64;
        let mut rollup = self.rollup.write().unwrap_or_else(PoisonError::into_inner);
        lines.iter().for_each(|line| rollup.count(line));
        drop(rollup);
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        for (line, at) in lines.iter().zip(ats) {
            index.waiting.remove(&line.id());
            index.open.insert(line.id(), at);
        }
    }

    /// When it is time, moves sums into the store, begins a new segment and removes expired ones.
    fn roll(&mut self) {
        let full = self.index.lock().unwrap_or_else(PoisonError::into_inner).open.len() >= SEGMENT_LINES;
        let mut rollup = self.rollup.write().unwrap_or_else(PoisonError::into_inner);
        let due = rollup.lines() >= SETTLE_LINES || (rollup.lines() > 0 && self.settled_at.elapsed() >= SETTLE_EVERY);
        if !due && !full {
            return;
        }
        let watermark = Watermark { segment: self.number, offset: self.end };
        if let Err(error) = self.store.settle(&rollup, watermark) {
            // The lines are on disk. Their sums stay in `rollup` and are settled later.
            tracing::error!(%error, "usage could not be settled");
            return;
        }
        *rollup = Rollup::default();
        self.settle_count.fetch_add(1, Ordering::Release);
        drop(rollup);
        self.settled_at = Instant::now();
        if full && let Err(error) = self.seal() {
            tracing::error!(%error, "a segment of the ledger could not be sealed");
        }
        self.expire();
    }

    fn seal(&mut self) -> io::Result<()> {
        let next = Arc::new(segment::open(&self.folder, self.number + 1)?);
        let entries = {
            let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
            index.open.iter().map(|(id, at)| (*id, *at)).collect()
        };
        segment::write_index(&self.folder, self.number, entries)?;
        let sealed = SealedSegment::open(&self.folder, self.number)?;
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.sealed.extend(sealed.map(|sealed| (self.number, Arc::new(sealed))));
        index.open.clear();
        index.open_file = Some(Arc::clone(&next));
        (self.number, self.file, self.end) = (self.number + 1, next, 0);
        Ok(())
    }

    /// Removes sealed segments that were last written longer ago than `kept`.
    fn expire(&self) {
        let trusted = &self.store.files().trusted_time;
        let too_old = |path: &Path| {
            let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
            modified.is_ok_and(|at| trusted.age_of(at).is_some_and(|age| age > self.kept))
        };
        let numbers: Vec<u64> =
            self.index.lock().unwrap_or_else(PoisonError::into_inner).sealed.keys().copied().collect();
        for number in numbers {
            let lines = segment::path(&self.folder, number, "jsonl");
            if !too_old(&lines) {
                break;
            }
            self.index.lock().unwrap_or_else(PoisonError::into_inner).sealed.remove(&number);
            for path in [lines, segment::path(&self.folder, number, "idx")] {
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(%error, "an old segment of the ledger could not be removed");
                }
            }
        }
    }
}
