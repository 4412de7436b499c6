//! The task that ends jobs whose time is over, and removes records that are kept long enough.

use super::shared::Shared;
use super::submit::UsedKey;
use crate::job::{Job, JobId, State};
use crate::keys;
use crate::runner::Runner;
use gannet_base::manifest::JobSettings;
use gannet_state::records::{Change, CommitError, Expect, Revision};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How often the task looks.
const EVERY: Duration = Duration::from_millis(500);
/// How often it looks for idempotency keys that are old.
const KEYS_EVERY: u32 = 1_200;
/// Jobs that are removed in one commit; each has up to four records.
const AT_ONCE: usize = 200;
/// Commits for one purpose in one round, so that the others have their turn.
const ROUNDS: usize = 20;

pub(super) async fn sweep<R: Runner>(shared: Arc<Shared<R>>) {
    let mut round: u32 = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shared.stopping.cancelled() => return,
        }
        round = round.wrapping_add(1);
        let mut failed = expire(&shared).await.err();
        failed = remove_kept(&shared).await.err().or(failed);
        failed = look_for_uncertain(&shared).await.err().or(failed);
        if round.is_multiple_of(KEYS_EVERY) {
            failed = remove_keys(&shared).await.err().or(failed);
        }
        if let Some(error) = failed {
            tracing::warn!(%error, "jobs whose time is over wait for the store");
        }
    }
}

/// Ends the jobs whose time is over, waiting or running.
async fn expire<R: Runner>(shared: &Arc<Shared<R>>) -> io::Result<()> {
    let now = shared.clock.now();
    let (mut due, running): (Vec<JobId>, Vec<JobId>) = {
        let state = shared.state();
        let waiting = state.functions.values().flat_map(|served| served.queue.expired(now)).collect();
        (waiting, state.running.keys().copied().collect())
    };
    for id in running {
        if shared.read(id).await?.is_some_and(|(job, _)| job.state == State::InProgress && job.expires <= now) {
            due.push(id);
        }
    }
    for ids in due.chunks(AT_ONCE).take(ROUNDS) {
        let end = |job: &mut Job| {
            if job.expires <= now {
                job.expire(&shared.settings(job), now);
            }
        };
        shared.end_together(ids, &[State::InQueue, State::InProgress], end).await?;
    }
    Ok(())
}

impl<R: Runner> Shared<R> {
    /// Returns the settings of a job's function, or the defaults if it is gone.
    pub(super) fn settings(&self, job: &Job) -> JobSettings {
        self.runner.function(&job.tenant, &job.function).map(|function| function.settings).unwrap_or_default()
    }
}

/// Looks for jobs that may have been stored although it was not known.
async fn look_for_uncertain<R: Runner>(shared: &Arc<Shared<R>>) -> io::Result<()> {
    let uncertain = shared.state().uncertain.clone();
    for (id, _) in uncertain {
        if let Some((job, _)) = shared.read(id).await? {
            shared.adopt(&job).await?;
            shared.state().uncertain.retain(|(other, _)| *other != id);
        }
    }
    let now = shared.clock.now();
    shared.state().uncertain.retain(|(_, until)| *until > now);
    Ok(())
}

/// Removes the records of jobs that ended long enough ago.
async fn remove_kept<R: Runner>(shared: &Arc<Shared<R>>) -> io::Result<()> {
    for _ in 0..ROUNDS {
        let now = shared.clock.now();
        let due: Vec<JobId> =
            shared.state().kept.iter().take_while(|(at, _)| *at <= now).take(AT_ONCE).map(|(_, id)| *id).collect();
        if due.is_empty() {
            return Ok(());
        }
        let mut removed = Vec::new();
        for id in &due {
            match shared.read(*id).await? {
                Some((job, revision)) if job.kept_until.is_some_and(|until| until <= now) => {
                    removed.push((job, revision))
                }
                // It was put into the queue again, or is gone.
                _ => shared.state().kept.retain(|(_, other)| other != id),
            }
        }
        remove(shared, removed).await?;
    }
    Ok(())
}

/// Removes the records of jobs, and what belongs to them.
pub(super) async fn remove<R: Runner>(shared: &Arc<Shared<R>>, jobs: Vec<(Job, Revision)>) -> io::Result<()> {
    let mut changes = Vec::new();
    for (job, revision) in &jobs {
        changes.push(Change::Delete { key: keys::job(job.id), expect: Expect::Revision(*revision) });
        changes.push(Change::Delete { key: keys::input(job.id), expect: Expect::Any });
        changes.push(Change::Delete { key: keys::output(job.id), expect: Expect::Any });
        changes.push(Change::Delete { key: keys::log(job.id), expect: Expect::Any });
    }
    match shared.records.commit(changes).await {
        Ok(_) => {}
        // The next look finds what has changed.
        Err(CommitError::Conflict { .. }) => return Ok(()),
        Err(error) => return Err(io::Error::other(error)),
    }
    let mut blobs = Vec::new();
    {
        let mut state = shared.state();
        for (job, _) in jobs {
            state.remove_ended(&job);
            state.cursors.remove(&job.id);
            state.forget(&job);
            let log = state.logs.remove(&job.id).unwrap_or(0);
            let used = state.tenant(&job.tenant);
            used.bytes = used.bytes.saturating_sub(job.stored_bytes() + log);
            state.forget_idle(&(job.tenant, job.function));
            blobs.extend(job.input.blob);
            blobs.extend(job.output.and_then(|output| output.blob));
        }
    }
    shared.remove_blobs(blobs).await
}

/// Removes idempotency keys that are old and whose job or batch is gone.
pub(super) async fn remove_keys<R: Runner>(shared: &Arc<Shared<R>>) -> io::Result<()> {
    let now = shared.clock.now();
    let mut after: Option<String> = None;
    loop {
        let page = shared.records.page(keys::IDEMPOTENCY, after.as_deref(), AT_ONCE).await?;
        let mut changes = Vec::new();
        for entry in &page.entries {
            let used: Option<UsedKey> = serde_json::from_slice(&entry.value).ok();
            let Some(used) = used.filter(|used| used.expires <= now) else { continue };
            let has = async |key: String| Ok::<_, io::Error>(shared.records.get(&key).await?.is_some());
            if !has(keys::job(used.job)).await? && !has(keys::batch(used.job)).await? {
                changes.push(Change::Delete { key: entry.key.clone(), expect: Expect::Revision(entry.revision) });
            }
        }
        if !changes.is_empty() {
            match shared.records.commit(changes).await {
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more || after.is_none() {
            return Ok(());
        }
    }
}
