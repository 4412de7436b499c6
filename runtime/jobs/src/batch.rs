//! A batch: many jobs of one function with one handle. Pure: it takes the time as an argument.
//!
//! ```text
//!  create ─▶ items are added ─▶ closed ─▶ every item has ended ─▶ kept for `jobs.result_s` ─▶ removed, with its items
//!               └ more: true    └ a day without items, or a cancel, closes it too
//! ```
//!
//! The record of a batch says how many items it has; each item is a job, whose id follows from the batch and the index.
//! The counts are a fold of the states of the items and are stored nowhere.
//!
//! Invariant: the counts of [`Children`] add up to the number of items.

use crate::job::{BatchId, Millis, Policy, State};
use gannet_base::names::{FunctionName, TenantName};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Items that one call may add.
pub const ITEMS_OF_CALL_MAX: usize = 5_000;
/// Items that a batch may have.
pub const ITEMS_MAX: u32 = 1_000_000;
/// A batch to which nothing was added for so long is closed, in milliseconds.
const OPEN_MS: Millis = 24 * 3_600_000;
/// Items that are stored in one commit: each takes two changes, and the commit has two more.
const ITEMS_OF_COMMIT_MAX: usize = if cfg!(test) { 7 } else { 499 };
/// Bytes of inputs that are stored in one commit, but for one input.
const BYTES_OF_COMMIT_MAX: usize = 8 << 20;

/// The record of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Its id.
    pub id: BatchId,
    /// The tenant that owns its function.
    pub tenant: TenantName,
    /// Its function.
    pub function: FunctionName,
    /// The name that the client gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it was created.
    pub created: Millis,
    /// Items that were accepted. What is stored beyond that is no item.
    pub total: u32,
    /// When items were added last.
    pub added: Millis,
    /// When it was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Millis>,
    /// When it was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<Millis>,
    /// Milliseconds for which results are kept.
    pub result_ms: Millis,
    /// What the client asked for one attempt of an item, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_timeout_ms: Option<u64>,
    /// What the client asked for an item, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// The address that is told about its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// Whether the delivery of its end is stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_told: bool,
    /// How often a client had put items into the queue again after an end that was told.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rounds: u32,
    /// Whether its items are being removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_leaving: bool,
    /// Commits that wrote this record: no two of them wrote the same.
    pub writes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// The state of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BatchState {
    /// No item has begun.
    InQueue,
    /// Items run or wait, or more may be added.
    InProgress,
    /// All items have ended, and none is added any more.
    Completed,
    /// A client cancelled it. Items that ran then go on.
    Cancelled,
}

/// How many items are in each state.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = BatchCounts)]
pub struct Counts {
    /// All items.
    pub total: u64,
    /// Those that wait.
    pub in_queue: u64,
    /// Those that run.
    pub in_progress: u64,
    /// Those that have their output.
    pub completed: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that were cancelled.
    pub cancelled: u64,
    /// Those whose time was over.
    pub timed_out: u64,
}

impl Counts {
    fn of(&mut self, state: State) -> &mut u64 {
        match state {
            State::InQueue => &mut self.in_queue,
            State::InProgress => &mut self.in_progress,
            State::Completed => &mut self.completed,
            State::Failed => &mut self.failed,
            State::Cancelled => &mut self.cancelled,
            State::TimedOut => &mut self.timed_out,
        }
    }

    /// Whether every item has ended.
    pub fn have_all_ended(&self) -> bool {
        self.in_queue == 0 && self.in_progress == 0
    }
}

impl Batch {
    /// What the client asked for each item.
    pub fn policy(&self) -> Policy {
        Policy {
            execution_timeout_ms: self.execution_timeout_ms,
            ttl_ms: self.ttl_ms,
            delay_ms: None,
            low_priority: true,
        }
    }

    /// Returns when it was closed, if no item is added any more.
    pub fn closed_at(&self, now: Millis) -> Option<Millis> {
        let left_open = self.added.saturating_add(OPEN_MS);
        self.closed.or((left_open <= now).then_some(left_open))
    }

    /// Whether all its items have ended and none is added any more.
    pub fn is_over(&self, counts: &Counts, now: Millis) -> bool {
        self.total > 0 && counts.have_all_ended() && self.closed_at(now).is_some()
    }

    /// Whether its end is still to be told.
    pub fn must_tell(&self) -> bool {
        self.webhook.is_some() && !self.is_told && !self.is_leaving
    }

    /// Begins anew: items whose end was told are in the queue again. Returns whether it changed.
    pub fn begin_again(&mut self) -> bool {
        let was_told = self.webhook.is_some() && self.is_told;
        if was_told {
            self.is_told = false;
            self.rounds = self.rounds.saturating_add(1);
        }
        was_told
    }

    /// Returns its state.
    pub fn state(&self, counts: &Counts, now: Millis) -> BatchState {
        if self.cancelled.is_some() {
            BatchState::Cancelled
        } else if counts.have_all_ended() && self.closed_at(now).is_some() {
            BatchState::Completed
        } else if counts.in_queue == counts.total {
            BatchState::InQueue
        } else {
            BatchState::InProgress
        }
    }

    /// Returns until when it is kept, if it has ended. `items` is until when the results of its items are kept.
    pub fn kept_until(&self, counts: &Counts, items: Millis, now: Millis) -> Option<Millis> {
        let closed = self.closed_at(now).filter(|_| counts.have_all_ended())?;
        Some(items.max(closed.saturating_add(self.result_ms)))
    }
}

/// The states of a batch's items.
#[derive(Debug, Default)]
pub struct Children {
    states: Vec<State>,
    counts: Counts,
}

impl Children {
    /// Returns items whose states are not known: those that no record tells about have failed.
    pub fn lost(total: u32) -> Self {
        let mut children = Self::default();
        children.grow(total, State::Failed);
        children
    }

    /// Adds items in a state, up to this number.
    pub fn grow(&mut self, total: u32, state: State) {
        let total = total as usize;
        let more = total.saturating_sub(self.states.len()) as u64;
        self.states.resize(total.max(self.states.len()), state);
        *self.counts.of(state) += more;
        self.counts.total += more;
    }

    /// Sets the state of an item, whatever it was.
    pub fn set(&mut self, index: u32, state: State) {
        if let Some(before) = self.states.get_mut(index as usize) {
            let before = std::mem::replace(before, state);
            let count = self.counts.of(before);
            *count = count.saturating_sub(1);
            *self.counts.of(state) += 1;
        }
    }

    /// Notes the state of an item, unless it has ended: what is said about it then is late.
    pub fn note(&mut self, index: u32, state: State) {
        if !self.has_ended(index) {
            self.set(index, state);
        }
    }

    /// Whether an item has ended.
    pub fn has_ended(&self, index: u32) -> bool {
        self.states.get(index as usize).is_some_and(|state| state.is_terminal())
    }

    /// Returns how many items are in each state.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns the items whose states are among these, from an index on.
    pub fn those(&self, from: u32, states: &'static [State]) -> impl Iterator<Item = u32> + '_ {
        let all = (0_u32..).zip(&self.states).skip(from as usize);
        all.filter(|(_, state)| states.contains(state)).map(|(index, _)| index)
    }
}

/// Divides inputs, of which the lengths in bytes are given, into those of one commit each.
pub fn commits(lengths: &[usize]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0_usize;
    for (at, length) in lengths.iter().enumerate() {
        bytes = bytes.saturating_add(*length);
        match ranges.last_mut() {
            Some(last) if last.len() < ITEMS_OF_COMMIT_MAX && bytes <= BYTES_OF_COMMIT_MAX => last.end = at + 1,
            _ => {
                bytes = *length;
                ranges.push(at..at + 1);
            }
        }
    }
    ranges
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATES: [State; 6] =
        [State::InQueue, State::InProgress, State::Completed, State::Failed, State::Cancelled, State::TimedOut];

    fn batch(closed: Option<Millis>) -> Batch {
        Batch {
            id: BatchId::new(),
            tenant: TenantName::new("acme").unwrap(),
            function: FunctionName::new("blur").unwrap(),
            name: None,
            created: 0,
            total: 2,
            added: 1_000,
            closed,
            cancelled: None,
            result_ms: 500,
            execution_timeout_ms: None,
            ttl_ms: None,
            webhook: None,
            is_told: false,
            rounds: 0,
            is_leaving: false,
            writes: 1,
        }
    }

    #[test]
    fn a_batch_ends_when_it_is_closed_and_all_its_items_have_ended() {
        let mut children = Children::default();
        children.grow(2, State::InQueue);
        let told = |batch: &Batch, children: &Children, now| {
            (batch.state(&children.counts(), now), batch.kept_until(&children.counts(), 9_000, now))
        };
        assert_eq!(told(&batch(Some(1)), &children, 2_000), (BatchState::InQueue, None));
        children.note(0, State::InProgress);
        assert_eq!(told(&batch(Some(1)), &children, 2_000), (BatchState::InProgress, None));
        children.note(0, State::Completed);
        children.note(1, State::Failed);
        assert_eq!(told(&batch(Some(1)), &children, 2_000), (BatchState::Completed, Some(9_000)));
        assert_eq!(told(&batch(Some(8_800)), &children, 2_000), (BatchState::Completed, Some(9_300)));
        assert_eq!(told(&batch(None), &children, 2_000), (BatchState::InProgress, None));
        let left_open = 1_000 + OPEN_MS;
        assert_eq!(told(&batch(None), &children, left_open - 1).1, None);
        assert_eq!(told(&batch(None), &children, left_open), (BatchState::Completed, Some(left_open + 500)));
        let cancelled = Batch { cancelled: Some(5), ..batch(Some(5)) };
        assert_eq!(told(&cancelled, &children, 2_000), (BatchState::Cancelled, Some(9_000)));
    }

    #[test]
    fn an_end_is_told_once_and_again_after_items_began_again() {
        let mut batch = Batch { webhook: Some("http://a".into()), ..batch(Some(1)) };
        let mut children = Children::default();
        children.grow(2, State::Completed);
        assert!(batch.is_over(&children.counts(), 2_000) && batch.must_tell());
        assert!(!batch.begin_again(), "nothing was told");
        batch.is_told = true;
        assert!(!batch.must_tell() && batch.begin_again() && batch.must_tell() && batch.rounds == 1);
        children.set(0, State::InProgress);
        assert!(!batch.is_over(&children.counts(), 2_000));
        assert!(!Batch { closed: None, ..batch.clone() }.is_over(&Counts::default(), 2_000), "more may come");
        assert!(!Batch { webhook: None, ..batch }.must_tell());
    }

    proptest! {
        #[test]
        fn the_counts_add_up_and_are_a_fold_of_the_items_whatever_is_said_of_them(
            steps in proptest::collection::vec((0u8..4, 0u32..40, 0usize..6), 0..200)
        ) {
            let mut children = Children::default();
            for (what, number, state) in steps {
                let state = STATES[state];
                let before = children.states.get(number as usize).copied();
                match what {
                    0 => children.grow(number, State::InQueue),
                    1 => children.set(number, state),
                    _ => {
                        children.note(number, state);
                        if before.is_some_and(State::is_terminal) {
                            prop_assert_eq!(children.states.get(number as usize).copied(), before, "an end is final");
                        }
                    }
                }
                let mut counts = children.counts();
                let fold = |state| children.states.iter().filter(|other| **other == state).count() as u64;
                for state in STATES {
                    prop_assert_eq!(*counts.of(state), fold(state));
                }
                prop_assert_eq!(counts.total, children.states.len() as u64);
                prop_assert_eq!(STATES.iter().map(|state| *counts.of(*state)).sum::<u64>(), counts.total);
            }
        }

        #[test]
        fn every_input_is_in_one_commit_and_none_is_too_large(
            lengths in proptest::collection::vec(prop_oneof![0usize..2_000, 0usize..(9 << 20)], 0..2_000)
        ) {
            let ranges = commits(&lengths);
            let mut next = 0;
            for range in &ranges {
                prop_assert!(range.start == next && range.end > next && range.len() <= ITEMS_OF_COMMIT_MAX);
                let bytes: usize = lengths[range.clone()].iter().sum();
                prop_assert!(range.len() == 1 || bytes <= BYTES_OF_COMMIT_MAX);
                next = range.end;
            }
            prop_assert_eq!(next, lengths.len());
        }
    }
}
