//! The index of batches in memory: their records, and the states of their items.
//!
//! A batch is here from when its first items were accepted until it is removed. Its items are told of by whoever changes
//! the index of jobs ([`super::state`] and the attempts). What is said of an item that has ended is late and ignored,
//! unless it begins again.

use crate::batch::{Batch, Children};
use crate::job::{BatchId, Job, Millis, State};
use gannet_state::records::Revision;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A batch.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) batch: Batch,
    pub(crate) revision: Revision,
    pub(crate) children: Children,
    /// Until when the results of its items are kept.
    pub(crate) items_kept_until: Millis,
    /// Held by whoever changes its record.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
}

/// All batches by id: oldest first.
#[derive(Debug, Default)]
pub(crate) struct Batches(pub(crate) BTreeMap<BatchId, Known>);

impl Batches {
    /// Adds a batch from its record. Its items are told of with [`Batches::set`]; those that are not are lost.
    pub(crate) fn recover(&mut self, batch: Batch, revision: Revision) {
        let children = Children::lost(batch.total);
        self.insert(batch, revision, children);
    }

    /// Notes that a batch has a record with this revision, and has these items. New ones wait.
    pub(crate) fn accepted(&mut self, batch: Batch, revision: Revision) {
        match self.0.get_mut(&batch.id) {
            Some(known) => {
                known.children.grow(batch.total, State::InQueue);
                (known.batch, known.revision) = (batch, revision);
            }
            None => {
                let mut children = Children::default();
                children.grow(batch.total, State::InQueue);
                self.insert(batch, revision, children);
            }
        }
    }

    fn insert(&mut self, batch: Batch, revision: Revision, children: Children) {
        let changing = Arc::default();
        self.0.insert(batch.id, Known { batch, revision, children, items_kept_until: 0, changing });
    }

    /// Forgets the batches of which no item was accepted.
    pub(crate) fn forget_empty(&mut self) {
        self.0.retain(|_, known| known.batch.total > 0);
    }

    /// Returns the batch of a job.
    pub(crate) fn of(&self, job: &Job) -> Option<&Batch> {
        self.0.get(&job.batch?.id).map(|known| &known.batch)
    }

    fn with(&mut self, job: &Job, change: impl FnOnce(&mut Children, u32)) -> bool {
        let Some(item) = job.batch else { return false };
        let Some(known) = self.0.get_mut(&item.id) else { return false };
        change(&mut known.children, item.index);
        if job.state.is_terminal() {
            known.items_kept_until = known.items_kept_until.max(job.kept_until.unwrap_or(0));
        }
        true
    }

    /// Sets the state of an item as its record has it.
    pub(crate) fn set(&mut self, job: &Job) {
        self.with(job, |children, index| children.set(index, job.state));
    }

    /// Notes the state of an item. Returns whether the job is an item of a batch.
    pub(crate) fn note(&mut self, job: &Job) -> bool {
        self.with(job, |children, index| children.note(index, job.state))
    }

    /// Notes that an item waits which had ended.
    pub(crate) fn begin_again(&mut self, job: &Job) {
        self.with(job, |children, index| children.set(index, State::InQueue));
    }

    /// Whether an item has ended. None if the job is no item of a batch.
    pub(crate) fn has_ended(&self, job: &Job) -> Option<bool> {
        let item = job.batch?;
        self.0.get(&item.id).map(|known| known.children.has_ended(item.index))
    }
}
