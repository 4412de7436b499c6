//! The thread that writes the ledger. It appends lines to the stream, a group at a time, moves sums into the store, and
//! lets the stream forget lines past their retention.
//!
//! An append that failed is repeated until it succeeds, so that no admitted request is dropped. The stream stores each id
//! once, so repeating one whose end is unknown bills nothing twice.

use super::index::LedgerIndex;
use super::line::{decode, encode};
use crate::store::{Store, StoreError, Ticket};
use crate::streams::{AppendError, LineStream, Position};
use crate::wait::wait;
use gannet_base::bill::LedgerLine;
use gannet_base::bill::usage::Rollup;
use jiff::SignedDuration;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How long lines are gathered before they are synced together.
const GATHER: Duration = Duration::from_millis(25);
/// Most lines that are appended at once.
const GROUP_LINES_MAX: usize = 10_000;
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
    pub(super) stream: Arc<dyn LineStream>,
    /// All lines up to here are counted: their sums are in `rollup` or in the store.
    pub(super) counted: Position,
    /// Sums up to this position were moved into the store or not: the end of that change is unknown.
    pub(super) open: Option<(Ticket, Position)>,
    pub(super) kept: SignedDuration,
    pub(super) settled_at: Instant,
    pub(super) retry: Duration,
}

/// How long a failed append waits, unless a test says otherwise.
pub(super) const RETRY_DEFAULT: Duration = RETRY;

/// Returns the sums of the lines behind a position, and the position behind them.
pub(super) fn count_from(stream: &dyn LineStream, from: Position) -> io::Result<(Rollup, Position)> {
    let (mut rollup, mut next) = (Rollup::default(), from);
    loop {
        let part = wait(stream.scan(next))?;
        part.lines.iter().filter_map(|(_, line)| decode(&line.text)).for_each(|line| rollup.count(&line));
        next = part.next;
        if !part.more {
            return Ok((rollup, next));
        }
    }
}

impl Writer {
    pub(super) fn run(mut self, inbox: &Receiver<Arc<LedgerLine>>) {
        let mut lines = Vec::new();
        loop {
            match inbox.recv_timeout(SETTLE_EVERY) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !lines.is_empty() {
                std::thread::sleep(GATHER);
                lines.extend(inbox.try_iter());
                for group in lines.chunks(GROUP_LINES_MAX) {
                    self.append(group);
                }
                self.waiting.fetch_sub(lines.len(), Ordering::Relaxed);
                lines.clear();
            }
            self.roll();
        }
    }

    /// Appends lines. Retries until it succeeds.
    fn append(&mut self, lines: &[Arc<LedgerLine>]) {
        let positions = loop {
            let encoded: Vec<_> = lines.iter().map(|line| encode(line)).collect();
            let known: Vec<bool> = encoded.iter().map(Option::is_some).collect();
            match wait(self.stream.append(encoded.into_iter().flatten().collect())) {
                Ok(positions) => {
                    let mut positions = positions.into_iter();
                    let of_line = |is_known: bool| is_known.then(|| positions.next()).flatten();
                    break known.into_iter().map(of_line).collect::<Vec<_>>();
                }
                Err(AppendError::Invalid(error)) => {
                    tracing::error!(error, lines = lines.len(), "lines of the ledger are not stored");
                    break vec![None; lines.len()];
                }
                Err(error) => {
                    self.failing.store(true, Ordering::Relaxed);
                    tracing::error!(%error, lines = lines.len(), "the ledger cannot be written; nothing is admitted until it can");
                    std::thread::sleep(self.retry);
                }
            }
        };
        self.failing.store(false, Ordering::Relaxed);
        let mut rollup = self.rollup.write().unwrap_or_else(PoisonError::into_inner);
        for (line, position) in lines.iter().zip(positions) {
            // A line that the stream had already is before this position, and was counted.
            if let Some(position) = position.filter(|position| *position > self.counted) {
                rollup.count(line);
                self.counted = position;
            }
        }
        drop(rollup);
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines {
            index.waiting.remove(&line.id());
        }
    }

    /// When it is time, moves sums into the store and lets the stream forget expired lines.
    fn roll(&mut self) {
        let mut rollup = self.rollup.write().unwrap_or_else(PoisonError::into_inner);
        let due = rollup.lines() >= SETTLE_LINES || (rollup.lines() > 0 && self.settled_at.elapsed() >= SETTLE_EVERY);
        if !due {
            return;
        }
        let settled = match self.open {
            Some((ticket, to)) => self.find_out(ticket, to),
            None => self.store.settle(&rollup, self.counted).map(|()| Some(Rollup::default())),
        };
        match settled {
            Ok(rest) => {
                self.open = None;
                // None: what was tried before was not done. The next time it is tried again.
                let Some(rest) = rest else { return };
                *rollup = rest;
            }
            Err(error) => {
                // The lines are on disk. Their sums stay in `rollup` and are settled later.
                tracing::error!(%error, "usage could not be settled");
                if let (StoreError::Unknown { ticket }, None) = (error, self.open) {
                    self.open = Some((ticket, self.counted));
                }
                return;
            }
        }
        self.settle_count.fetch_add(1, Ordering::Release);
        drop(rollup);
        self.settled_at = Instant::now();
        self.expire();
    }

    /// Finds out whether sums up to `to` moved into the store. If so, returns the sums of the lines behind it.
    fn find_out(&self, ticket: Ticket, to: Position) -> Result<Option<Rollup>, StoreError> {
        if !wait(self.store.outcome(ticket))? {
            return Ok(None);
        }
        Ok(Some(count_from(&*self.stream, to)?.0))
    }

    /// Lets the stream forget lines that were stored longer ago than `kept`.
    fn expire(&self) {
        let Some(now) = self.store.files().trusted_time.get() else { return };
        let Ok(before) = now.checked_sub(self.kept) else { return };
        if let Err(error) = wait(self.stream.trim(before)) {
            tracing::warn!(%error, "an old segment of the ledger could not be removed");
        }
    }
}
