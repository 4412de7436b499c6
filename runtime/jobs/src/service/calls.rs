//! What clients ask about jobs that were accepted, and do to them.

use super::dispatch;
use super::shared::{Jobs, Shared, put_job_and_delivery, to_its_end};
use super::state::{Cursor, Names};
use crate::job::{Job, JobId, State};
use crate::keys;
use crate::runner::{Runner, WaitReason};
use crate::view::{JobCounts, StatusView, StreamPart, StreamView, own_wait_reason};
use gannet_base::names::{FunctionName, TenantName};
use gannet_state::records::{Change, CommitError, Expect, Revision};
use serde_json::value::RawValue;
use std::io;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// Most bytes of a stream's parts in one answer.
const STREAM_BYTES_MAX: usize = 1 << 20;
/// Waiting jobs that are cancelled in one commit.
const PURGE: usize = 200;
/// Records that one call for a list looks at.
const LOOK_MAX: usize = 10_000;

/// Why a job cannot be shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such job of this function, or its result is not kept any more.
    #[error("there is no such job, or its result is not kept any more")]
    NotFound,
    /// Its state does not allow this.
    #[error("the job is {}; only FAILED and TIMED_OUT jobs can be retried", .0.as_str())]
    NotRetryable(State),
    /// The store does not work.
    #[error("the store of jobs: {0}")]
    Store(#[from] io::Error),
}

/// The state of a job after a cancel.
pub type Cancelled = State;
/// The state of a job after a retry.
pub type Retried = State;
/// What a client reads of a stream.
#[derive(Debug)]
pub enum StreamRead {
    /// The parts since the last call.
    Parts(StreamView),
    /// Nothing: the client was told already that the job is cancelled.
    Over,
}

fn raw(json: &[u8]) -> io::Result<Box<RawValue>> {
    serde_json::from_slice(json).map_err(io::Error::other)
}

impl<R: Runner> Shared<R> {
    /// Reads a job of a function.
    pub(super) async fn of(&self, names: &Names, id: JobId) -> Result<(Job, Revision), ReadError> {
        let found = self.read(id).await?;
        let own = found.filter(|(job, _)| job.tenant == names.0 && job.function == names.1);
        own.ok_or(ReadError::NotFound)
    }

    fn wait_reason(&self, job: &Job) -> Option<WaitReason> {
        let names = (job.tenant.clone(), job.function.clone());
        let state = self.state();
        if state.is_paused(&names) {
            return Some(WaitReason::Paused);
        }
        let served = state.functions.get(&names);
        own_wait_reason(job).or_else(|| served.and_then(|served| served.reason))
    }

    pub(super) async fn view(&self, job: &Job) -> Result<StatusView, ReadError> {
        let output = match job.state {
            State::InProgress => {
                let running = self.state().running.get(&job.id).cloned();
                running.and_then(|running| running.progress.lock().ok()?.clone()).map(|json| raw(&json)).transpose()?
            }
            _ => self.output(job).await?.map(|json| raw(&json)).transpose()?,
        };
        Ok(StatusView::new(job, output, self.wait_reason(job)))
    }
}

impl<R: Runner> Jobs<R> {
    /// Returns what is known of a job.
    pub async fn status(&self, names: &Names, id: JobId) -> Result<StatusView, ReadError> {
        let (job, _) = self.shared.of(names, id).await?;
        self.shared.view(&job).await
    }

    /// Waits until a job has ended, or until a time, and returns what is known of it.
    pub async fn wait(&self, names: &Names, id: JobId, until: Instant) -> Result<StatusView, ReadError> {
        loop {
            let waiter = self.shared.state().waiter(id);
            let changed = Arc::clone(&waiter).notified_owned();
            let found = self.shared.of(names, id).await;
            let done = match &found {
                Ok((job, _)) => job.state.is_terminal(),
                Err(_) => true,
            };
            if done || timeout_at(until, changed).await.is_err() {
                self.shared.state().forget_waiter(id, waiter);
                let (job, _) = if done { found? } else { self.shared.of(names, id).await? };
                return self.shared.view(&job).await;
            }
        }
    }

    /// Returns the parts of a job's stream since the last call. Waits for one until a time. The state is final only
    /// with the last part.
    pub async fn stream(&self, names: &Names, id: JobId, until: Instant) -> Result<StreamRead, ReadError> {
        loop {
            let waiter = self.shared.state().waiter(id);
            let changed = Arc::clone(&waiter).notified_owned();
            let read = self.read_stream(names, id).await;
            let is_something = match &read {
                Ok(StreamRead::Parts(view)) => view.status.is_terminal() || !view.stream.is_empty(),
                _ => true,
            };
            if is_something || timeout_at(until, changed).await.is_err() {
                self.shared.state().forget_waiter(id, waiter);
                return read;
            }
        }
    }

    async fn read_stream(&self, names: &Names, id: JobId) -> Result<StreamRead, ReadError> {
        let (job, _) = self.shared.of(names, id).await?;
        let (cursor, running) = {
            let state = self.shared.state();
            (state.cursors.get(&id).copied().unwrap_or_default(), state.running.get(&id).cloned())
        };
        let mut parts: Vec<Box<RawValue>> = match (job.state, running) {
            (State::Cancelled, _) if cursor.has_heard_cancel => return Ok(StreamRead::Over),
            (State::InProgress, Some(running)) => {
                running.answer().parts_from(cursor.parts).iter().map(|part| raw(part)).collect::<Result<_, _>>()?
            }
            (State::Completed, _) => {
                let output = self.shared.output(&job).await?.unwrap_or_default();
                // The output of a stream is the list of its parts; any other is one part.
                let parts: Vec<Box<RawValue>> = match job.streamed {
                    true => serde_json::from_slice(&output).map_err(io::Error::other)?,
                    false => vec![raw(&output)?],
                };
                parts.into_iter().skip(cursor.parts).collect()
            }
            _ => Vec::new(),
        };
        let mut bytes = 0;
        let fits = parts.iter().take_while(|part| {
            let is_first = bytes == 0;
            bytes += part.get().len();
            is_first || bytes <= STREAM_BYTES_MAX
        });
        let taken = fits.count();
        // A client may stop reading at a final state.
        let status = if taken < parts.len() { State::InProgress } else { job.state };
        parts.truncate(taken);
        let has_heard_cancel = job.state == State::Cancelled;
        self.shared.state().cursors.insert(id, Cursor { parts: cursor.parts + taken, has_heard_cancel });
        let stream = parts.into_iter().map(|output| StreamPart { output }).collect();
        Ok(StreamRead::Parts(StreamView { status, stream }))
    }

    /// Cancels a job that has not ended. Returns its state.
    pub async fn cancel(&self, names: &Names, id: JobId) -> Result<Cancelled, ReadError> {
        let (jobs, names) = (self.clone(), names.clone());
        to_its_end(async move { jobs.cancel_all_the_way(&names, id).await }).await?
    }

    async fn cancel_all_the_way(&self, names: &Names, id: JobId) -> Result<Cancelled, ReadError> {
        loop {
            let (mut job, revision) = self.shared.of(names, id).await?;
            if job.state.is_terminal() {
                return Ok(job.state);
            }
            job.cancel(&self.shared.settings(&job), self.shared.clock.now());
            if self.shared.commit_until_done(&job, revision, Vec::new()).await?.is_some() {
                self.shared.note_ended(&job);
                return Ok(job.state);
            }
        }
    }

    /// Puts a failed job into the queue again.
    pub async fn retry(&self, names: &Names, id: JobId) -> Result<Retried, ReadError> {
        let (jobs, names) = (self.clone(), names.clone());
        to_its_end(async move { jobs.retry_all_the_way(&names, id).await }).await?
    }

    async fn retry_all_the_way(&self, names: &Names, id: JobId) -> Result<Retried, ReadError> {
        loop {
            let (before, revision) = self.shared.of(names, id).await?;
            if !matches!(before.state, State::Failed | State::TimedOut) {
                return Err(ReadError::NotRetryable(before.state));
            }
            let (mut job, now) = (before.clone(), self.shared.clock.now());
            job.retry(now);
            // The client knows of that end; the next one is told anew.
            let delivery = [keys::delivery(id), keys::dead_letter(id)];
            let forget = delivery.map(|key| Change::Delete { key, expect: Expect::Any }).to_vec();
            if self.shared.commit_until_done(&job, revision, forget).await?.is_none() {
                continue;
            }
            {
                let mut state = self.shared.state();
                state.remove_ended(&before);
                state.deliveries.forget(id);
                state.cursors.remove(&id);
                state.tenant(&job.tenant).queued += 1;
                state.served(names).counts.retried += 1;
                state.add_waiting(&job, now);
            }
            dispatch::serve(&self.shared, names);
            return Ok(job.state);
        }
    }

    /// Cancels all waiting jobs of a function. Returns how many.
    pub async fn purge(&self, names: &Names) -> Result<u64, ReadError> {
        let (jobs, names) = (self.clone(), names.clone());
        to_its_end(async move { jobs.purge_all_the_way(&names).await }).await?
    }

    async fn purge_all_the_way(&self, names: &Names) -> Result<u64, ReadError> {
        let shared = &self.shared;
        let waiting: Vec<JobId> =
            shared.state().functions.get(names).map(|served| served.queue.waiting().collect()).unwrap_or_default();
        self.cancel_waiting(names, &waiting).await
    }

    /// Cancels those of these jobs that wait. Returns how many.
    pub(super) async fn cancel_waiting(&self, names: &Names, waiting: &[JobId]) -> Result<u64, ReadError> {
        let (shared, mut removed) = (&self.shared, 0);
        for ids in waiting.chunks(PURGE) {
            let (mut jobs, mut changes) = (Vec::new(), Vec::<Change>::new());
            for id in ids {
                let Some((mut job, revision)) = shared.read(*id).await? else { continue };
                if job.state == State::InQueue {
                    job.cancel(&shared.settings(&job), shared.clock.now());
                    changes.extend(put_job_and_delivery(&job, Expect::Revision(revision))?);
                    jobs.push(job);
                }
            }
            match shared.records.commit(changes).await {
                Ok(_) => {
                    removed += jobs.len() as u64;
                    jobs.iter().for_each(|job| shared.note_ended(job));
                }
                // One of them has just begun or ended, or it is not known: one by one.
                Err(CommitError::Conflict { .. } | CommitError::Unknown(_)) => {
                    for job in jobs {
                        let is_waiting = shared.read(job.id).await?.is_some_and(|(job, _)| job.state == State::InQueue);
                        if is_waiting && self.cancel_all_the_way(names, job.id).await? == State::Cancelled {
                            removed += 1;
                        }
                    }
                }
                Err(error) => return Err(io::Error::other(error).into()),
            }
        }
        Ok(removed)
    }

    /// Returns the counts of a function's jobs, and why they wait.
    pub fn counts(&self, names: &Names) -> (JobCounts, Option<WaitReason>) {
        let state = self.shared.state();
        let is_paused = state.is_paused(names);
        let Some(served) = state.functions.get(names) else { return (JobCounts::default(), None) };
        let counts = JobCounts {
            in_queue: served.queue.waiting_count() as u64,
            in_progress: served.queue.running_count() as u64,
            ..served.counts
        };
        let reason = if is_paused { Some(WaitReason::Paused) } else { served.reason };
        (counts, reason.filter(|_| counts.in_queue > 0))
    }

    /// Returns what a tenant's jobs take: those that wait or run, and the bytes that are kept.
    pub fn used(&self, tenant: &TenantName) -> (u64, u64) {
        let state = self.shared.state();
        state.tenants.get(tenant).map_or((0, 0), |used| (used.queued, used.bytes))
    }

    /// Lists the jobs of a function, oldest first, from after a job. Returns the last one that was looked at, if there may
    /// be more.
    pub async fn list(
        &self,
        names: &Names,
        state: Option<State>,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<(Vec<StatusView>, Option<JobId>), ReadError> {
        let mut found = Vec::new();
        let mut after = after.map(keys::job);
        for _ in 0..LOOK_MAX / 500 {
            let page = self.shared.records.page(keys::JOBS, after.as_deref(), 500).await?;
            for entry in &page.entries {
                let job: Job = serde_json::from_slice(&entry.value).map_err(io::Error::other)?;
                if job.tenant == names.0 && job.function == names.1 && state.is_none_or(|state| state == job.state) {
                    found.push(StatusView::new(&job, None, self.shared.wait_reason(&job)));
                    if found.len() >= limit {
                        return Ok((found, Some(job.id)));
                    }
                }
            }
            after = page.entries.last().map(|entry| entry.key.clone()).or(after);
            if !page.more {
                return Ok((found, None));
            }
        }
        Ok((found, after.as_deref().and_then(keys::job_of)))
    }

    /// Pauses the queue of a function, or of all functions of a tenant, or lets it go on.
    pub async fn pause(
        &self,
        tenant: &TenantName,
        function: Option<&FunctionName>,
        is_paused: bool,
    ) -> Result<(), ReadError> {
        let key = keys::paused(tenant, function);
        let change = if is_paused {
            Change::Put { key, value: b"{}".to_vec(), expect: Expect::Any }
        } else {
            Change::Delete { key, expect: Expect::Any }
        };
        self.shared.records.commit(vec![change]).await.map_err(io::Error::other)?;
        let mut state = self.shared.state();
        let pause = (tenant.clone(), function.cloned());
        if is_paused {
            state.paused.insert(pause);
        } else {
            state.paused.remove(&pause);
        }
        for (names, served) in &state.functions {
            if names.0 == *tenant {
                served.changed.notify_one();
            }
        }
        Ok(())
    }

    /// Removes everything of a tenant that was deleted.
    pub async fn remove_tenant(&self, tenant: &TenantName) -> Result<(), ReadError> {
        let shared = &self.shared;
        let mut after: Option<String> = None;
        loop {
            let page = shared.records.page(keys::JOBS, after.as_deref(), PURGE).await?;
            for entry in &page.entries {
                let job: Job = serde_json::from_slice(&entry.value).map_err(io::Error::other)?;
                let names = (job.tenant.clone(), job.function.clone());
                if job.tenant == *tenant && !job.state.is_terminal() {
                    self.cancel(&names, job.id).await?;
                }
                if job.tenant == *tenant
                    && let Some(found) = shared.read(job.id).await?
                {
                    super::sweep::remove(shared, vec![found]).await?;
                }
            }
            after = page.entries.last().map(|entry| entry.key.clone()).or(after);
            if !page.more {
                break;
            }
        }
        super::batch_sweep::forget_tenant(shared, tenant).await?;
        for prefix in [keys::IDEMPOTENCY, keys::PAUSED] {
            let prefix = format!("{prefix}{tenant}");
            let page = shared.records.page(&prefix, None, usize::MAX).await?;
            let own = page.entries.into_iter().filter(|entry| {
                entry.key.strip_prefix(&prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
            let changes: Vec<Change> =
                own.map(|entry| Change::Delete { key: entry.key, expect: Expect::Any }).collect();
            for changes in changes.chunks(PURGE) {
                shared.records.commit(changes.to_vec()).await.map_err(io::Error::other)?;
            }
        }
        let mut state = shared.state();
        state.paused.retain(|(other, _)| other != tenant);
        state.tenants.remove(tenant);
        Ok(())
    }

    /// Looks again whether the jobs of a tenant may run: a function was deployed or deleted, or a limit changed.
    pub fn look_again(&self, tenant: &TenantName) {
        self.shared.schedules.changed.notify_one();
        let state = self.shared.state();
        for (names, served) in &state.functions {
            if names.0 == *tenant {
                served.changed.notify_one();
            }
        }
    }
}
