//! What a store tells those who watch it: the last commits, in memory.
//!
//! ```text
//!  store ─ publish(commit) ─▶ history (bounded by commits and bytes) ◀─ each watch reads on from its own position
//!     └─ news: the newest revision, only to wake the watches          └ its position is older than the history: Lagged
//! ```
//!
//! Invariant: a watch takes commits from one history in their order, so it sees none twice and misses none without
//! reporting it. However slow a watch is, it holds at most one commit beside the history.

use super::{Change, Entry, Revision, StoreFuture, Watch, Watched};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What is counted for a change beside its key and value.
const CHANGE_BYTES: usize = 96;

/// A commit as watches see it. Its changes had an effect.
#[derive(Debug)]
pub(crate) struct Committed {
    /// Its number.
    pub(crate) revision: Revision,
    /// What it did.
    pub(crate) changes: Vec<Change>,
}

impl Committed {
    fn bytes(&self) -> usize {
        let bytes = |change: &Change| match change {
            Change::Put { key, value, .. } => key.len() + value.len() + CHANGE_BYTES,
            Change::Delete { key, .. } | Change::Check { key, .. } => key.len() + CHANGE_BYTES,
        };
        CHANGE_BYTES + self.changes.iter().map(bytes).sum::<usize>()
    }

    fn concerns(&self, prefix: &str) -> bool {
        self.changes.iter().any(|change| change.key().starts_with(prefix))
    }
}

/// How much history is kept. A commit of the largest size must fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistoryLimits {
    /// Most commits.
    pub(crate) commits_max: usize,
    /// Most bytes of their changes.
    pub(crate) bytes_max: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { commits_max: 65_536, bytes_max: 32 << 20 }
    }
}

#[derive(Debug)]
struct History {
    commits: VecDeque<Arc<Committed>>,
    bytes: usize,
    limits: HistoryLimits,
    /// All commits after this one are in `commits`.
    floor: Revision,
    /// The newest commit.
    position: Revision,
}

fn locked(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of a feed that the store writes to. Watches end when it is dropped.
#[derive(Debug)]
pub(crate) struct Publisher {
    history: Arc<Mutex<History>>,
    news: watch::Sender<Revision>,
}

/// The end of a feed that makes watches.
#[derive(Debug, Clone)]
pub(crate) struct Subscriptions {
    history: Arc<Mutex<History>>,
    news: watch::Receiver<Revision>,
}

/// Makes a feed whose first commit comes after `position`.
pub(crate) fn feed(position: Revision, limits: HistoryLimits) -> (Publisher, Subscriptions) {
    let history = History { commits: VecDeque::new(), bytes: 0, limits, floor: position, position };
    let history = Arc::new(Mutex::new(history));
    let (sender, news) = watch::channel(position);
    (Publisher { history: Arc::clone(&history), news: sender }, Subscriptions { history, news })
}

impl Publisher {
    /// Tells the watches of commits, which come in the order of their revisions.
    pub(crate) fn publish(&self, commits: impl IntoIterator<Item = Committed>) {
        let mut history = locked(&self.history);
        for commit in commits {
            history.position = commit.revision;
            history.bytes += commit.bytes();
            history.commits.push_back(Arc::new(commit));
        }
        while history.commits.len() > history.limits.commits_max || history.bytes > history.limits.bytes_max {
            let Some(oldest) = history.commits.pop_front() else { break };
            history.bytes -= oldest.bytes();
            history.floor = oldest.revision;
        }
        let position = history.position;
        drop(history);
        self.news.send_replace(position);
    }
}

impl Subscriptions {
    /// Begins a watch; see [`super::RecordStore::watch`].
    pub(crate) fn watch(&self, prefix: &str, position: Revision) -> Box<dyn Watch> {
        let (history, news) = (Arc::clone(&self.history), self.news.clone());
        Box::new(FeedWatch { history, news, prefix: prefix.to_owned(), position, current: None, ended: false })
    }
}

#[derive(Debug)]
struct FeedWatch {
    history: Arc<Mutex<History>>,
    news: watch::Receiver<Revision>,
    prefix: String,
    /// The last commit that was taken from the history.
    position: Revision,
    /// A commit that is being reported, and how many of its changes were.
    current: Option<(Arc<Committed>, usize)>,
    /// The store has ended.
    ended: bool,
}

impl FeedWatch {
    /// Returns the next change of the commit that is being reported.
    fn next_of_current(&mut self) -> Option<Watched> {
        let (commit, done) = self.current.as_mut()?;
        for change in commit.changes.get(*done..).unwrap_or_default() {
            *done += 1;
            if change.key().starts_with(&self.prefix) {
                let revision = commit.revision;
                return Some(match change.clone() {
                    Change::Put { key, value, .. } => Watched::Put(Entry { key, revision, value }),
                    Change::Delete { key, .. } => Watched::Deleted { key, revision },
                    Change::Check { .. } => continue,
                });
            }
        }
        self.current = None;
        None
    }

    /// Takes the next commit that concerns this watch. Returns false if commits were missed.
    fn advance(&mut self) -> bool {
        let history = locked(&self.history);
        if self.position < history.floor {
            self.position = history.position;
            return false;
        }
        let start = history.commits.partition_point(|commit| commit.revision <= self.position);
        let next = history.commits.range(start..).find(|commit| commit.concerns(&self.prefix)).cloned();
        self.position = self.position.max(next.as_ref().map_or(history.position, |commit| commit.revision));
        self.current = next.map(|commit| (commit, 0));
        true
    }
}

impl Watch for FeedWatch {
    fn next(&mut self) -> StoreFuture<'_, Option<Watched>> {
        Box::pin(async move {
            loop {
                if let Some(change) = self.next_of_current() {
                    return Some(change);
                }
                // Before the history is read, so that what is published meanwhile wakes us.
                self.news.borrow_and_update();
                if !self.advance() {
                    return Some(Watched::Lagged);
                }
                if self.current.is_none() {
                    if self.ended {
                        return None;
                    }
                    // What was published last is read before the watch ends.
                    self.ended = self.news.changed().await.is_err();
                }
            }
        })
    }
}
