//! What clients ask about jobs that were accepted, and do to them.

use super::shared::{Jobs, Shared, to_its_end};
use super::state::{Cursor, Names};
use super::{dispatch, log};
use crate::job::{Job, JobId, State};
use crate::keys;
use crate::runner::{Runner, WaitReason};
use crate::view::{JobCounts, StatusView, StreamPart, StreamView};
use gannet_base::log_line::LogLine;
use gannet_base::names::{FunctionName, TenantName};
use gannet_state::records::{Change, Entry, Expect, Revision};
use serde_json::value::RawValue;
use std::io;
use std::ops::Bound;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, timeout_at};

/// Most bytes of a stream's parts in one answer.
const STREAM_BYTES_MAX: usize = 1 << 20;
/// Waiting jobs that are cancelled in one commit.
const PURGE: usize = 200;
/// Records that one call for a list looks at.
const LOOK_MAX: usize = 2_000;

/// Why a job cannot be shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such job of this function, or its result is not kept any more.
    #[error("there is no such job, or its result is not kept any more")]
    NotFound,
    /// Its state does not allow this.
    #[error("the job is {}; only FAILED and TIMED_OUT jobs can be retried", .0.as_str())]
    NotRetryable(State),
    /// The tenant has too many jobs.
    #[error("jobs_queued = {limit}; in use: {used}")]
    LimitReached {
        /// The limit.
        limit: u64,
        /// How many wait or run.
        used: u64,
    },
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

    /// Waits until the index knows of an end that is in the store already. It is noted right after it is stored.
    async fn until_noted(&self, job: &Job) {
        for _ in 0..1_000 {
            if self.state().has_ended(job) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.note_ended(job);
    }

    fn check_queued(&self, tenant: &TenantName) -> Result<(), ReadError> {
        let Some(limits) = self.runner.job_limits(tenant) else { return Ok(()) };
        let used = self.state().tenant(tenant).queued;
        if used >= limits.queued { Err(ReadError::LimitReached { limit: limits.queued, used }) } else { Ok(()) }
    }

    pub(super) async fn view(&self, job: &Job) -> Result<StatusView, ReadError> {
        let output = match job.state {
            State::InProgress => {
                let running = self.state().running.get(&job.id).cloned();
                running.and_then(|running| running.progress.lock().ok()?.clone()).map(|json| raw(&json)).transpose()?
            }
            _ => {
                let _one_of_few = self.large_read(job).await;
                self.output(job).await?.map(|json| raw(&json)).transpose()?
            }
        };
        Ok(self.explained(job, StatusView::new(job, output, self.wait_reason(job))))
    }
}

/// Waits for a change of a job. Dropping it leaves nothing behind.
struct Waiting<'a, R: Runner> {
    shared: &'a Shared<R>,
    id: JobId,
    changed: Option<Pin<Box<OwnedNotified>>>,
}

impl<'a, R: Runner> Waiting<'a, R> {
    /// Hears of every change from here on.
    fn begin(shared: &'a Shared<R>, id: JobId) -> Self {
        let waiter = shared.state().waiter(id);
        Self { shared, id, changed: Some(Box::pin(waiter.notified_owned())) }
    }

    /// Waits for a change until a time. Returns whether there was one. The end of the service ends the wait too.
    async fn changed(mut self, until: Instant) -> bool {
        let Some(changed) = self.changed.as_mut() else { return false };
        tokio::select! {
            changed = timeout_at(until, changed) => changed.is_ok(),
            () = self.shared.stopping.cancelled() => false,
        }
    }
}

impl<R: Runner> Drop for Waiting<'_, R> {
    fn drop(&mut self) {
        self.changed = None;
        self.shared.state().forget_waiter(self.id);
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
        // What is not there, or has ended, is not waited for.
        let (job, _) = self.shared.of(names, id).await?;
        if job.state.is_terminal() {
            return self.shared.view(&job).await;
        }
        loop {
            let waiting = Waiting::begin(&self.shared, id);
            let (job, _) = self.shared.of(names, id).await?;
            if job.state.is_terminal() || !waiting.changed(until).await {
                let (job, _) = self.shared.of(names, id).await?;
                return self.shared.view(&job).await;
            }
        }
    }

    /// Returns the parts of a job's stream since the last call. Waits for one until a time. The state is final only
    /// with the last part.
    pub async fn stream(&self, names: &Names, id: JobId, until: Instant) -> Result<StreamRead, ReadError> {
        loop {
            let (job, _) = self.shared.of(names, id).await?;
            let waiting = (!job.state.is_terminal()).then(|| Waiting::begin(&self.shared, id));
            let Some(read) = self.read_stream(names, id).await? else { continue };
            let is_empty = matches!(&read, StreamRead::Parts(view) if view.stream.is_empty());
            let Some(waiting) = waiting.filter(|_| is_empty) else { return Ok(read) };
            if !waiting.changed(until).await {
                return Ok(read);
            }
        }
    }

    /// Reads what is new of a stream. None if another call has taken it meanwhile.
    async fn read_stream(&self, names: &Names, id: JobId) -> Result<Option<StreamRead>, ReadError> {
        let (job, _) = self.shared.of(names, id).await?;
        let (cursor, running) = {
            let state = self.shared.state();
            (state.cursors.get(&id).copied().unwrap_or_default(), state.running.get(&id).cloned())
        };
        let mut parts: Vec<Box<RawValue>> = match (job.state, running) {
            (State::Cancelled, _) if cursor.has_heard_cancel => return Ok(Some(StreamRead::Over)),
            (State::InProgress, Some(running)) => {
                let mut bytes = 0;
                let answer = running.answer();
                let few = answer.parts_from(cursor.parts).iter().take_while(|part| {
                    bytes += part.len();
                    bytes <= 2 * STREAM_BYTES_MAX + part.len()
                });
                few.map(|part| raw(part)).collect::<Result<_, _>>()?
            }
            (State::Completed, _) => {
                let _one_of_few = self.shared.large_read(&job).await;
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
        {
            let mut state = self.shared.state();
            let now_at = state.cursors.get(&id).copied().unwrap_or_default();
            if now_at.parts != cursor.parts || now_at.has_heard_cancel != cursor.has_heard_cancel {
                return Ok(None);
            }
            state.cursors.insert(id, Cursor { parts: cursor.parts + taken, has_heard_cancel });
        }
        let stream = parts.into_iter().map(|output| StreamPart { output }).collect();
        Ok(Some(StreamRead::Parts(StreamView { status, stream })))
    }

    /// Returns the log of a job: the lines of its attempts that have ended, and of the one that runs.
    pub async fn log(&self, names: &Names, id: JobId) -> Result<Vec<LogLine>, ReadError> {
        let shared = &self.shared;
        let (job, _) = shared.of(names, id).await?;
        let mut lines = log::read(shared, id).await?;
        // What has not been kept yet.
        if let Some(request) = job.request.filter(|request| !lines.iter().any(|line| line.request == *request)) {
            lines.extend(shared.runner.log(&names.0, &names.1, request));
        }
        Ok(lines)
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
            self.shared.until_noted(&before).await;
            self.shared.check_queued(&names.0)?;
            let (mut job, now) = (before.clone(), self.shared.clock.now());
            job.retry(now);
            // Nobody else adds it meanwhile.
            self.shared.state().submitting.insert(id);
            // The client knows of that end; the next one is told anew.
            let delivery = [keys::delivery(id), keys::dead_letter(id)];
            let forget = delivery.map(|key| Change::Delete { key, expect: Expect::Any }).to_vec();
            let committed = self.shared.commit_until_done(&job, revision, forget).await;
            {
                let mut state = self.shared.state();
                state.submitting.remove(&id);
                if committed?.is_none() {
                    continue;
                }
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
        self.cancel_waiting(&waiting).await
    }

    /// Cancels those of these jobs that wait. Returns how many.
    pub(super) async fn cancel_waiting(&self, waiting: &[JobId]) -> Result<u64, ReadError> {
        let (shared, mut removed) = (&self.shared, 0);
        for ids in waiting.chunks(PURGE) {
            let end = |job: &mut Job| job.cancel(&shared.settings(job), shared.clock.now());
            removed += shared.end_together(ids, &[State::InQueue], end).await?;
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
        drop(state);
        let reason = if counts.in_queue > 0 { self.shared.refined(names, reason) } else { None };
        (counts, reason)
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
        let ids: Vec<JobId> = {
            let state = self.shared.state();
            let Some(served) = state.functions.get(names) else { return Ok((Vec::new(), None)) };
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            served.all.range((from, Bound::Unbounded)).take(LOOK_MAX + 1).copied().collect()
        };
        let mut found = Vec::new();
        for (at, id) in ids.iter().enumerate() {
            if found.len() >= limit || at >= LOOK_MAX {
                return Ok((found, ids.get(at.saturating_sub(1)).copied()));
            }
            let Some((job, _)) = self.shared.read(*id).await? else { continue };
            if state.is_none_or(|state| state == job.state) {
                let reason = self.shared.wait_reason(&job);
                found.push(self.shared.explained(&job, StatusView::new(&job, None, reason)));
            }
        }
        Ok((found, None))
    }

    /// Pauses the queue of a function, or of all functions of a tenant, or lets it go on.
    pub async fn pause(
        &self,
        tenant: &TenantName,
        function: Option<&FunctionName>,
        is_paused: bool,
    ) -> Result<(), ReadError> {
        let (jobs, tenant, function) = (self.clone(), tenant.clone(), function.cloned());
        to_its_end(async move { jobs.set_paused(&tenant, function.as_ref(), is_paused).await }).await?
    }

    async fn set_paused(
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

    /// Removes everything of a tenant that was deleted, whatever becomes of the caller.
    pub async fn remove_tenant(&self, tenant: &TenantName) -> Result<(), ReadError> {
        let (jobs, tenant) = (self.clone(), tenant.clone());
        to_its_end(async move { jobs.remove_all_of(&tenant).await }).await?
    }

    async fn remove_all_of(&self, tenant: &TenantName) -> Result<(), ReadError> {
        let shared = &self.shared;
        let ids: Vec<JobId> = {
            let state = shared.state();
            let own = state.functions.iter().filter(|(names, _)| names.0 == *tenant);
            own.flat_map(|(_, served)| served.all.iter().copied()).collect()
        };
        for ids in ids.chunks(PURGE) {
            let end = |job: &mut Job| job.cancel(&shared.settings(job), shared.clock.now());
            shared.end_together(ids, &[State::InQueue, State::InProgress], end).await?;
            let mut removed = Vec::new();
            for id in ids {
                removed.extend(shared.read(*id).await?);
            }
            let deliveries = ids.iter().flat_map(|id| [keys::delivery(*id), keys::dead_letter(*id)]);
            let forget = deliveries.map(|key| Change::Delete { key, expect: Expect::Any }).collect();
            shared.records.commit(forget).await.map_err(io::Error::other)?;
            ids.iter().for_each(|id| shared.state().deliveries.forget(*id));
            super::sweep::remove(shared, removed).await?;
        }
        super::batch_sweep::forget_tenant(shared, tenant).await?;
        self.forget_hooks(tenant, None).await?;
        let of_tenant = |prefix: &str| format!("{prefix}{tenant}/");
        for prefix in [of_tenant(keys::IDEMPOTENCY), of_tenant(keys::PAUSED)] {
            loop {
                let page = shared.records.page(&prefix, None, PURGE).await?;
                let delete = |entry: Entry| Change::Delete { key: entry.key, expect: Expect::Any };
                shared
                    .records
                    .commit(page.entries.into_iter().map(delete).collect())
                    .await
                    .map_err(io::Error::other)?;
                if !page.more {
                    break;
                }
            }
        }
        let alone = [keys::paused(tenant, None), keys::webhook_secret(tenant)];
        let delete = alone.map(|key| Change::Delete { key, expect: Expect::Any }).to_vec();
        shared.records.commit(delete).await.map_err(io::Error::other)?;
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
