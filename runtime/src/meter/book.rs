//! The receipts of the last hour: the latest in memory, older ones in segments on disk.

use super::Receipt;
use super::segment::Segment;
use crate::names::RequestId;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

/// How long a receipt can be asked for, at least.
pub const KEPT: Duration = Duration::from_secs(3600);
/// Receipts that are gathered in memory before they go to disk together.
const PAGE: usize = 20_000;
/// Full pages that may wait for the disk. When it is slower than that, a page is lost, and the log says so.
const PAGES_WAITING_MAX: usize = 8;
/// The part of the file system that segments leave free: state must not fail for want of their room.
const FREE_MIN_PERCENT: u64 = 10;

/// Sums since the front door started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Tabs closed.
    pub requests: u64,
    /// Of them with an error.
    pub errors: u64,
    /// Starts by kind: hot, warm, cold.
    pub starts: [u64; 3],
    /// GPU time in nanoseconds.
    pub gpu_ns: u64,
}

type Page = HashMap<RequestId, Receipt>;

#[derive(Debug, Default)]
struct Pages {
    open: Page,
    /// Full, on their way to disk.
    waiting: VecDeque<Arc<Page>>,
    /// On disk, oldest first, with the time when they were filled.
    segments: VecDeque<(Instant, Arc<Segment>)>,
    totals: Totals,
}

/// The receipts of the last hour.
#[derive(Debug)]
pub struct Book {
    pages: Arc<Mutex<Pages>>,
    page: usize,
    to_disk: SyncSender<(Instant, Arc<Page>)>,
}

impl Book {
    /// An empty book that spills into unnamed files in `folder`.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        Self::with_page(folder, PAGE)
    }

    fn with_page(folder: PathBuf, page: usize) -> io::Result<Self> {
        let pages = Arc::new(Mutex::new(Pages::default()));
        let (to_disk, full) = sync_channel(PAGES_WAITING_MAX);
        let shared = Arc::clone(&pages);
        thread::Builder::new().name("receipts".into()).spawn(move || spill(&folder, &shared, &full))?;
        Ok(Self { pages, page, to_disk })
    }

    pub(super) fn write(&self, receipt: Receipt, now: Instant) {
        tracing::debug!(request = %receipt.request, status = receipt.status, error = receipt.error, "tab closed");
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.totals.requests += 1;
        pages.totals.errors += u64::from(receipt.error.is_some());
        pages.totals.gpu_ns = pages.totals.gpu_ns.saturating_add(receipt.gpu_ns);
        if let Some(kind) = receipt.start
            && let Some(count) = pages.totals.starts.get_mut(kind as usize)
        {
            *count += 1;
        }
        pages.open.insert(receipt.request, receipt);
        if pages.open.len() < self.page {
            return;
        }
        let full = Arc::new(std::mem::take(&mut pages.open));
        // Never waits: this is the request's path. Sent under the lock, so that the writer finds it in `waiting`.
        match self.to_disk.try_send((now, Arc::clone(&full))) {
            Ok(()) => pages.waiting.push_back(full),
            Err(_) => tracing::warn!(receipts = full.len(), "receipts are lost: the disk does not keep up"),
        }
    }

    /// The receipt of a request. May read from disk.
    pub fn get(&self, id: RequestId) -> Option<Receipt> {
        let segments: Vec<_> = {
            let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
            let in_memory = std::iter::once(&pages.open).chain(pages.waiting.iter().map(AsRef::as_ref));
            if let Some(receipt) = in_memory.filter_map(|page| page.get(&id)).next() {
                return Some(receipt.clone());
            }
            pages.segments.iter().map(|(_, segment)| Arc::clone(segment)).collect()
        };
        segments.iter().rev().find_map(|segment| {
            segment.get(id).unwrap_or_else(|error| {
                tracing::warn!(%error, "a segment of receipts cannot be read");
                None
            })
        })
    }

    /// Sums since the start.
    pub fn totals(&self) -> Totals {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).totals
    }
}

/// Whether the file system of `folder` has room for more than state needs.
fn has_room(folder: &Path) -> bool {
    rustix::fs::statvfs(folder)
        .is_ok_and(|fs| fs.f_bavail.saturating_mul(100) >= fs.f_blocks.saturating_mul(FREE_MIN_PERCENT))
}

/// Writes full pages to disk and drops segments that are older than an hour, until the book is gone.
fn spill(folder: &Path, shared: &Mutex<Pages>, full: &Receiver<(Instant, Arc<Page>)>) {
    while let Ok((filled, page)) = full.recv() {
        let mut dropped = Vec::new();
        {
            let mut pages = shared.lock().unwrap_or_else(PoisonError::into_inner);
            while pages.segments.front().is_some_and(|(at, _)| filled.saturating_duration_since(*at) >= KEPT) {
                dropped.extend(pages.segments.pop_front());
            }
            if !has_room(folder)
                && let Some((_, oldest)) = pages.segments.front()
            {
                tracing::warn!(receipts = oldest.len(), "the disk is nearly full: the oldest receipts go early");
                dropped.extend(pages.segments.pop_front());
            }
        }
        // Freeing a file's blocks takes a while: not under the lock.
        drop(dropped);
        let segment = Segment::write(folder, page.values());
        let mut pages = shared.lock().unwrap_or_else(PoisonError::into_inner);
        pages.waiting.retain(|waiting| !Arc::ptr_eq(waiting, &page));
        match segment {
            Ok(Some(segment)) => pages.segments.push_back((filled, Arc::new(segment))),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, receipts = page.len(), "receipts are lost: they cannot be written"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Tab;
    use super::*;
    use crate::names::{FunctionName, TenantName};

    fn closed(book: &Arc<Book>) -> RequestId {
        let (tenant, function) = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        let id = RequestId::new();
        let mut tab = Tab::open(book, id, tenant, function, 1);
        tab.note(|receipt| receipt.bytes_in = u64::from(id.to_bytes()[15]));
        drop(tab);
        id
    }

    #[test]
    fn every_receipt_is_found_in_memory_and_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let book = Arc::new(Book::with_page(folder.path().into(), 100).unwrap());
        // Slower than the writer, so that no page is lost.
        let mut ids = Vec::new();
        for round in 0..25 {
            ids.extend((0..100).map(|_| closed(&book)));
            while book.pages.lock().unwrap().segments.len() <= round {
                thread::yield_now();
            }
        }
        ids.extend((0..50).map(|_| closed(&book)));
        assert_eq!(book.pages.lock().unwrap().segments.len(), 25);
        for id in ids {
            let receipt = book.get(id).unwrap();
            assert_eq!((receipt.request, receipt.bytes_in), (id, u64::from(id.to_bytes()[15])));
        }
        assert!(book.get(RequestId::new()).is_none());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "segments have no names");
    }

    #[test]
    fn segments_older_than_an_hour_go() {
        let folder = tempfile::tempdir().unwrap();
        let book = Arc::new(Book::with_page(folder.path().into(), 1).unwrap());
        let mut receipt = None;
        let (tenant, function) = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        Tab::open(&book, RequestId::new(), tenant, function, 1).note(|open| receipt = Some(open.clone()));
        let mut receipt = receipt.unwrap();
        while book.pages.lock().unwrap().segments.is_empty() {
            thread::yield_now();
        }
        let old = receipt.request;
        receipt.request = RequestId::new();
        book.write(receipt.clone(), Instant::now() + KEPT);
        while book.get(old).is_some() {
            thread::yield_now();
        }
        assert!(book.get(receipt.request).is_some());
    }
}
