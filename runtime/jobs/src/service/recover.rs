//! The start: makes the index from the records that an earlier run left.
//!
//! A job whose attempt was running goes into the queue again at once: the workers of the earlier run ended with it. The
//! ledger gets the receipts that it lacks, so that it has one line for each attempt.

use super::shared::{Shared, put_job_and_delivery};
use crate::batch::Batch;
use crate::job::{Job, JobId, Next, State};
use crate::keys;
use crate::outcome::{Condition, Failure, Outcome};
use crate::runner::Runner;
use gannet_base::bill::Receipt;
use gannet_base::names::{FunctionName, TenantName};
use gannet_state::records::{Change, Expect, Revision};
use std::io;
use std::sync::Arc;

/// Records that are read at once.
const PAGE: usize = 1_000;
/// Records that are written at once.
const WRITE: usize = 200;

pub(super) async fn recover<R: Runner>(shared: &Arc<Shared<R>>) -> io::Result<()> {
    pauses(shared).await?;
    super::webhooks::load::load(shared).await?;
    super::hooks::forget_orphans(shared).await?;
    let never_accepted = batches(shared).await?;
    let mut after: Option<String> = None;
    let (mut interrupted, mut is_whole) = (Vec::new(), true);
    loop {
        let page = shared.records.page(keys::JOBS, after.as_deref(), PAGE).await?;
        for entry in &page.entries {
            match serde_json::from_slice::<Job>(&entry.value) {
                Ok(job) => interrupted.push(take(shared, job, entry.revision)?),
                Err(error) => {
                    is_whole = false;
                    tracing::error!(key = entry.key, %error, "the record of a job cannot be read");
                }
            }
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more || after.is_none() {
            break;
        }
    }
    interrupted.retain(|changes| !changes.is_empty());
    for changes in interrupted.chunks(WRITE) {
        shared.records.commit(changes.concat()).await.map_err(io::Error::other)?;
    }
    // The record of a job names its latest attempt only, and the next ones begin soon.
    shared.runner.bills_stored().await;
    // Last: what was stored of their items is gone.
    for changes in never_accepted.chunks(WRITE) {
        shared.records.commit(changes.to_vec()).await.map_err(io::Error::other)?;
    }
    shared.state().batches.forget_empty();
    logs(shared).await?;
    if !is_whole {
        // What cannot be read may have blobs.
        return Ok(());
    }
    let unused: Vec<String> = {
        let digests = shared.blobs.list().await?;
        let state = shared.state();
        digests.into_iter().filter(|digest| !state.has_blob(digest)).collect()
    };
    for digest in unused {
        shared.blobs.delete(&digest).await?;
    }
    Ok(())
}

/// Counts the logs of jobs.
async fn logs<R: Runner>(shared: &Arc<Shared<R>>) -> io::Result<()> {
    let mut after: Option<String> = None;
    loop {
        let page = shared.records.page(keys::LOGS, after.as_deref(), WRITE).await?;
        for entry in &page.entries {
            let id = entry.key.strip_prefix(keys::LOGS).and_then(JobId::parse);
            let Some(id) = id else { continue };
            if let Some((job, _)) = shared.read(id).await? {
                shared.state().count_log(&job.tenant, id, entry.value.len() as u64);
            }
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more || after.is_none() {
            return Ok(());
        }
    }
}

/// Adds all batches to the index. Returns the changes that remove the records of those that were never accepted.
async fn batches<R: Runner>(shared: &Arc<Shared<R>>) -> io::Result<Vec<Change>> {
    let (mut after, mut never_accepted) = (None::<String>, Vec::new());
    loop {
        let page = shared.records.page(keys::BATCHES, after.as_deref(), PAGE).await?;
        for entry in &page.entries {
            match serde_json::from_slice::<Batch>(&entry.value) {
                Ok(batch) => {
                    if batch.total == 0 {
                        never_accepted.push(Change::Delete { key: entry.key.clone(), expect: Expect::Any });
                    }
                    shared.state().batches.recover(batch, entry.revision);
                }
                // Its items are kept as any other jobs.
                Err(error) => tracing::error!(key = entry.key, %error, "the record of a batch cannot be read"),
            }
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more || after.is_none() {
            return Ok(never_accepted);
        }
    }
}

async fn pauses<R: Runner>(shared: &Arc<Shared<R>>) -> io::Result<()> {
    let mut after: Option<String> = None;
    loop {
        let page = shared.records.page(keys::PAUSED, after.as_deref(), PAGE).await?;
        for entry in &page.entries {
            let names = entry.key.strip_prefix(keys::PAUSED).unwrap_or_default();
            let (tenant, function) = names.split_once('/').map_or((names, None), |(one, two)| (one, Some(two)));
            let function = function.map(FunctionName::new).transpose();
            if let (Ok(tenant), Ok(function)) = (TenantName::new(tenant), function) {
                shared.state().paused.insert((tenant, function));
            }
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more || after.is_none() {
            return Ok(());
        }
    }
}

/// Adds a job to the index. Returns the changes of its record, if an attempt was interrupted.
fn take<R: Runner>(shared: &Arc<Shared<R>>, mut job: Job, revision: Revision) -> io::Result<Vec<Change>> {
    let mut changes = Vec::new();
    let of_batch = shared.state().batches.of(&job).map(|batch| (batch.total, batch.cancelled.is_some()));
    if let (Some(item), Some((total, _))) = (job.batch, of_batch)
        && item.index >= total
    {
        // The server ended before all items of a call were stored: none of them was accepted.
        return Ok([keys::job(job.id), keys::input(job.id)]
            .map(|key| Change::Delete { key, expect: Expect::Any })
            .to_vec());
    }
    if let Some(receipt) = &job.receipt {
        shared.runner.bill(Receipt::clone(receipt));
    }
    // Its latest attempt has no receipt if the server ended while it ran, or just after the job was cancelled or expired.
    if job.receipt.as_ref().map(|receipt| receipt.request) != job.request {
        shared.runner.bill_lost(&job);
    }
    if job.state == State::InProgress {
        let settings = shared.settings(&job);
        let failure = Failure {
            condition: Condition::Platform,
            code: "server_restarted".into(),
            message: "the server ended while the attempt ran".into(),
            is_permanent: false,
        };
        if job.finish(&Outcome::Failed(failure), &settings, shared.clock.now()) == Next::Again {
            job.not_before = None;
        }
        changes = put_job_and_delivery(&job, Expect::Revision(revision))?;
    }
    if job.state == State::InQueue && of_batch.is_some_and(|(_, is_cancelled)| is_cancelled) {
        job.cancel(&shared.settings(&job), shared.clock.now());
        changes = put_job_and_delivery(&job, Expect::Revision(revision))?;
    }
    // A clock that was put back must not keep a job for longer than its back-off, or than its client asked for.
    if let Some(at) = job.not_before {
        let most = match job.attempt {
            0 => u64::try_from(at.saturating_sub(job.submitted)).unwrap_or(0),
            _ => shared.settings(&job).backoff_max_s.saturating_mul(1000),
        };
        let latest = shared.clock.now().saturating_add_unsigned(most);
        if at > latest {
            job.not_before = Some(latest);
            // Also in its record, from which it may be put into the queue again.
            changes = put_job_and_delivery(&job, Expect::Revision(revision))?;
        }
    }
    let mut state = shared.state();
    state.batches.set(&job);
    for blob in job.input.blob.iter().chain(job.output.iter().filter_map(|output| output.blob.as_ref())) {
        state.hold_blob(blob);
    }
    let used = state.tenant(&job.tenant);
    used.bytes = used.bytes.saturating_add(job.stored_bytes());
    if job.state.is_terminal() && changes.is_empty() {
        state.add_kept(&job);
    } else if job.state.is_terminal() {
        state.add_ended(&job);
    } else {
        used.queued += 1;
        let now = shared.clock.now();
        state.add_waiting(&job, now);
    }
    Ok(changes)
}
