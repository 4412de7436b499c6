//! What clients ask about batches.

use super::batch_index::Known;
use super::shared::{Jobs, Shared};
use super::state::Names;
use super::submit::SubmitError;
use crate::batch::{Batch, BatchState, Counts, ITEMS_MAX};
use crate::delivery::record::Pending;
use crate::job::{BatchId, Millis};
use crate::runner::Runner;
use gannet_state::records::Revision;
use serde::Serialize;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

/// Why a batch was not made, shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// There is none of this function, or it is not kept any more.
    #[error("there is no such batch of this function, or it is not kept any more")]
    NotFound,
    /// No item is added to it any more.
    #[error("the batch {0} is closed")]
    Closed(BatchId),
    /// It was cancelled.
    #[error("the batch {0} was cancelled")]
    Cancelled(BatchId),
    /// It would have too many items.
    #[error("the batch would have {items} items; the limit is {ITEMS_MAX}")]
    TooLarge {
        /// How many.
        items: u64,
    },
    /// The idempotency key was used for something else.
    #[error("the idempotency key was used with another body, for the batch {0}")]
    OtherBody(BatchId),
    /// Its items were not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

impl From<io::Error> for BatchError {
    fn from(error: io::Error) -> Self {
        Self::Submit(error.into())
    }
}

/// A batch as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Batch)]
pub struct BatchView {
    /// Its id.
    pub id: String,
    /// Its state.
    pub status: BatchState,
    /// The name that the client gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many items are in each state.
    pub counts: Counts,
    /// Whether items may be added.
    pub more: bool,
    /// When it was made, in milliseconds since 1970.
    pub created_at: Millis,
    /// When it is removed with its results, if it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<Millis>,
}

fn view(known: &Known, now: Millis) -> BatchView {
    let (batch, counts) = (&known.batch, known.children.counts());
    BatchView {
        id: batch.id.to_string(),
        status: batch.state(&counts, now),
        name: batch.name.clone(),
        counts,
        more: batch.closed_at(now).is_none(),
        created_at: batch.created,
        kept_until: batch.kept_until(&counts, known.items_kept_until, now),
    }
}

fn is_of(known: &Known, names: &Names) -> bool {
    known.batch.tenant == names.0 && known.batch.function == names.1 && !known.batch.is_leaving
}

impl<R: Runner> Shared<R> {
    /// Returns a batch as clients see it, if it is over.
    pub(super) fn ended_batch(&self, names: &Names, id: BatchId) -> Option<BatchView> {
        let now = self.clock.now();
        let state = self.state();
        let known = state.batches.all.get(&id).filter(|known| is_of(known, names));
        known.filter(|known| known.batch.is_over(&known.children.counts(), now)).map(|known| view(known, now))
    }

    /// Returns a new delivery of the end of a batch, if it is over and has a webhook.
    pub(super) fn delivery_of_batch(&self, names: &Names, id: BatchId) -> Option<Pending> {
        let now = self.clock.now();
        let state = self.state();
        let known = state.batches.all.get(&id).filter(|known| is_of(known, names))?;
        let over = Some(&known.batch).filter(|batch| batch.is_over(&known.children.counts(), now));
        over.and_then(|batch| Pending::of_batch(batch, now))
    }
}

impl<R: Runner> Jobs<R> {
    /// Reads a batch of a function in the index.
    pub(super) fn with_batch<T>(
        &self,
        names: &Names,
        id: BatchId,
        read: impl FnOnce(&Known) -> T,
    ) -> Result<T, BatchError> {
        let state = self.shared.state();
        let known = state.batches.all.get(&id).filter(|known| is_of(known, names));
        known.map(read).ok_or(BatchError::NotFound)
    }

    /// Returns what is known of a batch.
    pub fn batch(&self, names: &Names, id: BatchId) -> Result<BatchView, BatchError> {
        let now = self.shared.clock.now();
        self.with_batch(names, id, |known| view(known, now))
    }

    /// Lists the batches of a function, oldest first, from after one. Returns the last one if there are more.
    pub fn batches(&self, names: &Names, after: Option<BatchId>, limit: usize) -> (Vec<BatchView>, Option<BatchId>) {
        let now = self.shared.clock.now();
        let state = self.shared.state();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut own = state.batches.all.range((from, Bound::Unbounded)).filter(|(_, known)| is_of(known, names));
        let found: Vec<(BatchId, BatchView)> =
            own.by_ref().take(limit).map(|(id, known)| (*id, view(known, now))).collect();
        let last = found.last().map(|(id, _)| *id).filter(|_| own.next().is_some());
        (found.into_iter().map(|(_, view)| view).collect(), last)
    }

    /// Waits until nobody else changes a batch.
    pub(super) async fn change(&self, names: &Names, id: BatchId) -> Result<OwnedMutexGuard<()>, BatchError> {
        let changing = self.with_batch(names, id, |known| Arc::clone(&known.changing))?;
        Ok(changing.lock_owned().await)
    }

    /// Returns the record of a batch. Whoever changes it holds [`Jobs::change`].
    pub(super) fn record_of(&self, names: &Names, id: BatchId) -> Result<(Batch, Revision), BatchError> {
        self.with_batch(names, id, |known| (known.batch.clone(), known.revision))
    }
}
