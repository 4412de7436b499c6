//! A store of records for tests, in memory: a seed decides what it loses in a crash, how late it answers, and what
//! becomes of commits that it answers with "unknown".
//!
//! ```text
//!  commit ─▶ decided, in order ─▶ pending ─▶ durable: readers and watches see it ─▶ acknowledged
//!              │ a fault                │ crash(): some of the oldest pending ones survive, by the seed
//!              ├ Unavailable, Full, UnknownNotDone: nothing was done
//!              ├ UnknownDone: as any other commit, but the answer is Unknown
//!              └ UnknownLater: decided at some later call or in a crash, or lost in the crash
//! ```
//!
//! Invariant: what was acknowledged or seen survives every crash, and what survives is a prefix of what was decided.

use super::feed::{Committed, HistoryLimits, Publisher, Subscriptions, feed};
use super::{
    Change, CommitError, Entry, Page, RecordStore, Revision, StoreFuture, Watch, below, check_changes, check_expected,
};
use crate::faults::{Chance, FaultPlan};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

pub use super::simulated_blobs::{SimulatedBlobs, SimulatedTenantBlobs};
pub use crate::faults::Fault;

#[derive(Debug)]
struct State {
    chance: Chance,
    /// What readers see.
    durable: BTreeMap<String, (Revision, Vec<u8>)>,
    position: Revision,
    /// Decided commits that are not durable yet.
    pending: VecDeque<Committed>,
    /// The records that pending commits change, as they will be after them.
    ahead: HashMap<String, Option<Revision>>,
    /// Commits that may be done later.
    limbo: Vec<Vec<Change>>,
    last: Revision,
    plan: FaultPlan,
    /// None after a crash.
    publisher: Option<Publisher>,
}

/// The store; see the module.
#[derive(Debug)]
pub struct SimulatedStore {
    state: Arc<Mutex<State>>,
    subscriptions: Subscriptions,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn crashed() -> io::Error {
    io::Error::other("the simulated store has crashed")
}

impl State {
    fn revision_of(&self, key: &str) -> Option<Revision> {
        self.ahead.get(key).copied().unwrap_or_else(|| self.durable.get(key).map(|(revision, _)| *revision))
    }

    /// Decides a commit after all others.
    fn decide(&mut self, mut changes: Vec<Change>) -> Result<Revision, CommitError> {
        check_expected(&changes, |key| self.revision_of(key))?;
        self.last += 1;
        changes.retain(|change| match change {
            Change::Put { .. } => true,
            Change::Delete { key, .. } => self.revision_of(key).is_some(),
            Change::Check { .. } => false,
        });
        for change in &changes {
            match change {
                Change::Put { key, .. } => self.ahead.insert(key.clone(), Some(self.last)),
                Change::Delete { key, .. } => self.ahead.insert(key.clone(), None),
                Change::Check { .. } => None,
            };
        }
        self.pending.push_back(Committed { revision: self.last, changes });
        Ok(self.last)
    }

    /// Makes the pending commits durable, up to one.
    fn settle(&mut self, up_to: Revision) {
        while let Some(commit) = self.pending.pop_front_if(|commit| commit.revision <= up_to) {
            for change in &commit.changes {
                match change {
                    Change::Put { key, value, .. } => {
                        self.durable.insert(key.clone(), (commit.revision, value.clone()));
                    }
                    Change::Delete { key, .. } => {
                        self.durable.remove(key);
                    }
                    Change::Check { .. } => {}
                }
            }
            self.position = commit.revision;
            if let Some(publisher) = &self.publisher {
                publisher.publish([commit]);
            }
        }
        if self.pending.is_empty() {
            self.ahead.clear();
        }
    }

    /// Does what may have happened meanwhile. Every call begins with it.
    fn meanwhile(&mut self) -> io::Result<()> {
        if self.publisher.is_none() {
            return Err(crashed());
        }
        if !self.limbo.is_empty() && self.chance.below(4) == 0 {
            let at = self.chance.below(self.limbo.len());
            let late = self.limbo.swap_remove(at);
            // If it is not as expected any more, it is never done.
            let _ = self.decide(late);
        }
        // What nobody waits for becomes durable too.
        if let Some(newest) = self.pending.back().map(|commit| commit.revision)
            && self.chance.below(4) == 0
        {
            self.settle(newest);
        }
        Ok(())
    }

    /// Decides all commits that were to be done later. Those that are not as expected any more are never done.
    fn decide_limbo(&mut self) {
        for late in std::mem::take(&mut self.limbo) {
            let _ = self.decide(late);
        }
    }

    fn commit(&mut self, changes: Vec<Change>) -> (usize, Result<Revision, CommitError>) {
        if let Err(error) = check_changes(&changes) {
            return (0, Err(error));
        }
        if let Err(error) = self.meanwhile() {
            return (0, Err(CommitError::Unavailable(error.to_string())));
        }
        let polls = self.plan.polls(&mut self.chance);
        let unknown = || Err(CommitError::Unknown("the simulated answer was lost".to_owned()));
        let result = match self.plan.fault(&mut self.chance) {
            None => self.decide(changes),
            Some(Fault::Unavailable) => Err(CommitError::Unavailable("a simulated failure".to_owned())),
            Some(Fault::Full) => Err(CommitError::Full),
            Some(Fault::UnknownDone) => self.decide(changes).and_then(|_| unknown()),
            Some(Fault::UnknownNotDone) => unknown(),
            Some(Fault::UnknownLater) => {
                self.limbo.push(changes);
                unknown()
            }
        };
        if self.plan.polls_max == 0 {
            self.settle(self.last);
        }
        (polls, result)
    }
}

impl SimulatedStore {
    /// Makes an empty store without faults, which answers at once. Equal seeds and calls have equal results.
    pub fn new(seed: u64) -> Self {
        Self::with(Chance::new(seed), BTreeMap::new(), 0)
    }

    fn with(mut chance: Chance, durable: BTreeMap<String, (Revision, Vec<u8>)>, last: Revision) -> Self {
        let (publisher, subscriptions) = feed(last, HistoryLimits::default());
        // The first numbers after similar seeds are similar.
        for _ in 0..8 {
            chance.next();
        }
        let state = State {
            chance,
            durable,
            position: last,
            pending: VecDeque::new(),
            ahead: HashMap::new(),
            limbo: Vec::new(),
            last,
            plan: FaultPlan::default(),
            publisher: Some(publisher),
        };
        Self { state: Arc::new(Mutex::new(state)), subscriptions }
    }

    /// Adds a fault that one of the next commits meets: the first call is for the next commit, the second one for the
    /// commit after it.
    pub fn fail_next(&self, fault: Fault) {
        locked(&self.state).plan.next.push_back(fault);
    }

    /// Lets this many of a thousand commits meet some fault.
    pub fn fail_at_random(&self, permille: usize) {
        locked(&self.state).plan.permille = permille;
    }

    /// Lets commits be pending at most this many times before they answer. 0 makes them durable at once.
    pub fn answer_late(&self, polls_max: usize) {
        locked(&self.state).plan.polls_max = polls_max;
    }

    /// Decides all commits that were to be done later, and makes all durable.
    pub fn settle(&self) {
        let mut state = locked(&self.state);
        state.decide_limbo();
        let last = state.last;
        state.settle(last);
    }

    /// Crashes: returns a store with what survived. This one refuses all from now on, its watches end, and commits that
    /// were not answered are answered with `Unknown`. The new store has no faults and answers at once.
    pub fn crash(&self) -> Self {
        let mut state = locked(&self.state);
        // What it makes durable now, watches do not see any more.
        state.publisher = None;
        if state.chance.below(2) == 0 {
            state.decide_limbo();
        }
        let pending = state.pending.len();
        let survive = state.chance.below(pending + 1);
        if let Some(newest) = survive.checked_sub(1).and_then(|at| state.pending.get(at)) {
            let revision = newest.revision;
            state.settle(revision);
        }
        let fresh = Chance(state.chance.next() | 1);
        Self::with(fresh, std::mem::take(&mut state.durable), state.last)
    }
}

/// A commit that was decided, until it is answered.
struct Answer {
    state: Arc<Mutex<State>>,
    polls_left: usize,
    result: Result<Revision, CommitError>,
}

impl Future for Answer {
    type Output = Result<Revision, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls_left > 0 {
            self.polls_left -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut state = locked(&self.state);
        if let Ok(revision) = self.result {
            if state.publisher.is_none() {
                return Poll::Ready(Err(CommitError::Unknown(crashed().to_string())));
            }
            state.settle(revision);
        }
        drop(state);
        Poll::Ready(self.result.clone())
    }
}

/// Returns the first records of those with a prefix.
fn page_of<'a>(
    records: impl Iterator<Item = (&'a String, &'a (Revision, Vec<u8>))>,
    prefix: &str,
    limit: usize,
    position: Revision,
) -> Page {
    let mut found = records.take_while(|(key, _)| key.starts_with(prefix));
    let entry = |(key, (revision, value)): (&String, &(Revision, Vec<u8>))| Entry {
        key: key.clone(),
        revision: *revision,
        value: value.clone(),
    };
    let entries = found.by_ref().take(limit).map(entry).collect();
    let more = found.next().is_some();
    Page { entries, position, more }
}

impl RecordStore for SimulatedStore {
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, io::Result<Option<Entry>>> {
        Box::pin(async move {
            let mut state = locked(&self.state);
            state.meanwhile()?;
            let entry = |(revision, value): &(Revision, Vec<u8>)| Entry {
                key: key.to_owned(),
                revision: *revision,
                value: value.clone(),
            };
            Ok(state.durable.get(key).map(entry))
        })
    }

    fn page<'a>(&'a self, prefix: &'a str, after: Option<&'a str>, limit: usize) -> StoreFuture<'a, io::Result<Page>> {
        Box::pin(async move {
            let mut state = locked(&self.state);
            state.meanwhile()?;
            let start = after.filter(|after| *after >= prefix).map_or(Bound::Included(prefix), Bound::Excluded);
            Ok(page_of(state.durable.range::<str, _>((start, Bound::Unbounded)), prefix, limit, state.position))
        })
    }

    fn page_back<'a>(
        &'a self,
        prefix: &'a str,
        before: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, io::Result<Page>> {
        Box::pin(async move {
            let mut state = locked(&self.state);
            state.meanwhile()?;
            let found = state.durable.range((Bound::Unbounded, below(prefix, before))).rev();
            Ok(page_of(found, prefix, limit, state.position))
        })
    }

    fn commit(&self, changes: Vec<Change>) -> StoreFuture<'static, Result<Revision, CommitError>> {
        let (polls_left, result) = locked(&self.state).commit(changes);
        Box::pin(Answer { state: Arc::clone(&self.state), polls_left, result })
    }

    fn watch(&self, prefix: &str, position: Revision) -> Box<dyn Watch> {
        self.subscriptions.watch(prefix, position)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::faults::FAULTS;
    use crate::records::Expect;

    fn put(key: &str, value: u8) -> Vec<Change> {
        vec![Change::Put { key: key.to_owned(), value: vec![value], expect: Expect::Any }]
    }

    async fn values(store: &SimulatedStore) -> Vec<u8> {
        let page = store.page("", None, 100).await.unwrap();
        page.entries.into_iter().flat_map(|entry| entry.value).collect()
    }

    #[tokio::test]
    async fn a_crash_keeps_what_was_acknowledged_and_a_prefix_of_the_rest() {
        let mut survivors = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let store = SimulatedStore::new(seed);
            store.answer_late(4);
            let acknowledged = store.commit(put("a", 0)).await.unwrap();
            let unanswered: Vec<_> =
                ["b", "c", "d"].iter().zip(1..).map(|(key, n)| store.commit(put(key, n))).collect();
            let after = store.crash();
            let found = values(&after).await;
            assert!([0, 1, 2, 3].starts_with(&found) && !found.is_empty(), "{found:?}");
            survivors.insert(found.len());
            for commit in unanswered {
                assert!(matches!(commit.await, Err(CommitError::Unknown(_))));
            }
            assert!(matches!(store.commit(put("e", 5)).await, Err(CommitError::Unavailable(_))));
            assert!(store.get("a").await.is_err());
            assert!(after.commit(put("e", 5)).await.unwrap() > acknowledged + 3);
        }
        assert_eq!(survivors.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn each_fault_does_what_its_name_says() {
        let store = SimulatedStore::new(1);
        let unknown = |result| matches!(result, Err(CommitError::Unknown(_)));
        FAULTS.into_iter().for_each(|fault| store.fail_next(fault));
        assert!(matches!(store.commit(put("a", 0)).await, Err(CommitError::Unavailable(_))));
        assert_eq!(store.commit(put("b", 1)).await, Err(CommitError::Full));
        assert!(unknown(store.commit(put("c", 2)).await));
        assert!(unknown(store.commit(put("d", 3)).await));
        assert!(unknown(store.commit(put("e", 4)).await));
        store.settle();
        assert_eq!(values(&store).await, [2, 4]);
    }

    #[tokio::test]
    async fn equal_seeds_fail_equally() {
        let run = async |seed| {
            let store = SimulatedStore::new(seed);
            store.fail_at_random(300);
            store.answer_late(2);
            let mut results = Vec::new();
            for n in 0..250 {
                results.push(store.commit(put(&format!("k{}", n % 7), n)).await);
            }
            (results, values(&store.crash()).await)
        };
        let one = run(3).await;
        assert_eq!(one, run(3).await);
        assert_ne!(one, run(4).await);
        for expected in [CommitError::Full, CommitError::Unavailable("a simulated failure".into())] {
            assert!(one.0.contains(&Err(expected)));
        }
    }

    #[tokio::test]
    async fn blobs_fail_when_told() {
        use crate::records::blobs::BlobStore;
        let blobs = SimulatedBlobs::new();
        blobs.fail_next(io::ErrorKind::StorageFull);
        assert_eq!(blobs.put(vec![1]).await.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(blobs.list().await.unwrap(), Vec::<String>::new());
        blobs.put(vec![1]).await.unwrap();
        assert_eq!(blobs.list().await.unwrap().len(), 1);
    }
}
