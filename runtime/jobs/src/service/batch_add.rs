//! Makes batches and adds items to them: all items of a call are accepted, or none is.
//!
//! ```text
//!  commit: b/{batch} + items ─▶ … ─▶ the last commit: b/{batch} with the new total + items + idempotency key ─▶ index
//!    │ each expects the batch's record as the one before has written it
//!    └ refused: what was stored is removed │ the server ends: the next start removes the items beyond the total
//! ```
//!
//! Items beyond the total of the batch's record are none: nobody runs them. So a call that is repeated with its
//! idempotency key finds either everything done or nothing. Every commit writes the batch's record, so one whose answer
//! is "unknown" cannot be done after a later one; it is made again until that is known.

use super::batch_read::{BatchError, BatchView};
use super::dispatch;
use super::shared::{COMMIT_RETRY, Jobs, Shared, put_job, to_its_end};
use super::state::Names;
use super::submit::{IDEMPOTENCY_MS, SubmitError, UsedKey, concurrency_key, full_or_store};
use crate::batch::{Batch, ITEMS_MAX, commits};
use crate::job::{BatchId, BatchRef, Job, JobId, Policy};
use crate::keys;
use crate::outcome::Payload;
use crate::runner::{JobLimits, Runner};
use gannet_base::manifest::JobSettings;
use gannet_state::records::{Change, CommitError, Expect, Revision};
use sha2::{Digest, Sha256};
use std::io;

/// Items whose records are removed in one commit.
const REMOVE: usize = 400;

/// Items that a client wants to add.
#[derive(Debug)]
pub struct NewItems {
    /// The inputs, as JSON. At least one, and at most [`crate::batch::ITEMS_OF_CALL_MAX`].
    pub inputs: Vec<Vec<u8>>,
    /// The client's idempotency key.
    pub idempotency_key: Option<String>,
    /// What the tenant's jobs may take.
    pub limits: JobLimits,
}

/// A batch that a client wants to make.
#[derive(Debug)]
pub struct NewBatch {
    /// Its name.
    pub name: Option<String>,
    /// What the client asks for each item.
    pub policy: Policy,
    /// Whether more items follow.
    pub more: bool,
    /// The address that is told about its end.
    pub webhook: Option<String>,
    /// Its first items.
    pub items: NewItems,
}

/// A call's idempotency key: the key of its record, and the digest of what was sent.
struct CallKey {
    record: String,
    body: String,
    /// What must hold of its record for the key to be used.
    free: Expect,
}

impl CallKey {
    fn of(names: &Names, purpose: &str, sent: &str, items: &NewItems) -> Option<Self> {
        let key = items.idempotency_key.as_deref()?;
        let mut hash = Sha256::new();
        hash.update(sent);
        for input in &items.inputs {
            hash.update(input.len().to_be_bytes());
            hash.update(input);
        }
        let record = keys::idempotency(&names.0, &names.1, &format!("{purpose}\u{1f}{key}"));
        Some(Self { record, body: hex::encode(hash.finalize()), free: Expect::Absent })
    }
}

/// Why no items were added.
enum NotAdded {
    /// Another call with the same key was faster.
    KeyUsed,
    Because(SubmitError),
}

impl From<io::Error> for NotAdded {
    fn from(error: io::Error) -> Self {
        Self::Because(error.into())
    }
}

/// The batch as it was last written. None: it was not.
type Written = Option<Revision>;

impl<R: Runner> Shared<R> {
    /// Commits a batch's record with other changes, and waits until it is known what was done. Whoever calls holds the
    /// batch's lock.
    pub(super) async fn commit_batch(
        &self,
        batch: &mut Batch,
        written: Written,
        mut changes: Vec<Change>,
    ) -> io::Result<Result<Revision, CommitError>> {
        batch.writes += 1;
        let expect = written.map_or(Expect::Absent, Expect::Revision);
        changes.push(Change::Put { key: keys::batch(batch.id), value: serde_json::to_vec(batch)?, expect });
        let mut may_be_done = false;
        loop {
            match self.records.commit(changes.clone()).await {
                Err(CommitError::Unknown(why)) => {
                    tracing::warn!(batch = %batch.id, why, "it is not known whether a batch was stored");
                    may_be_done = true;
                }
                answer if !may_be_done => return Ok(answer),
                Ok(revision) => return Ok(Ok(revision)),
                Err(error) => tracing::warn!(batch = %batch.id, %error, "a batch waits to be stored"),
            }
            tokio::time::sleep(COMMIT_RETRY).await;
            let Ok(found) = self.records.get(&keys::batch(batch.id)).await else { continue };
            let revision = found.as_ref().map(|entry| entry.revision);
            match found {
                Some(entry) if serde_json::from_slice::<Batch>(&entry.value).is_ok_and(|found| found == *batch) => {
                    return Ok(Ok(entry.revision));
                }
                // Not yet; the same commit is made again.
                _ if revision == written => {}
                _ => return Ok(Err(CommitError::Conflict { key: keys::batch(batch.id) })),
            }
        }
    }

    /// Stores items after those that the batch has, and adds them to the index.
    async fn add(
        &self,
        mut batch: Batch,
        written: Written,
        items: NewItems,
        key: Option<&CallKey>,
        settings: &JobSettings,
    ) -> Result<(), NotAdded> {
        let before = (batch.clone(), written);
        let (mut written, mut stored) = (written, Vec::new());
        let added = self.store_items(&mut batch, (&mut written, &mut stored), items.inputs, key, settings).await;
        match added {
            Ok(revision) => {
                let mut state = self.state();
                state.batches.accepted(batch, revision);
                let now = self.clock.now();
                stored.iter().for_each(|job| state.add_waiting(job, now));
                Ok(())
            }
            Err(error) => {
                let back = Batch { writes: batch.writes, ..before.0 };
                self.take_back(back, before.1.is_some(), written, &stored).await?;
                Err(error)
            }
        }
    }

    async fn store_items(
        &self,
        batch: &mut Batch,
        (written, stored): (&mut Written, &mut Vec<Job>),
        inputs: Vec<Vec<u8>>,
        key: Option<&CallKey>,
        settings: &JobSettings,
    ) -> Result<Revision, NotAdded> {
        let now = self.clock.now();
        let (policy, first) = (batch.policy(), batch.total);
        let all = u32::try_from(inputs.len()).unwrap_or(u32::MAX);
        let lengths: Vec<usize> = inputs.iter().map(Vec::len).collect();
        let ranges = commits(&lengths);
        let (mut inputs, mut index) = (inputs.into_iter(), first);
        let last = ranges.len().saturating_sub(1);
        for (at, range) in ranges.into_iter().enumerate() {
            let mut changes = Vec::with_capacity(range.len() * 2 + 2);
            for input in inputs.by_ref().take(range.len()) {
                let names = (batch.tenant.clone(), batch.function.clone());
                let mut job = Job::submitted(names, &policy, settings, Payload { bytes: 0, blob: None }, now);
                (job.id, job.batch) = (JobId::item(batch.id, index), Some(BatchRef { id: batch.id, index }));
                job.key = concurrency_key(&settings.key, &input);
                let payload = self.store_payload(keys::input(job.id), input).await;
                let payload = payload.map_err(|error| NotAdded::Because(full_or_store(error)))?;
                job.input = payload.payload;
                changes.extend(payload.change);
                // What a call that failed has left may be there.
                changes.push(put_job(&job, Expect::Any)?);
                stored.push(job);
                index += 1;
            }
            if at == last {
                (batch.total, batch.added) = (first.saturating_add(all), now);
                if let Some(CallKey { record, body, free }) = key {
                    let expires = now.saturating_add(IDEMPOTENCY_MS);
                    let used = UsedKey { job: batch.id, body: body.clone(), expires };
                    let value = serde_json::to_vec(&used).map_err(io::Error::other)?;
                    changes.push(Change::Put { key: record.clone(), value, expect: *free });
                }
            }
            *written = Some(match self.commit_batch(batch, *written, changes).await? {
                Ok(revision) => revision,
                Err(CommitError::Conflict { key: of }) if key.is_some_and(|key| key.record == of) => {
                    return Err(NotAdded::KeyUsed);
                }
                Err(CommitError::Full) => return Err(NotAdded::Because(SubmitError::Full)),
                Err(error) => return Err(io::Error::other(error).into()),
            });
        }
        written.ok_or_else(|| io::Error::other("a batch without items").into())
    }

    /// Removes what was stored of items that were not accepted, and the batch if it had none before.
    async fn take_back(
        &self,
        mut batch: Batch,
        was_there: bool,
        mut written: Written,
        stored: &[Job],
    ) -> io::Result<()> {
        for jobs in stored.chunks(REMOVE) {
            let keys = jobs.iter().flat_map(|job| [keys::job(job.id), keys::input(job.id)]);
            let changes: Vec<Change> = keys.map(|key| Change::Delete { key, expect: Expect::Any }).collect();
            while written.is_some() {
                match self.commit_batch(&mut batch, written, changes.clone()).await? {
                    Ok(revision) => {
                        written = Some(revision);
                        break;
                    }
                    Err(CommitError::Conflict { key }) => {
                        return Err(io::Error::other(format!("{key} was changed by somebody else")));
                    }
                    // Nothing is lost meanwhile, and a start would do the same.
                    Err(_) if self.stopping.is_cancelled() => return Ok(()),
                    Err(_) => tokio::time::sleep(COMMIT_RETRY).await,
                }
            }
        }
        if let Some(revision) = written.filter(|_| !was_there) {
            let gone = Change::Delete { key: keys::batch(batch.id), expect: Expect::Revision(revision) };
            // A record that is left has no items, and the next start removes it.
            let _ = self.records.commit(vec![gone]).await;
        }
        if let Some(revision) = written.filter(|_| was_there) {
            self.state().batches.accepted(batch, revision);
        }
        self.remove_blobs(stored.iter().filter_map(|job| job.input.blob.clone()).collect()).await
    }
}

impl<R: Runner> Jobs<R> {
    /// Makes a batch. It and all its items are durable when this returns. What has begun goes on if the caller leaves.
    pub async fn make_batch(&self, names: &Names, new: NewBatch) -> Result<BatchView, BatchError> {
        let (jobs, names) = (self.clone(), names.clone());
        to_its_end(async move { jobs.make_all_the_way(&names, new).await }).await?
    }

    async fn make_all_the_way(&self, names: &Names, new: NewBatch) -> Result<BatchView, BatchError> {
        let NewBatch { name, policy, more, webhook, items } = new;
        let address = webhook.as_ref().map(|webhook| format!("{webhook:?}\n")).unwrap_or_default();
        let mut key = CallKey::of(names, "batches", &format!("{name:?}\n{policy:?}\n{more}\n{address}"), &items);
        let settings = self.settings_of(names)?;
        if let Some(known) = self.known_batch(names, key.as_mut()).await? {
            return Ok(known);
        }
        let now = self.shared.clock.now();
        let batch = Batch {
            id: BatchId::new(),
            tenant: names.0.clone(),
            function: names.1.clone(),
            name,
            created: now,
            total: 0,
            added: now,
            closed: (!more).then_some(now),
            cancelled: None,
            result_ms: i64::try_from(settings.result_s.saturating_mul(1000)).unwrap_or(i64::MAX),
            execution_timeout_ms: policy.execution_timeout_ms,
            ttl_ms: policy.ttl_ms,
            webhook,
            is_told: false,
            rounds: 0,
            is_leaving: false,
            writes: 0,
        };
        self.add_to(names, (batch, None), items, key, &settings).await
    }

    /// Adds items to a batch. All of them are durable when this returns.
    pub async fn add_items(&self, names: &Names, id: BatchId, items: NewItems) -> Result<BatchView, BatchError> {
        let (jobs, names) = (self.clone(), names.clone());
        to_its_end(async move { jobs.add_all_the_way(&names, id, items).await }).await?
    }

    async fn add_all_the_way(&self, names: &Names, id: BatchId, items: NewItems) -> Result<BatchView, BatchError> {
        let mut key = CallKey::of(names, &format!("items/{id}"), "", &items);
        let settings = self.settings_of(names)?;
        let _alone = self.change(names, id).await?;
        // A repeated call may come after the batch was closed.
        if let Some(known) = self.known_batch(names, key.as_mut()).await? {
            return Ok(known);
        }
        let (batch, revision) = self.record_of(names, id)?;
        if batch.cancelled.is_some() {
            return Err(BatchError::Cancelled(id));
        }
        if batch.closed_at(self.shared.clock.now()).is_some() {
            return Err(BatchError::Closed(id));
        }
        self.add_to(names, (batch, Some(revision)), items, key, &settings).await
    }

    fn settings_of(&self, names: &Names) -> Result<JobSettings, BatchError> {
        let function = self.shared.runner.function(&names.0, &names.1).ok_or(SubmitError::NoFunction)?;
        Ok(function.settings)
    }

    async fn add_to(
        &self,
        names: &Names,
        (batch, written): (Batch, Written),
        items: NewItems,
        mut key: Option<CallKey>,
        settings: &JobSettings,
    ) -> Result<BatchView, BatchError> {
        let (shared, id) = (&self.shared, batch.id);
        let total = u64::from(batch.total) + items.inputs.len() as u64;
        if total > u64::from(ITEMS_MAX) {
            return Err(BatchError::TooLarge { items: total });
        }
        let bytes: u64 = items.inputs.iter().map(|input| input.len() as u64).sum();
        if !shared.runner.has_room(bytes) {
            return Err(SubmitError::Full.into());
        }
        let count = items.inputs.len() as u64;
        let reserved = (count, bytes + count * crate::job::JOB_BYTES);
        shared.reserve(&names.0, reserved, items.limits)?;
        let added = shared.add(batch, written, items, key.as_ref(), settings).await;
        match added {
            Ok(()) => {
                dispatch::serve(shared, names);
                self.batch(names, id)
            }
            Err(error) => {
                shared.release(&names.0, reserved);
                match error {
                    NotAdded::Because(error) => Err(error.into()),
                    NotAdded::KeyUsed => self.known_batch(names, key.as_mut()).await?.ok_or(BatchError::NotFound),
                }
            }
        }
    }

    /// Returns the batch that a call with this key has made or added to before. If that batch is removed, the key is free
    /// again.
    async fn known_batch(&self, names: &Names, key: Option<&mut CallKey>) -> Result<Option<BatchView>, BatchError> {
        let Some(CallKey { record, body, free }) = key else { return Ok(None) };
        let Some(entry) = self.shared.records.get(record).await? else { return Ok(None) };
        let used: UsedKey = serde_json::from_slice(&entry.value).map_err(io::Error::other)?;
        match self.batch(names, used.job) {
            Err(BatchError::NotFound) => {
                *free = Expect::Revision(entry.revision);
                Ok(None)
            }
            _ if used.body != *body => Err(BatchError::OtherBody(used.job)),
            known => known.map(Some),
        }
    }
}
