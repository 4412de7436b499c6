//! What all tasks of the service share, and the way to the store.

use super::clock::Clock;
use super::state::State;
use crate::delivery::record::Pending;
use crate::delivery::sender::Webhooks;
use crate::job::{Job, JobId};
use crate::keys;
use crate::runner::Runner;
use gannet_state::records::blobs::BlobStore;
use gannet_state::records::{Change, CommitError, Expect, RecordStore, Revision};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause before a commit that failed for lack of space or because the store does not work is tried again.
pub(super) const COMMIT_RETRY: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_secs(1) };

/// Outputs of more bytes are read by few at once.
const LARGE_BYTES: u64 = 1 << 20;
/// How many are.
pub(super) const LARGE_READS: usize = 8;

/// The service; see the module. Clones share it.
#[derive(Debug)]
pub struct Jobs<R: Runner> {
    pub(super) shared: Arc<Shared<R>>,
}

impl<R: Runner> Clone for Jobs<R> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
pub(crate) struct Shared<R: Runner> {
    pub(crate) records: Arc<dyn RecordStore>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) runner: R,
    pub(crate) webhooks: Webhooks,
    pub(crate) clock: Clock,
    pub(super) state: Mutex<State>,
    /// Read while a blob is stored, written while one is removed.
    pub(super) removing_blobs: tokio::sync::RwLock<()>,
    /// Permits to have a large output in memory while an answer is made of it.
    pub(super) large_reads: tokio::sync::Semaphore,
    pub(crate) schedules: Schedules,
    /// Held while a hook is made or deleted, so that the tenant's limit holds.
    pub(crate) making_hooks: tokio::sync::Mutex<()>,
    /// Cancelled when no further attempt may begin.
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl<R: Runner> Shared<R> {
    /// Returns a permit to have a large output in memory, if the job has one.
    pub(super) async fn large_read(&self, job: &Job) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let bytes = job.output.as_ref().map_or(0, |output| output.bytes);
        if bytes <= LARGE_BYTES { None } else { self.large_reads.acquire().await.ok() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a job's record.
    pub(crate) async fn read(&self, id: JobId) -> io::Result<Option<(Job, Revision)>> {
        let Some(entry) = self.records.get(&keys::job(id)).await? else { return Ok(None) };
        let job = serde_json::from_slice(&entry.value).map_err(io::Error::other)?;
        Ok(Some((job, entry.revision)))
    }

    /// Commits a job's record with other changes. Waits while the store cannot take it. Returns the revision, or None
    /// if the record was changed meanwhile.
    pub(crate) async fn commit_until_done(
        &self,
        job: &Job,
        expected: Revision,
        mut others: Vec<Change>,
    ) -> io::Result<Option<Revision>> {
        others.extend(put_job_and_delivery(job, Expect::Revision(expected))?);
        let mut may_be_done = false;
        loop {
            match self.records.commit(others.clone()).await {
                Ok(revision) => return Ok(Some(revision)),
                Err(CommitError::Conflict { .. }) if may_be_done => {
                    // It may be this very change, stored later than it was answered.
                    let found = self.read(job.id).await?.filter(|(found, _)| found == job);
                    return Ok(found.map(|(_, revision)| revision));
                }
                Err(CommitError::Conflict { .. }) => return Ok(None),
                Err(CommitError::Unknown(why)) => {
                    may_be_done = true;
                    tracing::warn!(job = %job.id, why, "it is not known whether a job's record was stored");
                    tokio::time::sleep(COMMIT_RETRY).await;
                    match self.read(job.id).await? {
                        Some((found, revision)) if found == *job => return Ok(Some(revision)),
                        Some((_, revision)) if revision == expected => {}
                        _ => return Ok(None),
                    }
                }
                Err(error @ CommitError::Invalid(_)) => return Err(io::Error::other(error)),
                Err(error @ (CommitError::Full | CommitError::Unavailable(_))) => {
                    tracing::error!(job = %job.id, %error, "a job's record waits to be stored");
                    tokio::time::sleep(COMMIT_RETRY).await;
                }
            }
        }
    }
}

/// Returns the change that writes a job's record.
pub(crate) fn put_job(job: &Job, expect: Expect) -> io::Result<Change> {
    Ok(Change::Put { key: keys::job(job.id), value: serde_json::to_vec(job)?, expect })
}

/// Returns the changes that write a job's record and, if it has ended, the delivery of its webhook. Whoever ends a job
/// commits both together.
pub(crate) fn put_job_and_delivery(job: &Job, expect: Expect) -> io::Result<Vec<Change>> {
    let mut changes = vec![put_job(job, expect)?];
    if let Some(pending) = Pending::of(job) {
        let (key, value) = (keys::delivery(job.id), serde_json::to_vec(&pending)?);
        changes.push(Change::Put { key, value, expect: Expect::Any });
    }
    Ok(changes)
}

/// Runs a change in a task of its own, so that it runs to its end even if the caller is dropped: the store and the index
/// must not part.
pub(crate) async fn to_its_end<T: Send + 'static>(change: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    tokio::spawn(change).await.map_err(io::Error::other)
}

/// What the task and the calls of clients share.
#[derive(Debug, Default)]
pub(crate) struct Schedules {
    /// Tells the task to look which schedules there are.
    pub(super) changed: Notify,
    /// Held while a schedule is made, so that the tenant's limit holds.
    pub(super) making: tokio::sync::Mutex<()>,
}
