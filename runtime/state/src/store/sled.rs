//! The rare records of one machine: everything deployed, keys, secrets, the audit log and sums of usage. They are kept
//! twice, in sled and in a journal, because sled does not tell that it lost something; see [`super::verify`].
//!
//! ```text
//!  commit() ─▶ inbox (bounded) ─▶ commit thread: all that wait, at most 256 ─▶ check each against those before it
//!                                     └▶ one round: journal, database, sync ─▶ watches, answers
//! ```
//!
//! It is a [`RecordStore`]: the contract's suite runs against it. Names and values have a form of their own on disk, see
//! [`super::stored`]. A round that failed after the journal had it is unknown, and then nothing is accepted until a
//! restart, which compares the two copies and completes it.

use super::commit::{self, Committer};
use super::error::StoreError;
use super::journal::Change as StoredChange;
use super::stored::{EARLIER, LAST, key_of, name_of, shared_key, unsealed, with_revision, without_revision};
use crate::records::feed::{Committed, HistoryLimits, Publisher, Subscriptions, feed};
use crate::records::{
    Change, CommitError, Entry, Page, RecordStore, Revision, StoreFuture, Watch, below, check_changes, check_expected,
};
use crate::wait::blocking;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Most commits in a round, and of their bytes, not counting its last commit.
const GROUP_COMMITS_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 16 << 20;
/// Most commits that wait for the thread, and of their bytes.
const WAITING_COMMITS_MAX: usize = 16_384;
const WAITING_BYTES_MAX: usize = 256 << 20;
/// A page ends behind the record with which its values reach this size.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// A commit that waits.
struct Request {
    changes: Vec<Change>,
    bytes: usize,
    answer: oneshot::Sender<Result<Revision, CommitError>>,
}

/// What readers share with the commit thread.
#[derive(Debug)]
struct Shared {
    db: sled::Db,
    /// The newest commit. Locked for writing while a round is applied, so that a page has no part of one.
    position: RwLock<Revision>,
    waiting_bytes: AtomicUsize,
}

/// The store; see the module. When it is dropped, what waits is still written.
#[derive(Debug)]
pub(super) struct SledRecords {
    shared: Arc<Shared>,
    inbox: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
    subscriptions: Subscriptions,
}

fn damaged(key: &[u8]) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} has a wrong checksum", super::batch::describe(key)))
}

fn failed(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// Returns the record of a key and of what the database keeps under it. None if it is no record.
fn entry(key: &[u8], stored: &[u8]) -> io::Result<Option<Entry>> {
    let Some(name) = name_of(key) else { return Ok(None) };
    let (revision, value) = unsealed(key, stored).and_then(without_revision).ok_or_else(|| damaged(key))?;
    Ok(Some(Entry { key: name, revision, value: value.into_owned() }))
}

/// Reads the newest revision of a database.
fn last_revision(db: &sled::Db) -> Result<Revision, StoreError> {
    let Some(stored) = db.get(LAST)? else {
        let is_empty = db.iter().keys().filter_map(Result::ok).all(|key| name_of(&key).is_none());
        return Ok(if is_empty { 0 } else { EARLIER });
    };
    let text = unsealed(LAST, &stored).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    text.ok_or_else(|| StoreError::Damaged { findings: vec!["the newest revision cannot be read".into()] })
}

impl Shared {
    fn get(&self, name: &str) -> io::Result<Option<Entry>> {
        let Some(key) = key_of(name) else { return Ok(None) };
        let found = self.db.get(&key).map_err(failed)?;
        found.map_or(Ok(None), |stored| entry(&key, &stored))
    }

    /// Collects records until there are `limit`, or enough bytes.
    fn page(
        &self,
        records: impl FnOnce() -> Box<dyn Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>>,
        wanted: impl Fn(&str) -> bool,
        limit: usize,
    ) -> io::Result<Page> {
        let position = self.position.read().unwrap_or_else(PoisonError::into_inner);
        let mut page = Page { entries: Vec::new(), position: *position, more: false };
        let mut bytes = 0;
        for record in records() {
            let (key, stored) = record.map_err(failed)?;
            let Some(entry) = entry(&key, &stored)?.filter(|entry| wanted(&entry.key)) else { continue };
            if page.entries.len() == limit || bytes >= PAGE_BYTES_MAX {
                page.more = true;
                break;
            }
            bytes += entry.value.len();
            page.entries.push(entry);
        }
        Ok(page)
    }

    fn page_on(&self, prefix: &str, after: Option<&str>, limit: usize) -> io::Result<Page> {
        let after = after.filter(|after| *after >= prefix);
        let shared = shared_key(prefix);
        let start = after.and_then(key_of).filter(|key| key.as_slice() >= shared);
        let records = || -> Box<dyn Iterator<Item = _>> {
            let range = match start {
                Some(key) => self.db.range(key..),
                None => self.db.range(shared.to_vec()..),
            };
            let shared = shared.to_vec();
            Box::new(range.take_while(move |record| record.as_ref().map_or(true, |(key, _)| key.starts_with(&shared))))
        };
        let wanted = |name: &str| name.starts_with(prefix) && after.is_none_or(|after| name > after);
        self.page(records, wanted, limit)
    }

    fn page_back(&self, prefix: &str, before: Option<&str>, limit: usize) -> io::Result<Page> {
        let shared = shared_key(prefix);
        let end = before.and_then(key_of).filter(|key| key.starts_with(shared));
        let records = || -> Box<dyn Iterator<Item = _>> {
            let range = match end {
                Some(key) => self.db.range(shared.to_vec()..key),
                None => self.db.scan_prefix(shared),
            };
            Box::new(range.rev())
        };
        let std::ops::Bound::Excluded(below) = below(prefix, before) else { return self.page(records, |_| false, 0) };
        self.page(records, |name| name.starts_with(prefix) && *name < *below, limit)
    }
}

impl SledRecords {
    /// Goes on with a database and a journal that were found to be equal.
    pub(super) fn start(committer: Committer) -> Result<Self, StoreError> {
        let last = last_revision(&committer.db)?;
        let (publisher, subscriptions) = feed(last, HistoryLimits::default());
        let position = RwLock::new(last);
        let shared = Arc::new(Shared { db: committer.db.clone(), position, waiting_bytes: AtomicUsize::new(0) });
        let (inbox, requests) = sync_channel(WAITING_COMMITS_MAX);
        let thread = Thread { shared: Arc::clone(&shared), committer, publisher, last, is_broken: false };
        let thread = std::thread::Builder::new().name("commit".into()).spawn(move || thread.run(&requests))?;
        Ok(Self { shared, inbox: Some(inbox), thread: Some(thread), subscriptions })
    }

    fn enqueue(&self, changes: Vec<Change>) -> Result<oneshot::Receiver<Result<Revision, CommitError>>, CommitError> {
        check_changes(&changes)?;
        if let Some(change) = changes.iter().find(|change| key_of(change.key()).is_none()) {
            return Err(CommitError::Invalid(format!("the key {:?} must end with hex digits", change.key())));
        }
        let bytes = changes.iter().map(Change::bytes).sum();
        let waiting = &self.shared.waiting_bytes;
        let waiting_bytes = waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let refused = if waiting_bytes > WAITING_BYTES_MAX {
            format!("{waiting_bytes} bytes of commits wait; the limit is {WAITING_BYTES_MAX}")
        } else {
            let (answer, result) = oneshot::channel();
            match self.inbox.as_ref().map(|inbox| inbox.try_send(Request { changes, bytes, answer })) {
                Some(Ok(())) => return Ok(result),
                Some(Err(TrySendError::Full(_))) => format!("{WAITING_COMMITS_MAX} commits wait, which is the limit"),
                Some(Err(TrySendError::Disconnected(_))) | None => "the commit thread has ended".to_owned(),
            }
        };
        waiting.fetch_sub(bytes, Ordering::Relaxed);
        Err(CommitError::Unavailable(refused))
    }
}

impl Drop for SledRecords {
    fn drop(&mut self) {
        // The thread ends when nothing can come any more. Nobody may open the folder again before that.
        drop(self.inbox.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The commit thread.
struct Thread {
    shared: Arc<Shared>,
    committer: Committer,
    publisher: Publisher,
    /// The newest revision that was given to a commit, also to one that failed.
    last: Revision,
    /// After such a failure the database may hold changes that were reported as failed. So nothing is accepted until a
    /// restart has compared it with the journal. A full disk is mostly found before, and breaks nothing then.
    is_broken: bool,
}

/// What a round does.
struct Planned {
    /// By commit: its revision and those of its changes that have an effect.
    commits: Vec<Result<Committed, CommitError>>,
    changes: Vec<StoredChange>,
}

impl Thread {
    fn run(mut self, inbox: &Receiver<Request>) {
        while let Ok(first) = inbox.recv() {
            let (mut bytes, mut group) = (first.bytes, vec![first]);
            while bytes < GROUP_BYTES_MAX && group.len() < GROUP_COMMITS_MAX {
                let Ok(request) = inbox.try_recv() else { break };
                bytes += request.bytes;
                group.push(request);
            }
            self.write(group);
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn write(&mut self, group: Vec<Request>) {
        let (requests, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|request| (request.changes, request.answer)).unzip();
        let results = match self.plan(requests) {
            Ok(planned) => self.make(planned),
            Err(error) => vec![Err(CommitError::Unavailable(error.to_string())); answers.len()],
        };
        for (answer, result) in answers.into_iter().zip(results) {
            // The caller may have stopped waiting. The change is durable anyway.
            let _ = answer.send(result);
        }
    }

    /// Decides which commits are accepted.
    fn plan(&mut self, requests: Vec<Vec<Change>>) -> io::Result<Planned> {
        if self.is_broken {
            return Err(io::Error::other("an earlier write failed; restart the server"));
        }
        let mut ahead: HashMap<String, Option<Revision>> = HashMap::new();
        let mut changes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        let mut commits = Vec::with_capacity(requests.len());
        for mut request in requests {
            for change in &request {
                if !ahead.contains_key(change.key()) {
                    let known = self.shared.get(change.key())?.map(|entry| entry.revision);
                    ahead.insert(change.key().to_owned(), known);
                }
            }
            if let Err(conflict) = check_expected(&request, |key| ahead.get(key).copied().flatten()) {
                commits.push(Err(conflict));
                continue;
            }
            // It is never given again, even if the round fails.
            self.last += 1;
            let revision = self.last;
            request.retain(|change| match change {
                Change::Put { .. } => true,
                Change::Delete { key, .. } => ahead.get(key).copied().flatten().is_some(),
                Change::Check { .. } => false,
            });
            for change in &request {
                let value = match change {
                    Change::Put { value, .. } => Some(with_revision(revision, value)),
                    Change::Delete { .. } | Change::Check { .. } => None,
                };
                ahead.insert(change.key().to_owned(), value.as_ref().map(|_| revision));
                changes.extend(key_of(change.key()).map(|key| (key, value)));
            }
            commits.push(Ok(Committed { revision, changes: request }));
        }
        if commits.iter().any(Result::is_ok) {
            changes.insert(LAST.to_vec(), Some(self.last.to_string().into_bytes()));
        }
        Ok(Planned { commits, changes: changes.into_iter().collect() })
    }

    /// Makes a round, and returns the results of its commits.
    fn make(&mut self, planned: Planned) -> Vec<Result<Revision, CommitError>> {
        let Planned { commits, changes } = planned;
        if changes.is_empty() {
            return commits.into_iter().map(|commit| commit.map(|commit| commit.revision)).collect();
        }
        let newest = commits.iter().flatten().map(|commit| commit.revision).max().unwrap_or(self.last);
        let shared = Arc::clone(&self.shared);
        let made = self.committer.round(&changes, |db, count, changes| {
            let mut position = shared.position.write().unwrap_or_else(PoisonError::into_inner);
            let count = commit::apply(db, count, changes)?;
            *position = newest;
            Ok(count)
        });
        let Err((error, breaks)) = made else {
            let results = commits.iter().map(|commit| commit.as_ref().map(|made| made.revision).map_err(Clone::clone));
            let results = results.collect();
            self.publisher.publish(commits.into_iter().flatten());
            return results;
        };
        tracing::error!(%error, breaks, "changes could not be made durable");
        self.is_broken |= breaks;
        let told = match (breaks, error) {
            (true, error) => CommitError::Unknown(error.to_string()),
            (false, StoreError::Full) => CommitError::Full,
            (false, error) => CommitError::Unavailable(error.to_string()),
        };
        let each = |commit: Result<Committed, CommitError>| match (commit, &told) {
            // A conflict may have been with a commit of this round, which was not kept.
            (Err(_), CommitError::Unknown(why)) => Err(CommitError::Unavailable(why.clone())),
            _ => Err(told.clone()),
        };
        commits.into_iter().map(each).collect()
    }
}

impl RecordStore for SledRecords {
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, io::Result<Option<Entry>>> {
        let (shared, key) = (Arc::clone(&self.shared), key.to_owned());
        Box::pin(blocking(move || shared.get(&key)))
    }

    fn page<'a>(&'a self, prefix: &'a str, after: Option<&'a str>, limit: usize) -> StoreFuture<'a, io::Result<Page>> {
        let (shared, prefix, after) = (Arc::clone(&self.shared), prefix.to_owned(), after.map(str::to_owned));
        Box::pin(blocking(move || shared.page_on(&prefix, after.as_deref(), limit)))
    }

    fn page_back<'a>(
        &'a self,
        prefix: &'a str,
        before: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, io::Result<Page>> {
        let (shared, prefix, before) = (Arc::clone(&self.shared), prefix.to_owned(), before.map(str::to_owned));
        Box::pin(blocking(move || shared.page_back(&prefix, before.as_deref(), limit)))
    }

    fn commit(&self, changes: Vec<Change>) -> StoreFuture<'static, Result<Revision, CommitError>> {
        let queued = self.enqueue(changes);
        Box::pin(async move {
            let lost = |_| Err(CommitError::Unknown("the commit thread ended".to_owned()));
            queued?.await.unwrap_or_else(lost)
        })
    }

    fn watch(&self, prefix: &str, position: Revision) -> Box<dyn Watch> {
        self.subscriptions.watch(prefix, position)
    }
}
