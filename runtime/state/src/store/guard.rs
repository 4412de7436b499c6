//! Commits of the registry and of sums, one at a time, of which it is always found out whether they were made.
//!
//! ```text
//!  commit: the changes, and NUMBER with a text of its own, expected at the revision that the last one gave it
//!    Ok ─▶ made                 Unknown ─▶ read NUMBER: our text ─▶ made
//!                                   └ another text ─▶ write NUMBER again, expected at the same revision
//!                                        Ok ─▶ never made, also not later    Conflict ─▶ read again
//! ```
//!
//! A store may make a commit after it answered "unknown". Since each expects the number as it was, none can be made after
//! the next one: so what was found out stays true. If it cannot be found out now, nothing else is committed until it is.

use super::error::StoreError;
use crate::records::{Change, CommitError, Expect, RecordStore, Revision};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Name of the record that each commit writes.
pub(super) const NUMBER: &str = "n";
/// How often the store is asked at once what became of a commit.
const TRIES: usize = 16;
/// Outcomes that are remembered for those who ask later.
const OUTCOMES_MAX: usize = 64;

/// Identifies a commit whose end was unknown.
pub type Ticket = u64;

/// A commit whose end is not known yet.
#[derive(Debug)]
struct Open {
    ticket: Ticket,
    /// The text of the number, if it was made.
    text: Vec<u8>,
    /// Texts that were written to make sure that it never is.
    barriers: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct State {
    /// The revision of the number. None if there is none.
    revision: Option<Revision>,
    /// What makes texts different from those of other starts and nodes.
    prefix: String,
    count: u64,
    open: Option<Open>,
    outcomes: VecDeque<(Ticket, bool)>,
}

impl State {
    fn next_text(&mut self) -> Vec<u8> {
        self.count += 1;
        format!("\"{}-{}\"", self.prefix, self.count).into_bytes()
    }

    fn number(&self, text: Vec<u8>) -> Change {
        let expect = self.revision.map_or(Expect::Absent, Expect::Revision);
        Change::Put { key: NUMBER.to_owned(), value: text, expect }
    }
}

/// Makes commits; see the module.
#[derive(Debug)]
pub(super) struct Guard {
    records: Arc<dyn RecordStore>,
    state: Mutex<State>,
}

impl Guard {
    /// Goes on with the number that the store has.
    pub(super) async fn open(records: Arc<dyn RecordStore>) -> Result<Self, StoreError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| StoreError::Io(error.to_string()))?;
        let revision = records.get(NUMBER).await?.map(|entry| entry.revision);
        let (open, outcomes) = (None, VecDeque::new());
        let state = State { revision, prefix: hex::encode(random), count: 0, open, outcomes };
        Ok(Self { records, state: Mutex::new(state) })
    }

    /// Makes all changes or none.
    pub(super) async fn commit(&self, mut changes: Vec<Change>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock().await;
        // Nothing of this change is begun, so its end is not what is unknown.
        self.find_out(&mut state).await.map_err(StoreError::of_another)?;
        let text = state.next_text();
        changes.push(state.number(text.clone()));
        // If this future is dropped, what became of it is found out by the next one.
        let ticket = state.count;
        state.open = Some(Open { ticket, text, barriers: Vec::new() });
        match self.records.commit(changes).await {
            Ok(revision) => {
                (state.open, state.revision) = (None, Some(revision));
                Ok(())
            }
            Err(CommitError::Unknown(why)) => {
                tracing::warn!(why, "it is not known whether a change was stored; the store is asked");
                self.find_out(&mut state).await?;
                match state.outcomes.back() {
                    Some((known, true)) if *known == ticket => Ok(()),
                    _ => Err(StoreError::Io(format!("a change was not stored: {why}"))),
                }
            }
            Err(error) => {
                state.open = None;
                if matches!(&error, CommitError::Conflict { key } if key == NUMBER) {
                    // Another one writes too.
                    state.revision = self.records.get(NUMBER).await?.map(|entry| entry.revision);
                }
                Err(error.into())
            }
        }
    }

    /// Finds out whether a commit that ended with [`StoreError::Unknown`] was made.
    pub(super) async fn outcome(&self, ticket: Ticket) -> Result<bool, StoreError> {
        let mut state = self.state.lock().await;
        self.find_out(&mut state).await?;
        let found = state.outcomes.iter().find(|(known, _)| *known == ticket).map(|(_, made)| *made);
        found.ok_or_else(|| StoreError::Io(format!("nothing is known of the change {ticket}")))
    }

    /// Finds out what became of the commit that is open, if there is one.
    async fn find_out(&self, state: &mut State) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let Some(open) = &state.open else { return Ok(()) };
            let (ticket, unknown) = (open.ticket, StoreError::Unknown { ticket: open.ticket });
            let Ok(number) = self.records.get(NUMBER).await else { return Err(unknown) };
            let found = number.as_ref().map(|entry| entry.value.as_slice());
            let made = if found == Some(open.text.as_slice()) {
                true
            } else if open.barriers.iter().any(|barrier| found == Some(barrier.as_slice())) {
                false
            } else {
                let barrier = state.next_text();
                let write = state.number(barrier.clone());
                state.open.iter_mut().for_each(|open| open.barriers.push(barrier.clone()));
                match self.records.commit(vec![write]).await {
                    Ok(revision) => {
                        state.revision = Some(revision);
                        state.known(ticket, false);
                        return Ok(());
                    }
                    Err(CommitError::Conflict { .. } | CommitError::Unknown(_)) => continue,
                    Err(_) => return Err(unknown),
                }
            };
            state.revision = number.map(|entry| entry.revision);
            state.known(ticket, made);
            return Ok(());
        }
        state.open.as_ref().map_or(Ok(()), |open| Err(StoreError::Unknown { ticket: open.ticket }))
    }
}

impl State {
    fn known(&mut self, ticket: Ticket, made: bool) {
        self.open = None;
        self.outcomes.push_back((ticket, made));
        if self.outcomes.len() > OUTCOMES_MAX {
            self.outcomes.pop_front();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::records::simulated::{Fault, SimulatedStore};
    use proptest::prelude::*;

    fn put(key: &str, value: u64) -> Vec<Change> {
        vec![Change::Put { key: key.to_owned(), value: value.to_string().into_bytes(), expect: Expect::Any }]
    }

    async fn value(store: &SimulatedStore, key: &str) -> Option<u64> {
        let entry = store.get(key).await.unwrap()?;
        String::from_utf8(entry.value).unwrap().parse().ok()
    }

    #[tokio::test]
    async fn what_was_not_made_is_not_made_later() {
        for seed in 0..32 {
            let store = Arc::new(SimulatedStore::new(seed));
            let guard = Guard::open(store.clone()).await.unwrap();
            guard.commit(put("a", 1)).await.unwrap();
            store.fail_next(Fault::UnknownLater);
            let made = guard.commit(put("a", 2)).await.is_ok();
            store.settle();
            assert_eq!(value(&store, "a").await, Some(if made { 2 } else { 1 }), "seed {seed}");
            guard.commit(put("a", 3)).await.unwrap();
            store.settle();
            assert_eq!(value(&store, "a").await, Some(3));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_found_out_stops_all_others_until_it_is() {
        let store = Arc::new(SimulatedStore::new(1));
        let guard = Guard::open(store.clone()).await.unwrap();
        guard.commit(put("a", 1)).await.unwrap();
        // The answer is lost, and so the store is asked; then it does not work for a while.
        for fault in [Fault::UnknownNotDone, Fault::Unavailable, Fault::Unavailable] {
            store.fail_next(fault);
        }
        let Err(StoreError::Unknown { ticket }) = guard.commit(put("a", 2)).await else { panic!("it is known") };
        assert!(matches!(guard.commit(put("a", 3)).await, Err(StoreError::Io(_))));
        assert!(!guard.outcome(ticket).await.unwrap());
        assert_eq!(value(&store, "a").await, Some(1));
        guard.commit(put("a", 4)).await.unwrap();
        assert_eq!(value(&store, "a").await, Some(4));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the store answers: what is known to be made is there, and nothing else is.
        #[test]
        fn what_is_told_is_what_is_stored(seed in any::<u64>(), count in 1..40_u64) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let store = Arc::new(SimulatedStore::new(seed));
                let guard = Guard::open(store.clone()).await.unwrap();
                store.fail_at_random(400);
                store.answer_late(2);
                let (mut expected, mut open) = (None, None);
                for n in 0..count {
                    if let Some((ticket, value)) = open {
                        match guard.outcome(ticket).await {
                            Ok(made) => {
                                expected = if made { Some(value) } else { expected };
                                open = None;
                            }
                            Err(_) => continue,
                        }
                    }
                    match guard.commit(put("a", n)).await {
                        Ok(()) => expected = Some(n),
                        Err(StoreError::Unknown { ticket }) => open = Some((ticket, n)),
                        Err(_) => {}
                    }
                    if open.is_none() {
                        assert_eq!(value(&store, "a").await, expected);
                    }
                }
                if open.is_none() {
                    assert_eq!(value(&store.crash(), "a").await, expected);
                }
            });
        }
    }
}
