//! The index of all jobs in memory. It is small: of a waiting job it has its place in the queue, of one that has ended
//! when it is removed.

use super::batch_index::Batches;
use crate::delivery::index::{Deliveries, Stage};
use crate::job::{BatchId, Job, JobId, Millis, State as JobState};
use crate::parts::ArrivingAnswer;
use crate::queue::FunctionQueue;
use crate::runner::WaitReason;
use crate::view::JobCounts;
use gannet_base::names::{FunctionName, RequestId, TenantName};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A function of a tenant.
pub(crate) type Names = (TenantName, FunctionName);

/// The queue of a function, and the task that serves it.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) queue: FunctionQueue,
    /// Wakes the task.
    pub(crate) changed: Arc<Notify>,
    /// Whether the task runs.
    pub(crate) is_served: bool,
    /// Why no attempt can begin, while that is so.
    pub(crate) reason: Option<WaitReason>,
    pub(crate) counts: JobCounts,
    /// All of its jobs, also those that have ended.
    pub(crate) all: BTreeSet<JobId>,
}

/// What a tenant's jobs take.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct TenantUse {
    pub(crate) queued: u64,
    pub(crate) bytes: u64,
}

/// A job that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) answer: Mutex<ArrivingAnswer>,
    /// The latest progress, as JSON.
    pub(crate) progress: Mutex<Option<Vec<u8>>>,
    /// Ends the attempt.
    pub(crate) cancelled: CancellationToken,
    /// Set when the record of the attempt is durable.
    pub(crate) recorded: CancellationToken,
}

/// An attempt that runs.
#[derive(Debug)]
pub(crate) struct RunningAttempt {
    pub(crate) tenant: TenantName,
    pub(crate) job: JobId,
    /// The number of the attempt.
    pub(crate) number: u32,
    pub(crate) running: Arc<Running>,
}

impl RunningAttempt {
    pub(crate) fn new(job: &Job, running: &Arc<Running>) -> Self {
        Self { tenant: job.tenant.clone(), job: job.id, number: job.attempt, running: Arc::clone(running) }
    }
}

/// How far a client has read a job's stream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cursor {
    pub(crate) parts: usize,
    /// Whether the client was told that the job is cancelled.
    pub(crate) has_heard_cancel: bool,
}

/// The index; see the module.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) functions: HashMap<Names, Served>,
    pub(crate) running: HashMap<JobId, Arc<Running>>,
    /// The attempts that run, by their requests.
    pub(crate) attempts: HashMap<RequestId, RunningAttempt>,
    pub(crate) tenants: HashMap<TenantName, TenantUse>,
    /// When records are removed.
    pub(crate) kept: BTreeSet<(Millis, JobId)>,
    pub(crate) paused: HashSet<(TenantName, Option<FunctionName>)>,
    pub(crate) cursors: HashMap<JobId, Cursor>,
    /// The bytes of the logs that are kept.
    pub(crate) logs: HashMap<JobId, u64>,
    pub(crate) batches: Batches,
    /// Webhooks that are to be delivered, or were given up.
    pub(crate) deliveries: Deliveries,
    /// Wakes the task that delivers.
    pub(crate) delivery_changed: Arc<Notify>,
    /// Notified when a job changes, if somebody waits for that.
    waiters: HashMap<JobId, Arc<Notify>>,
    /// Jobs that are being stored: the index does not have them yet.
    pub(crate) submitting: HashSet<JobId>,
    /// Jobs that may have been stored although their clients were told that they were not, and until when they are
    /// looked for.
    pub(crate) uncertain: Vec<(JobId, Millis)>,
    /// How many payloads each blob is.
    blobs: HashMap<String, u32>,
}

impl State {
    pub(crate) fn served(&mut self, names: &Names) -> &mut Served {
        if !self.functions.contains_key(names) {
            self.functions.insert(names.clone(), Served::default());
        }
        self.functions.entry(names.clone()).or_default()
    }

    /// Whether the attempts of a function are paused.
    pub(crate) fn is_paused(&self, (tenant, function): &Names) -> bool {
        self.paused.contains(&(tenant.clone(), None)) || self.paused.contains(&(tenant.clone(), Some(function.clone())))
    }

    pub(crate) fn tenant(&mut self, tenant: &TenantName) -> &mut TenantUse {
        self.tenants.entry(tenant.clone()).or_default()
    }

    /// Adds a job that waits, and wakes the task of its function.
    pub(crate) fn add_waiting(&mut self, job: &Job, now: Millis) {
        self.batches.note(job);
        let served = self.served(&(job.tenant.clone(), job.function.clone()));
        served.all.insert(job.id);
        served.queue.add(job, now);
        served.changed.notify_one();
    }

    /// Notes that a job which waits in the store is being added, if the index does not have it. Returns whether it is.
    pub(crate) fn begin_adopting(&mut self, names: &Names, id: JobId) -> bool {
        !self.served(names).queue.knows(id) && self.submitting.insert(id)
    }

    /// Adds a job that waits in the store.
    pub(crate) fn adopt(&mut self, job: &Job, now: Millis) {
        let used = self.tenant(&job.tenant);
        used.queued += 1;
        used.bytes = used.bytes.saturating_add(job.stored_bytes());
        self.add_waiting(job, now);
    }

    /// Notes that a job has ended, with the delivery of its webhook.
    pub(crate) fn add_ended(&mut self, job: &Job) {
        self.add_kept(job);
        self.expect_delivery(job, job.ended.unwrap_or(0));
    }

    /// Notes that a job's webhook is to be delivered. Its record is kept until that is done.
    pub(crate) fn expect_delivery(&mut self, job: &Job, at: Millis) {
        if job.webhook.is_some() {
            self.kept.remove(&(job.kept_until.unwrap_or(0), job.id));
            self.deliveries.set((&job.tenant, &job.function), job.id, Stage::Due(at));
            self.delivery_changed.notify_one();
        }
    }

    /// Notes that the end of a batch is to be delivered.
    pub(crate) fn expect_delivery_of_batch(&mut self, (tenant, function): &Names, id: BatchId, at: Millis) {
        self.deliveries.set((tenant, function), id, Stage::Due(at));
        self.delivery_changed.notify_one();
    }

    /// Adds a job that has ended, whose webhook is delivered already or is known in the index.
    pub(crate) fn add_kept(&mut self, job: &Job) {
        let names = (job.tenant.clone(), job.function.clone());
        let served = self.served(&names);
        served.all.insert(job.id);
        let counts = &mut served.counts;
        match job.state {
            JobState::Completed => counts.completed += 1,
            JobState::Failed | JobState::TimedOut => counts.failed += 1,
            _ => {}
        }
        // The items of a batch are kept with it.
        if !self.batches.note(job) && !self.deliveries.holds(job.id) {
            self.kept.insert((job.kept_until.unwrap_or(0), job.id));
        }
    }

    /// Whether the index knows that a job has ended.
    pub(crate) fn has_ended(&self, job: &Job) -> bool {
        self.batches.has_ended(job).unwrap_or_else(|| {
            self.kept.contains(&(job.kept_until.unwrap_or(0), job.id)) || self.deliveries.holds(job.id)
        })
    }

    /// Forgets a job that is removed.
    pub(crate) fn forget(&mut self, job: &Job) {
        self.served(&(job.tenant.clone(), job.function.clone())).all.remove(&job.id);
    }

    /// Takes back [`State::add_ended`].
    pub(crate) fn remove_ended(&mut self, job: &Job) {
        self.batches.begin_again(job);
        self.kept.remove(&(job.kept_until.unwrap_or(0), job.id));
        let counts = &mut self.served(&(job.tenant.clone(), job.function.clone())).counts;
        match job.state {
            JobState::Completed => counts.completed = counts.completed.saturating_sub(1),
            JobState::Failed | JobState::TimedOut => counts.failed = counts.failed.saturating_sub(1),
            _ => {}
        }
    }

    /// Returns what is notified when a job changes.
    pub(crate) fn waiter(&mut self, id: JobId) -> Arc<Notify> {
        Arc::clone(self.waiters.entry(id).or_default())
    }

    /// Wakes those who wait for a job.
    pub(crate) fn tell(&mut self, id: JobId) {
        if let Some(waiter) = self.waiters.remove(&id) {
            waiter.notify_waiters();
        }
    }

    /// Forgets a waiter that nobody uses any more.
    pub(crate) fn forget_waiter(&mut self, id: JobId) {
        if self.waiters.get(&id).is_some_and(|waiter| Arc::strong_count(waiter) == 1) {
            self.waiters.remove(&id);
        }
    }

    /// Counts the log of a job, in place of what it counted for before.
    pub(crate) fn count_log(&mut self, tenant: &TenantName, id: JobId, bytes: u64) {
        let before = if bytes > 0 { self.logs.insert(id, bytes) } else { self.logs.remove(&id) };
        let used = self.tenant(tenant);
        used.bytes = used.bytes.saturating_add(bytes).saturating_sub(before.unwrap_or(0));
    }

    /// Whether nobody waits for any job.
    #[cfg(test)]
    pub(crate) fn has_no_waiters(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Notes that a payload is this blob.
    pub(crate) fn hold_blob(&mut self, digest: &str) {
        *self.blobs.entry(digest.to_owned()).or_default() += 1;
    }

    /// Takes back [`State::hold_blob`]. Returns whether no other payload is this blob.
    pub(crate) fn release_blob(&mut self, digest: &str) -> bool {
        match self.blobs.get_mut(digest) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => {
                self.blobs.remove(digest);
                true
            }
        }
    }

    /// Whether any payload is this blob.
    pub(crate) fn has_blob(&self, digest: &str) -> bool {
        self.blobs.contains_key(digest)
    }

    /// Forgets functions that have nothing.
    pub(crate) fn forget_idle(&mut self, names: &Names) {
        let is_idle = self
            .functions
            .get(names)
            .is_some_and(|served| served.queue.is_empty() && !served.is_served && served.all.is_empty());
        if is_idle {
            self.functions.remove(names);
        }
    }
}
