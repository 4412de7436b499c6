//! The records of one machine, in files: a log that only grows, and where each record is in it, in memory.
//!
//! ```text
//!  commit() ─▶ inbox (bounded) ─▶ writer thread ─▶ FOLDER/0000000007.log   append + sync   ─▶ answer
//!                                     │ after the sync
//!                                     ├─▶ index: key ─▶ revision, segment, offset ◀─ get, page: read the file there
//!                                     └─▶ feed ─▶ watches
//! ```
//!
//! `format` is what a line looks like, `crate::segments` the files, `recover` reads them at the start, `writer` owns them from
//! then on, and `compact` gives space back. [`blobs`] keeps large values beside this,
//! [`tenant_blobs`] what tenants upload.
//!
//! The caller makes sure that no other process uses the folder.

pub mod blobs;
mod compact;
pub(crate) mod format;
mod index;
#[cfg(test)]
mod measure;
#[cfg(test)]
mod model;
mod recover;
mod segment;
pub(crate) mod tenant_blobs;
mod writer;

pub use recover::Finding;

use super::feed::{HistoryLimits, Subscriptions, feed};
use super::{Change, CommitError, Entry, Page, RecordStore, Revision, StoreFuture, Watch, check_changes};
use crate::segments::appender::Appender;
use crate::segments::disk::Disk;
use crate::wait::blocking;
use index::{Index, Location};
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use writer::{Request, Writer};

/// A segment that reached this size is sealed.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Least of such a size: a segment has at least one line behind its first one, or compaction would go on for ever.
const SEGMENT_BYTES_MIN: u64 = 64;
/// Most commits that wait for the writer.
const WAITING_COMMITS_MAX: usize = 65_536;
/// Most bytes of keys and values that wait for the writer.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// A page ends behind the record with which its values reach this size.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Pages with more bytes or records than these are read on another thread, because they may wait for the disk.
const PAGE_BYTES_INLINE: usize = 1 << 20;
const PAGE_RECORDS_INLINE: usize = 64;

/// What tests change.
#[derive(Debug, Clone)]
struct Options {
    segment_bytes: u64,
    history: HistoryLimits,
    disk: Disk,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES, history: HistoryLimits::default(), disk: Disk::default() }
    }
}

/// What the writer shares with readers.
#[derive(Debug)]
struct Shared {
    index: RwLock<Index>,
    waiting_bytes: AtomicUsize,
}

/// The records of one machine; see the module. When it is dropped, what waits is still written.
#[derive(Debug)]
pub struct LocalStore {
    shared: Arc<Shared>,
    inbox: Option<SyncSender<Request>>,
    writer: Option<JoinHandle<()>>,
    subscriptions: Subscriptions,
    findings: Vec<Finding>,
}

impl LocalStore {
    /// Opens the store in a folder, which is made if it is missing. Logs what is damaged; see [`Self::findings`].
    pub fn open(folder: &Path) -> io::Result<Self> {
        Self::open_with(folder, Options::default())
    }

    fn open_with(folder: &Path, mut options: Options) -> io::Result<Self> {
        options.segment_bytes = options.segment_bytes.max(SEGMENT_BYTES_MIN);
        make_folder(folder)?;
        let opened = recover::open(folder, &options.disk)?;
        for finding in &opened.findings {
            tracing::error!(%finding, "records are damaged");
        }
        let (publisher, subscriptions) = feed(opened.index.position, options.history);
        let shared = Arc::new(Shared { index: RwLock::new(opened.index), waiting_bytes: AtomicUsize::new(0) });
        let (inbox, requests) = sync_channel(WAITING_COMMITS_MAX);
        let appender = Appender::new(segment::segments(folder), options.disk.clone(), opened.newest);
        let writer = Writer::new(Arc::clone(&shared), publisher, &options, appender);
        let writer = std::thread::Builder::new().name("records".into()).spawn(move || writer.run(&requests))?;
        let (inbox, writer) = (Some(inbox), Some(writer));
        Ok(Self { shared, inbox, writer, subscriptions, findings: opened.findings })
    }

    /// Returns what was damaged when the store was opened.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Reads all files of a store that is not open, and returns what is damaged. Changes nothing.
    pub fn check(folder: &Path) -> io::Result<Vec<Finding>> {
        recover::check(folder)
    }

    /// Puts a commit behind those that wait.
    fn enqueue(&self, changes: Vec<Change>) -> Result<oneshot::Receiver<Result<Revision, CommitError>>, CommitError> {
        check_changes(&changes)?;
        let bytes = changes.iter().map(Change::bytes).sum();
        let waiting = &self.shared.waiting_bytes;
        let waiting_bytes = waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let refused = if waiting_bytes > WAITING_BYTES_MAX {
            format!("{waiting_bytes} bytes of commits wait; the limit is {WAITING_BYTES_MAX}")
        } else {
            let (answer, result) = oneshot::channel();
            match self.inbox.as_ref().map(|inbox| inbox.try_send(Request { changes, bytes, answer })) {
                Some(Ok(())) => return Ok(result),
                Some(Err(TrySendError::Full(_))) => {
                    format!("{WAITING_COMMITS_MAX} commits wait, which is the limit")
                }
                Some(Err(TrySendError::Disconnected(_))) | None => "its writer has ended".to_owned(),
            }
        };
        waiting.fetch_sub(bytes, Ordering::Relaxed);
        Err(CommitError::Unavailable(refused))
    }

    /// Finds the records of a page. All are of the same moment.
    fn plan_page<'a>(
        index: &'a Index,
        records: impl Iterator<Item = (&'a str, &'a Location)>,
        limit: usize,
    ) -> io::Result<PagePlan> {
        let mut plan = PagePlan { records: Vec::new(), bytes: 0, position: index.position, more: false };
        for (key, location) in records {
            if plan.records.len() == limit || plan.bytes >= PAGE_BYTES_MAX {
                plan.more = true;
                break;
            }
            plan.bytes += location.length();
            plan.records.push((key.to_owned(), *location, index.file_of(location)?));
        }
        Ok(plan)
    }
}

/// Where the records of a page are.
struct PagePlan {
    records: Vec<(String, Location, Arc<File>)>,
    bytes: usize,
    position: Revision,
    more: bool,
}

impl PagePlan {
    /// Reads it here, or on another thread if it is large.
    async fn read_somewhere(self) -> io::Result<Page> {
        if self.bytes <= PAGE_BYTES_INLINE && self.records.len() <= PAGE_RECORDS_INLINE {
            return self.read();
        }
        blocking(move || self.read()).await
    }

    fn read(self) -> io::Result<Page> {
        let read = |(key, location, file): (String, Location, Arc<File>)| {
            let value = location.read(&file, &key)?;
            Ok(Entry { key, revision: location.revision, value })
        };
        let entries = self.records.into_iter().map(read).collect::<io::Result<_>>()?;
        Ok(Page { entries, position: self.position, more: self.more })
    }
}

/// Makes a folder, and syncs the one above it.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    crate::store::files::sync_folder(folder.parent().unwrap_or(Path::new("/")))
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        // The writer ends when nothing can come any more. Nobody may open the folder again before that.
        drop(self.inbox.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl RecordStore for LocalStore {
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, io::Result<Option<Entry>>> {
        Box::pin(async move {
            let found = {
                let index = self.shared.read();
                match index.get(key) {
                    Some(location) => (location, index.file_of(&location)?),
                    None => return Ok(None),
                }
            };
            let (location, file) = found;
            // A value has at most 1 MiB and is mostly in memory of the system, so this thread reads it.
            let value = location.read(&file, key)?;
            Ok(Some(Entry { key: key.to_owned(), revision: location.revision, value }))
        })
    }

    fn page<'a>(&'a self, prefix: &'a str, after: Option<&'a str>, limit: usize) -> StoreFuture<'a, io::Result<Page>> {
        Box::pin(async move {
            let plan = {
                let index = self.shared.read();
                Self::plan_page(&index, index.range(prefix, after), limit)?
            };
            plan.read_somewhere().await
        })
    }

    fn page_back<'a>(
        &'a self,
        prefix: &'a str,
        before: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, io::Result<Page>> {
        Box::pin(async move {
            let plan = {
                let index = self.shared.read();
                Self::plan_page(&index, index.range_back(prefix, before), limit)?
            };
            plan.read_somewhere().await
        })
    }

    fn commit(&self, changes: Vec<Change>) -> StoreFuture<'static, Result<Revision, CommitError>> {
        let queued = self.enqueue(changes);
        Box::pin(async move {
            let lost = |_| Err(CommitError::Unknown("the writer of the store ended".to_owned()));
            queued?.await.unwrap_or_else(lost)
        })
    }

    fn watch(&self, prefix: &str, position: Revision) -> Box<dyn Watch> {
        self.subscriptions.watch(prefix, position)
    }
}
