//! The index of batches in memory: their records, and the states of their items.
//!
//! A batch is here from when its first items were accepted until it is removed. Its items are told of by whoever changes
//! the index of jobs ([`super::state`] and the attempts). What is said of an item that has ended is late and ignored,
//! unless it begins again.

use crate::batch::{Batch, Children};
use crate::job::{BatchId, Job, Millis, State};
use gannet_state::records::Revision;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Notify;

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

/// All batches.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    /// By id: oldest first.
    pub(crate) all: BTreeMap<BatchId, Known>,
    /// Those whose ends are still to be told.
    untold: BTreeSet<BatchId>,
    /// Wakes the task that tells.
    pub(crate) over: Arc<Notify>,
}

impl Batches {
    /// Returns the batches that are over and whose ends are still to be told.
    pub(crate) fn to_tell(&self, now: Millis) -> Vec<BatchId> {
        let known = self.untold.iter().filter_map(|id| self.all.get(id));
        let over = known.filter(|known| known.batch.is_over(&known.children.counts(), now));
        over.map(|known| known.batch.id).collect()
    }

    /// Notes whether the end of a batch is still to be told.
    fn note_untold(&mut self, id: BatchId) {
        let Some(known) = self.all.get(&id).filter(|known| known.batch.must_tell()) else {
            self.untold.remove(&id);
            return;
        };
        let has_ended = known.children.counts().have_all_ended();
        self.untold.insert(id);
        if has_ended {
            self.over.notify_one();
        }
    }

    /// Forgets a batch.
    pub(crate) fn remove(&mut self, id: BatchId) {
        self.all.remove(&id);
        self.untold.remove(&id);
    }

    /// Adds a batch from its record. Its items are told of with [`Batches::set`]; those that are not are lost.
    pub(crate) fn recover(&mut self, batch: Batch, revision: Revision) {
        let children = Children::lost(batch.total);
        self.insert(batch, revision, children);
    }

    /// Notes that a batch has a record with this revision, and has these items. New ones wait.
    pub(crate) fn accepted(&mut self, batch: Batch, revision: Revision) {
        let id = batch.id;
        match self.all.get_mut(&id) {
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
        self.note_untold(id);
    }

    fn insert(&mut self, batch: Batch, revision: Revision, children: Children) {
        let (id, changing) = (batch.id, Arc::default());
        self.all.insert(id, Known { batch, revision, children, items_kept_until: 0, changing });
        self.note_untold(id);
    }

    /// Forgets the batches of which no item was accepted.
    pub(crate) fn forget_empty(&mut self) {
        self.all.retain(|_, known| known.batch.total > 0);
        self.untold.retain(|id| self.all.contains_key(id));
    }

    /// Returns the batch of a job.
    pub(crate) fn of(&self, job: &Job) -> Option<&Batch> {
        self.all.get(&job.batch?.id).map(|known| &known.batch)
    }

    fn with(&mut self, job: &Job, change: impl FnOnce(&mut Children, u32)) -> bool {
        let Some(item) = job.batch else { return false };
        let Some(known) = self.all.get_mut(&item.id) else { return false };
        change(&mut known.children, item.index);
        if known.children.counts().have_all_ended() && known.batch.must_tell() {
            self.over.notify_one();
        }
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
        self.all.get(&item.id).map(|known| known.children.has_ended(item.index))
    }
}
