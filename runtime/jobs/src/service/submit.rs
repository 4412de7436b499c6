//! Accepting a job: its record and input are durable before the client hears of it.

use super::dispatch;
use super::pointer::pointed_at;
use super::shared::{Jobs, Shared, put_job, to_its_end};
use crate::job::{JOB_BYTES, Job, JobId, Policy, State};
use crate::keys;
use crate::runner::{JobLimits, Runner};
use gannet_base::names::{FunctionName, TenantName};
use gannet_state::records::{Change, CommitError, Expect};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io;
use std::sync::Arc;

/// How long an idempotency key is kept at least, in milliseconds. It is also kept as long as its job or batch is.
pub(super) const IDEMPOTENCY_MS: i64 = 24 * 3_600_000;

/// How long a job is looked for that may have been stored although it was not known, in milliseconds.
const UNCERTAIN_MS: i64 = 600_000;

/// The concurrency key of inputs in which it cannot be looked for.
const UNREADABLE: &str = "unreadable";

/// A job that a client wants to submit.
#[derive(Debug)]
pub struct Submission {
    /// The tenant.
    pub tenant: TenantName,
    /// The function.
    pub function: FunctionName,
    /// The input, as JSON.
    pub input: Vec<u8>,
    /// What the client asks for.
    pub policy: Policy,
    /// Whether the client waits for the result.
    pub sync: bool,
    /// The address that is told about the end.
    pub webhook: Option<String>,
    /// The client's idempotency key.
    pub idempotency_key: Option<String>,
    /// What the tenant's jobs may take.
    pub limits: JobLimits,
}

/// Why a submission is known again.
#[derive(Debug)]
pub(super) struct Once {
    /// The key of its record.
    pub(super) key: String,
    /// The digest of what is submitted.
    pub(super) body: String,
    /// How long it is known, in milliseconds.
    pub(super) keep_ms: i64,
    /// Whether it is known for all of that time and no longer, also once its job is removed.
    pub(super) is_exact: bool,
}

/// What is not said by clients: where a job comes from.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// Why the submission is known again, instead of by the client's idempotency key.
    pub(super) once: Option<Once>,
    /// The path at which the function gets the job.
    pub(super) path: Option<String>,
}

/// A job that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// Its id.
    pub id: JobId,
    /// Its state.
    pub state: State,
}

/// Why a job was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The function does not exist.
    #[error("the function does not exist")]
    NoFunction,
    /// The tenant has too many jobs.
    #[error("{name} = {limit}; in use: {used}")]
    LimitReached {
        /// The limit's name.
        name: &'static str,
        /// Its value.
        limit: u64,
        /// How much of it is used.
        used: u64,
    },
    /// The idempotency key was used for another job.
    #[error("the idempotency key was used with another body, for the job {job}")]
    OtherBody {
        /// That job.
        job: JobId,
    },
    /// The disk is full. Nothing was kept.
    #[error("the disk is full")]
    Full,
    /// The store does not work. The job may have been accepted or not.
    #[error("the job could not be stored: {0}")]
    Store(#[from] io::Error),
}

/// The record of an idempotency key.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct UsedKey {
    /// The job, or the batch.
    pub(super) job: JobId,
    /// The SHA-256 of what was submitted.
    pub(super) body: String,
    pub(super) expires: i64,
}

/// Returns the digest of what a client submits, by which the same submission is known again.
fn digest(submission: &Submission) -> String {
    let mut hash = Sha256::new();
    hash.update(&submission.input);
    let policy = &submission.policy;
    hash.update(format!("\n{policy:?}\n{}\n{:?}", submission.sync, submission.webhook));
    hex::encode(hash.finalize())
}

/// Reads the value of the concurrency key from an input: a string, a number or a boolean.
pub(super) fn concurrency_key(pointer: &str, input: &[u8]) -> Option<String> {
    if pointer.is_empty() {
        return None;
    }
    // What cannot be read counts as one key, so that no form of an input evades the limit.
    let Ok(value) = pointed_at(pointer, input) else { return Some(UNREADABLE.into()) };
    let value = value?;
    let text = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
    // Long ones are told apart by their digest.
    Some(if text.len() <= 64 { text } else { hex::encode(Sha256::digest(text.as_bytes())) })
}

impl<R: Runner> Shared<R> {
    /// Counts jobs, and the bytes of their inputs, against their tenant's limits.
    pub(super) fn reserve(
        &self,
        tenant: &TenantName,
        (count, length): (u64, u64),
        limits: JobLimits,
    ) -> Result<(), SubmitError> {
        let mut state = self.state();
        let used = state.tenant(tenant);
        let JobLimits { queued, bytes } = limits;
        if used.queued.saturating_add(count) > queued {
            return Err(SubmitError::LimitReached { name: "jobs_queued", limit: queued, used: used.queued });
        }
        if used.bytes.saturating_add(length) > bytes {
            return Err(SubmitError::LimitReached { name: "jobs_mib", limit: bytes >> 20, used: used.bytes >> 20 });
        }
        used.queued += count;
        used.bytes += length;
        Ok(())
    }

    /// Takes back [`Shared::reserve`].
    pub(super) fn release(&self, tenant: &TenantName, (count, bytes): (u64, u64)) {
        let mut state = self.state();
        let used = state.tenant(tenant);
        used.queued = used.queued.saturating_sub(count);
        used.bytes = used.bytes.saturating_sub(bytes);
    }

    /// Returns the job of an idempotency key that was used before, with its state unless it is removed, or what must hold
    /// of the key's record for it to be used. A key is free again once its job is removed, or when its time is over.
    async fn known(self: &Arc<Self>, once: &Once) -> Result<Result<(JobId, Option<State>), Expect>, SubmitError> {
        let Some(entry) = self.records.get(&once.key).await? else { return Ok(Err(Expect::Absent)) };
        let used: UsedKey = serde_json::from_slice(&entry.value).map_err(io::Error::other)?;
        let free = Ok(Err(Expect::Revision(entry.revision)));
        if once.is_exact && used.expires <= self.clock.now() {
            return free;
        }
        let found = self.read(used.job).await?;
        if found.is_none() && !once.is_exact {
            return free;
        }
        if used.body != once.body {
            return Err(SubmitError::OtherBody { job: used.job });
        }
        if let Some((job, _)) = &found {
            // Its own submission may not have known that it was stored.
            self.adopt(job).await?;
        }
        Ok(Ok((used.job, found.map(|(job, _)| job.state))))
    }

    /// Adds a job that waits in the store, if the index does not have it.
    pub(super) async fn adopt(self: &Arc<Self>, job: &Job) -> io::Result<()> {
        let (id, names) = (job.id, (job.tenant.clone(), job.function.clone()));
        if job.state != State::InQueue || !self.state().begin_adopting(&names, id) {
            return Ok(());
        }
        // Read again, now that nobody else adds it.
        let found = self.read(id).await;
        let mut state = self.state();
        state.submitting.remove(&id);
        if let Some((job, _)) = found?.filter(|(job, _)| job.state == State::InQueue) {
            state.adopt(&job, self.clock.now());
        }
        drop(state);
        dispatch::serve(self, &names);
        Ok(())
    }
}

impl<R: Runner> Jobs<R> {
    /// Accepts a job. It is durable when this returns. What has begun goes on if the caller leaves.
    pub async fn submit(&self, submission: Submission) -> Result<Submitted, SubmitError> {
        let (id, state) = self.submit_from(submission, Origin::default()).await?;
        // Only what is known for an exact time outlives its job.
        let state = state.ok_or_else(|| io::Error::other("the job is gone"))?;
        Ok(Submitted { id, state })
    }

    /// Accepts a job that something else than a client's call makes. Returns its state, unless it was made before and is
    /// removed already.
    pub(super) async fn submit_from(
        &self,
        submission: Submission,
        origin: Origin,
    ) -> Result<(JobId, Option<State>), SubmitError> {
        let jobs = self.clone();
        to_its_end(async move { jobs.accept(submission, origin).await }).await?
    }

    async fn accept(&self, submission: Submission, origin: Origin) -> Result<(JobId, Option<State>), SubmitError> {
        let shared = &self.shared;
        let names = (submission.tenant.clone(), submission.function.clone());
        let function = shared.runner.function(&names.0, &names.1).ok_or(SubmitError::NoFunction)?;
        let Origin { once, path } = origin;
        let by_key = |key: &String| Once {
            key: keys::idempotency(&names.0, &names.1, key),
            body: digest(&submission),
            keep_ms: IDEMPOTENCY_MS,
            is_exact: false,
        };
        let once = once.or_else(|| submission.idempotency_key.as_ref().map(by_key));
        let mut expect = Expect::Absent;
        if let Some(once) = &once {
            match shared.known(once).await? {
                Ok(known) => return Ok(known),
                Err(free) => expect = free,
            }
        }
        if !shared.runner.has_room(submission.input.len() as u64) {
            return Err(SubmitError::Full);
        }
        let bytes = submission.input.len() as u64 + JOB_BYTES;
        shared.reserve(&names.0, (1, bytes), submission.limits)?;
        let accepted = self.store(submission, &function.settings, once.as_ref().zip(Some(expect)), path).await;
        match &accepted {
            Ok(Some(job)) => {
                let mut state = shared.state();
                state.add_waiting(job, shared.clock.now());
                state.submitting.remove(&job.id);
                drop(state);
                dispatch::serve(shared, &names);
            }
            // If it is stored after all, it is counted when it is found.
            Ok(None) | Err(_) => shared.release(&names.0, (1, bytes)),
        }
        match accepted? {
            Some(job) => Ok((job.id, Some(job.state))),
            // Another request with the same key was faster.
            None => match &once {
                Some(once) => shared.known(once).await?.map_err(|_| io::Error::other("the key is gone").into()),
                None => Err(io::Error::other("the new id is in use").into()),
            },
        }
    }

    /// Stores a job. None if its idempotency key was used meanwhile.
    async fn store(
        &self,
        submission: Submission,
        settings: &gannet_base::manifest::JobSettings,
        once: Option<(&Once, Expect)>,
        path: Option<String>,
    ) -> Result<Option<Job>, SubmitError> {
        let shared = &self.shared;
        let now = shared.clock.now();
        let Submission { tenant, function, input, policy, sync, webhook, .. } = submission;
        let key = concurrency_key(&settings.key, &input);
        let empty = crate::outcome::Payload { bytes: 0, blob: None };
        let mut job = Job::submitted((tenant, function), &policy, settings, empty, now);
        (job.sync, job.webhook, job.key, job.path) = (sync, webhook, key, path);
        let stored = shared.store_payload(keys::input(job.id), input).await.map_err(full_or_store)?;
        job.input = stored.payload;
        let mut changes: Vec<Change> = stored.change.into_iter().collect();
        if let Some((Once { key, body, keep_ms, .. }, expect)) = once {
            let used = UsedKey { job: job.id, body: body.clone(), expires: now.saturating_add(*keep_ms) };
            let value = serde_json::to_vec(&used).map_err(io::Error::other)?;
            changes.push(Change::Put { key: key.clone(), value, expect });
        }
        changes.push(put_job(&job, Expect::Absent)?);
        shared.state().submitting.insert(job.id);
        let refused = match shared.records.commit(changes).await {
            Ok(_) => return Ok(Some(job)),
            Err(CommitError::Unknown(why)) => {
                if let Ok(Some(_)) = shared.read(job.id).await {
                    return Ok(Some(job));
                }
                let mut state = shared.state();
                state.submitting.remove(&job.id);
                // It may still be stored, now or later.
                state.uncertain.push((job.id, now.saturating_add(UNCERTAIN_MS)));
                return Err(io::Error::other(why).into());
            }
            Err(CommitError::Conflict { .. }) => Ok(None),
            Err(CommitError::Full) => Err(SubmitError::Full),
            Err(error) => Err(io::Error::other(error).into()),
        };
        shared.state().submitting.remove(&job.id);
        shared.remove_blobs(job.input.blob.into_iter().collect()).await?;
        refused
    }
}

pub(super) fn full_or_store(error: io::Error) -> SubmitError {
    if error.kind() == io::ErrorKind::StorageFull { SubmitError::Full } else { error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concurrency_key_is_read_from_the_input() {
        let input = br#"{"user":{"id":7,"name":"ann"},"on":true}"#;
        for (pointer, key) in
            [("/user/name", Some("ann")), ("/user/id", Some("7")), ("/on", Some("true")), ("/none", None), ("", None)]
        {
            assert_eq!(concurrency_key(pointer, input).as_deref(), key, "{pointer}");
        }
        let long = format!("{{\"k\":\"{}\"}}", "x".repeat(65));
        assert_eq!(concurrency_key("/k", long.as_bytes()).map(|key| key.len()), Some(64));
    }
}
