//! The ledger: append-only, with one line for each admitted request and for each charge for kept GPU memory. Everything
//! that is billed is derived from it.
//!
//! ```text
//!  tab closed ─▶ waiting ─▶ one thread: append, sync ─▶ durable ─▶ sums into the store, with the watermark
//!                 │ too many, or the disk fails: nothing is admitted     └ a start after a crash continues from it
//! ```
//!
//! The lines are a [stream](crate::streams), so the place where they are kept can change without the ledger.
//!
//! The rule: a request is acknowledged as billable when its line is on disk. Its receipt then says `billed`, and usage
//! includes it. A line lost in a crash was never acknowledged and costs nothing. No acknowledged line is ever lost, and
//! none counts twice, because the sums and the watermark (the position up to which lines are included in them) are
//! stored in one change.

pub mod check;
mod line;
mod index;
mod writer;

use crate::store::{Store, StoreError};
use crate::streams::LineStream;
use crate::streams::local::LocalStream;
use crate::streams::local::OpenError;
use crate::wait::wait;
use gannet_base::bill::usage::{Rollup, Sums, UsageKey};
use gannet_base::bill::{LedgerLine, Receipt};
use gannet_base::names::{RequestId, TenantName};
use gannet_base::time::Day;
use index::LedgerIndex;
pub use index::Totals;
use jiff::SignedDuration;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use writer::{RETRY_DEFAULT, Writer, count_from};

/// Maximum number of lines that wait for the disk. Beyond it no request is admitted, so that no line is lost.
const WAITING_MAX: usize = 100_000;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file of the ledger cannot be read or written.
    #[error("the ledger: {0}")]
    Io(#[from] io::Error),
    /// The store cannot be read or written.
    #[error("the ledger: {0}")]
    Store(#[from] StoreError),
    /// Lines that were counted are gone.
    #[error("segment {segment} of the ledger has {length} bytes, but lines up to byte {counted} were counted")]
    Lost {
        /// Number of the segment.
        segment: u64,
        /// Its length in bytes.
        length: u64,
        /// The length up to which lines were counted.
        counted: u64,
    },
}

impl From<OpenError> for LedgerError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io(error) => Self::Io(error),
            OpenError::Lost { segment, length, kept_to } => Self::Lost { segment, length, counted: kept_to },
        }
    }
}

/// The handle of the ledger; see the module.
#[derive(Debug)]
pub struct Ledger {
    index: Arc<Mutex<LedgerIndex>>,
    /// Sums of durable lines that are not in the store yet. Locked for writing while they move into the store, so that
    /// a reader who adds both counts each line once.
    rollup: Arc<RwLock<Rollup>>,
    /// How often sums have moved into the store.
    settle_count: Arc<AtomicUsize>,
    /// Number of lines that wait for the disk.
    waiting: Arc<AtomicUsize>,
    /// Whether the last write failed.
    failing: Arc<AtomicBool>,
    /// Whether the disk is too full for more requests.
    is_short_of_space: AtomicBool,
    to_disk: Sender<Arc<LedgerLine>>,
    stream: Arc<dyn LineStream>,
    store: Arc<Store>,
}

/// Sums by day and tenant, for the last 31 days on which anything was used.
pub type UsageByDay = BTreeMap<(Day, TenantName), Sums>;

impl Ledger {
    /// Opens the ledger in the data folder, reads the lines whose sums are not in the store yet, and starts the writing
    /// thread. Returns the ledger and the sums by day. Sealed segments older than `kept_days` are removed.
    pub fn open(store: Arc<Store>, kept_days: u64) -> Result<(Arc<Self>, UsageByDay), LedgerError> {
        let folder = store.files().data().join("ledger");
        let stream = LocalStream::open(&folder, line::FORM, store.watermark()?)?;
        Self::with_stream(store, Arc::new(stream), kept_days, RETRY_DEFAULT)
    }

    /// Does the same with a stream that is open. A failed append is repeated after `retry`.
    pub(crate) fn with_stream(
        store: Arc<Store>,
        stream: Arc<dyn LineStream>,
        kept_days: u64,
        retry: Duration,
    ) -> Result<(Arc<Self>, UsageByDay), LedgerError> {
        let (rollup, counted) = count_from(&*stream, store.watermark()?)?;
        let mut by_day = store.usage_by_day()?;
        for (key, sums) in rollup.rows() {
            by_day.entry((key.day, key.tenant.clone())).or_default().add(sums);
        }
        let (to_disk, inbox) = channel();
        let ledger = Arc::new(Self {
            index: Arc::default(),
            rollup: Arc::new(RwLock::new(rollup)),
            settle_count: Arc::default(),
            waiting: Arc::default(),
            failing: Arc::default(),
            is_short_of_space: AtomicBool::new(false),
            to_disk,
            stream: Arc::clone(&stream),
            store: Arc::clone(&store),
        });
        let kept_s = i64::try_from(kept_days.saturating_mul(86_400)).unwrap_or(i64::MAX);
        let writer = Writer {
            index: Arc::clone(&ledger.index),
            rollup: Arc::clone(&ledger.rollup),
            settle_count: Arc::clone(&ledger.settle_count),
            waiting: Arc::clone(&ledger.waiting),
            failing: Arc::clone(&ledger.failing),
            store,
            stream,
            counted,
            open: None,
            kept: SignedDuration::from_secs(kept_s),
            settled_at: Instant::now(),
            retry,
        };
        std::thread::Builder::new().name("ledger".into()).spawn(move || writer.run(&inbox))?;
        Ok((ledger, by_day))
    }

    fn index(&self) -> MutexGuard<'_, LedgerIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks whether usage can be recorded. If not, returns why; nothing may be admitted then.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.failing.load(Ordering::Relaxed) {
            return Err("it cannot be written");
        }
        if self.is_short_of_space.load(Ordering::Relaxed) {
            return Err("the disk is nearly full");
        }
        if self.waiting.load(Ordering::Relaxed) >= WAITING_MAX {
            return Err("too many lines wait for the disk");
        }
        Ok(())
    }

    /// Records whether the disk has room for the bill of more requests.
    pub fn set_room(&self, has_room: bool) {
        let was_short = self.is_short_of_space.swap(!has_room, Ordering::Relaxed);
        if was_short == has_room {
            if has_room {
                tracing::info!("the disk has room again: requests are admitted");
            } else {
                tracing::error!("the disk is nearly full: no request is admitted until it has room");
            }
        }
    }

    /// Queues a line for the writing thread. Never waits, because this is on the request's path.
    pub fn write(&self, line: LedgerLine) {
        let line = Arc::new(line);
        {
            let mut index = self.index();
            if let LedgerLine::Request(receipt) = &*line {
                tracing::debug!(request = %receipt.request, status = receipt.status, error = receipt.error, "tab closed");
                index.totals.requests += 1;
                index.totals.errors += u64::from(receipt.error.is_some());
                index.totals.gpu_ns = index.totals.gpu_ns.saturating_add(receipt.gpu_ns);
                if let Some(kind) = receipt.start
                    && let Some(count) = index.totals.starts.get_mut(kind as usize)
                {
                    *count += 1;
                }
            }
            index.waiting.insert(line.id(), Arc::clone(&line));
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.to_disk.send(line).is_err() {
            tracing::error!("the ledger's thread has ended");
            self.failing.store(true, Ordering::Relaxed);
        }
    }

    /// Returns the receipt of a request, and whether it is acknowledged as billable. May read from disk.
    pub fn get(&self, id: RequestId) -> Option<(Receipt, bool)> {
        let receipt = |line: &LedgerLine| match line {
            LedgerLine::Request(receipt) => Some(Receipt::clone(receipt)),
            LedgerLine::Resident(_) => None,
        };
        if let Some(line) = self.index().waiting.get(&id) {
            return receipt(line).map(|receipt| (receipt, false));
        }
        match wait(self.stream.get(id.to_bytes())) {
            Ok(text) => receipt(&line::decode(&text?)?).map(|receipt| (receipt, true)),
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                None
            }
        }
    }

    /// Returns the usage of a tenant, by row. Reads the store.
    pub fn usage(
        &self,
        tenant: &TenantName,
        days: std::ops::RangeInclusive<Day>,
    ) -> Result<BTreeMap<UsageKey, Sums>, StoreError> {
        loop {
            // The store is read without the lock, which the writing thread needs. If sums have moved into the store
            // meanwhile, both are read again.
            let settle_count = self.settle_count.load(Ordering::Acquire);
            let mut rows = self.store.usage(tenant, days.clone())?;
            let rollup = self.rollup.read().unwrap_or_else(PoisonError::into_inner);
            if self.settle_count.load(Ordering::Acquire) != settle_count {
                continue;
            }
            for (key, sums) in rollup.rows_of(tenant, days.clone()) {
                rows.entry(key).or_default().add(&sums);
            }
            return Ok(rows);
        }
    }

    /// Returns the totals since the start.
    pub fn totals(&self) -> Totals {
        self.index().totals
    }

    /// Waits until every line is on disk, at most `longest`. Blocks.
    pub fn flush(&self, longest: Duration) {
        let began = Instant::now();
        while self.waiting.load(Ordering::Relaxed) > 0 && began.elapsed() < longest {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::watermark::Watermark;
    use crate::streams::simulated::SimulatedStream;
    use crate::tab::tests::{ledger, tab};
    use gannet_base::quota::account::TenantCounters;

    #[test]
    fn what_was_acknowledged_is_there_again_and_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let acme = TenantName::new("acme").unwrap();
        let account = Arc::<TenantCounters>::default();
        let mut ids = Vec::new();
        for round in 1..=3_u64 {
            // A store that was just dropped unlocks its folder a moment later.
            let ledger = loop {
                if let Ok((store, _)) = Store::open(folder.path(), "x") {
                    break Ledger::open(Arc::new(store), 400).unwrap().0;
                }
                std::thread::yield_now();
            };
            for _ in 0..20 {
                let mut open = tab(&ledger, &account);
                open.update_receipt(|receipt| {
                    ids.push(receipt.request);
                    (receipt.gpu_ns, receipt.status) = (1, 200);
                });
            }
            ledger.flush(Duration::from_secs(60));
            for id in &ids {
                let (receipt, billed) = ledger.get(*id).unwrap();
                assert!(billed && receipt.request == *id);
            }
            let sums = ledger.usage(&acme, 0..=i64::MAX).unwrap();
            let requests: u64 = sums.values().map(|sums| sums.requests).sum();
            assert_eq!(requests, round * 20);
            if round == 2 {
                let rollup = ledger.rollup.read().unwrap();
                let offset = folder.path().join("ledger/0000000001.jsonl").metadata().unwrap().len();
                ledger.store.settle(&rollup, Watermark { segment: 1, offset }).unwrap();
            }
            drop(ledger);
        }
    }

    #[test]
    fn receipts_are_found_before_and_after_they_are_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, account) = (ledger(folder.path()), Arc::<TenantCounters>::default());
        let mut id = RequestId::new();
        let mut open = tab(&ledger, &account);
        open.update_receipt(|receipt| id = receipt.request);
        assert!(ledger.get(id).is_none());
        drop(open);
        assert_eq!(ledger.get(id).unwrap().0.request, id);
        ledger.flush(Duration::from_secs(60));
        assert!(ledger.get(id).unwrap().1);
    }

    /// Whatever the stream answers and loses: each closed tab is one line, counted once, also after a crash.
    #[test]
    fn over_a_stream_that_fails_each_tab_is_one_line_and_counts_once() {
        for seed in 0..12 {
            let folder = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(folder.path(), "x").unwrap().0);
            let mut stream = Arc::new(SimulatedStream::new(seed));
            let (acme, account) = (TenantName::new("acme").unwrap(), Arc::<TenantCounters>::default());
            for round in 1..=3_u64 {
                stream.fail_at_random(500);
                stream.answer_late(2);
                let shared = Arc::clone(&stream) as Arc<dyn LineStream>;
                let (ledger, by_day) = Ledger::with_stream(Arc::clone(&store), shared, 400, Duration::ZERO).unwrap();
                let before: u64 = by_day.values().map(|sums| sums.requests).sum();
                assert_eq!(before, (round - 1) * 10);
                for _ in 0..10 {
                    drop(tab(&ledger, &account));
                }
                ledger.flush(Duration::from_secs(60));
                // The same line again, as a job's is after a crash that came between its two records.
                let part = wait(stream.scan(Watermark::default())).unwrap();
                ledger.write(line::decode(&part.lines[0].1.text).unwrap());
                ledger.flush(Duration::from_secs(60));
                let sums = ledger.usage(&acme, 0..=i64::MAX).unwrap();
                assert_eq!(sums.values().map(|sums| sums.requests).sum::<u64>(), round * 10);
                stream = Arc::new(stream.crash());
            }
        }
    }
}
