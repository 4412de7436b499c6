//! The task that delivers.
//!
//! ```text
//!  due ─▶ w/{job} and the job are read ─▶ the job's status, signed ─▶ POST ─▶ `plan::after`
//!   ─▶ w/{job} is removed, or put off, or becomes d/{job}; each change expects the revision that was read
//! ```
//!
//! A try that has begun runs to its end and is recorded, also at a shutdown. So a message is sent twice only if the
//! server ends between its answer and the commit, and receivers know it by its `webhook-id`.

use crate::delivery::index::Stage;
use crate::delivery::plan::{self, Next, Tried};
use crate::delivery::record::{DeadLetter, Pending};
use crate::delivery::sender::{Message, SendError};
use crate::delivery::signature::signatures;
use crate::job::{BatchId, Job, JobId, Millis};
use crate::keys;
use crate::runner::Runner;
use crate::service::batch_read::BatchView;
use crate::service::shared::{COMMIT_RETRY, Shared};
use bytes::Bytes;
use gannet_state::records::{Change, CommitError, Expect, Revision};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long a receiver may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a try may take, with all that comes before: a bound for a sender that keeps no time.
const TRY_MAX: Duration = Duration::from_secs(120);
/// How long the task sleeps at most.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Dead letters that are removed in one commit.
const FORGET: usize = 200;

/// Delivers until the service stops.
pub(in crate::service) async fn run<R: Runner>(shared: Arc<Shared<R>>) {
    let changed = Arc::clone(&shared.state().delivery_changed);
    while !shared.stopping.is_cancelled() {
        begin(&shared);
        if let Err(error) = forget_excess(&shared).await {
            tracing::warn!(%error, "dead letters wait to be removed");
            tokio::time::sleep(COMMIT_RETRY).await;
        }
        let next = shared.state().deliveries.next_event();
        let wait = next.map_or(SLEEP_MAX, |at| shared.clock.until(at).clamp(Duration::from_millis(1), SLEEP_MAX));
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(wait) => {}
            () = shared.stopping.cancelled() => {}
        }
    }
}

/// Begins the tries that are due, as many as may be made at once.
fn begin<R: Runner>(shared: &Arc<Shared<R>>) {
    loop {
        let now = shared.clock.now();
        let Some(id) = shared.state().deliveries.take(now) else { return };
        shared.tasks.spawn(deliver(Arc::clone(shared), id));
    }
}

async fn deliver<R: Runner>(shared: Arc<Shared<R>>, id: JobId) {
    let stage = match try_once(&shared, id).await {
        Ok(stage) => stage,
        Err(error) => {
            tracing::warn!(job = %id, %error, "a delivery waits for the store");
            Stage::Due(shared.clock.now().saturating_add_unsigned(COMMIT_RETRY.as_millis() as u64))
        }
    };
    let stage = shared.state().deliveries.done(id, stage);
    if stage == Stage::Gone {
        shared.keep_as_others(&[id]).await;
    }
    shared.state().delivery_changed.notify_one();
}

/// What a message tells the end of.
enum Ended {
    Job(Box<Job>),
    Batch(BatchId, Box<BatchView>),
}

impl Ended {
    /// Finds what a delivery is about. None: it was put into the queue again, or is gone.
    async fn find<R: Runner>(shared: &Shared<R>, id: JobId, pending: &Pending) -> io::Result<Option<Self>> {
        if pending.is_of_batch {
            let names = (pending.tenant.clone(), pending.function.clone());
            return Ok(shared.ended_batch(&names, id).map(|view| Self::Batch(id, Box::new(view))));
        }
        let found = shared.read(id).await?.filter(|(job, _)| job.state.is_terminal());
        Ok(found.map(|(job, _)| Self::Job(Box::new(job))))
    }
}

/// Makes one try, and records how it ended. Returns where the delivery stands then.
async fn try_once<R: Runner>(shared: &Shared<R>, id: JobId) -> io::Result<Stage> {
    let Some((pending, revision)) = shared.pending(id).await? else { return shared.stage(id).await };
    let Some(ended) = Ended::find(shared, id, &pending).await? else {
        // It was put into the queue again, or is gone.
        let done = Change::Delete { key: keys::delivery(id), expect: Expect::Revision(revision) };
        return Ok(if commit(shared, vec![done]).await? { Stage::Gone } else { shared.stage(id).await? });
    };
    let sent = send(shared, &ended, &pending).await;
    let now = shared.clock.now();
    let tried = Tried::of(sent, now);
    log(id, &pending, &tried);
    let chance = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let next = plan::after(pending, tried, shared.webhooks.first_retry_ms, chance, now);
    let (changes, stage) = changes(id, next, revision)?;
    Ok(if commit(shared, changes).await? { stage } else { shared.stage(id).await? })
}

fn log(job: JobId, pending: &Pending, tried: &Tried) {
    let (tenant, tries) = (&pending.tenant, pending.tries + 1);
    match tried {
        Tried::Delivered => tracing::debug!(%job, %tenant, tries, "a webhook was delivered"),
        Tried::Failed(why, _) | Tried::Refused(why) | Tried::NotTried(why) => {
            tracing::debug!(%job, %tenant, tries, why, "a webhook was not delivered");
        }
    }
}

/// Returns the changes that record what follows a try, and where the delivery stands then.
fn changes(id: JobId, next: Next, revision: Revision) -> io::Result<(Vec<Change>, Stage)> {
    let (key, expect) = (keys::delivery(id), Expect::Revision(revision));
    Ok(match next {
        Next::Done => (vec![Change::Delete { key, expect }], Stage::Gone),
        Next::Again(pending) => {
            (vec![Change::Put { key, value: serde_json::to_vec(&pending)?, expect }], Stage::Due(pending.next_at))
        }
        Next::Dead(dead) => {
            let value = serde_json::to_vec(&dead)?;
            let letter = Change::Put { key: keys::dead_letter(id), value, expect: Expect::Any };
            (vec![Change::Delete { key, expect }, letter], Stage::Dead(dead.died))
        }
    })
}

async fn send<R: Runner>(
    shared: &Shared<R>,
    ended: &Ended,
    pending: &Pending,
) -> Result<crate::delivery::sender::Answer, SendError> {
    let message = message(shared, ended, pending).await.map_err(|error| SendError::NotTried(error.to_string()))?;
    let sent = tokio::time::timeout(TRY_MAX, shared.webhooks.sender.send(message)).await;
    sent.unwrap_or_else(|_| Err(SendError::Failed(format!("the try had not ended after {} s", TRY_MAX.as_secs()))))
}

/// Makes the message of what has ended: its status, as the API shows it, and the headers of Standard Webhooks.
async fn message<R: Runner>(shared: &Shared<R>, ended: &Ended, pending: &Pending) -> io::Result<Message> {
    let (of, body) = match ended {
        Ended::Job(job) => (job.id, serde_json::to_vec(&shared.view(job).await.map_err(io::Error::other)?)?),
        Ended::Batch(id, view) => (*id, serde_json::to_vec(view)?),
    };
    let body = Bytes::from(body);
    let secrets = shared.signing_secrets(&pending.tenant).await?;
    let (id, timestamp_s) = (pending.message_id(of), jiff::Timestamp::now().as_second());
    let signatures = signatures(&secrets, &id, timestamp_s, &body);
    let headers = vec![
        ("content-type", "application/json".to_owned()),
        ("user-agent", "gannet-webhooks".to_owned()),
        ("webhook-id", id),
        ("webhook-timestamp", timestamp_s.to_string()),
        ("webhook-signature", signatures),
    ];
    let (tenant, url) = (pending.tenant.clone(), pending.url.clone());
    Ok(Message { tenant, url, headers, body, answer_within: ANSWER_MAX })
}

/// Commits the outcome of a try. Waits while the store cannot take it. Returns false if the delivery was changed
/// meanwhile, or the outcome was stored already.
async fn commit<R: Runner>(shared: &Shared<R>, changes: Vec<Change>) -> io::Result<bool> {
    loop {
        match shared.records.commit(changes.clone()).await {
            Ok(_) => return Ok(true),
            Err(CommitError::Conflict { .. }) => return Ok(false),
            Err(error @ CommitError::Invalid(_)) => return Err(io::Error::other(error)),
            // After "unknown" the same commit is made again: if the first was done, this one is a conflict.
            Err(error) => {
                tracing::warn!(%error, "the outcome of a delivery waits to be stored");
                tokio::time::sleep(COMMIT_RETRY).await;
            }
        }
    }
}

/// Removes dead letters that are too old or too many.
async fn forget_excess<R: Runner>(shared: &Shared<R>) -> io::Result<()> {
    loop {
        let excess = shared.state().deliveries.excess(shared.clock.now(), FORGET);
        if excess.is_empty() {
            return Ok(());
        }
        let delete = |id: &JobId| Change::Delete { key: keys::dead_letter(*id), expect: Expect::Any };
        shared.records.commit(excess.iter().map(delete).collect()).await.map_err(io::Error::other)?;
        // One that a client has just taken up again is none any more.
        let gone: Vec<JobId> = excess.into_iter().filter(|id| shared.state().deliveries.forget_dead(*id)).collect();
        shared.keep_as_others(&gone).await;
    }
}

impl<R: Runner> Shared<R> {
    /// Reads a pending delivery.
    pub(super) async fn pending(&self, id: JobId) -> io::Result<Option<(Pending, Revision)>> {
        let Some(entry) = self.records.get(&keys::delivery(id)).await? else { return Ok(None) };
        Ok(Some((serde_json::from_slice(&entry.value)?, entry.revision)))
    }

    /// Reads a dead letter.
    pub(super) async fn dead_letter(&self, id: JobId) -> io::Result<Option<DeadLetter>> {
        let Some(entry) = self.records.get(&keys::dead_letter(id)).await? else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&entry.value)?))
    }

    /// Reads where a delivery stands.
    async fn stage(&self, id: JobId) -> io::Result<Stage> {
        if let Some((pending, _)) = self.pending(id).await? {
            return Ok(Stage::Due(pending.next_at));
        }
        Ok(self.dead_letter(id).await?.map_or(Stage::Gone, |dead| Stage::Dead(dead.died)))
    }

    /// Notes that the records of these jobs are kept only as long as those of other jobs: no delivery needs them.
    pub(super) async fn keep_as_others(&self, ids: &[JobId]) {
        for id in ids {
            let kept_until: Option<Millis> = loop {
                match self.read(*id).await {
                    Ok(found) => {
                        break found
                            .filter(|(job, _)| job.state.is_terminal())
                            .map(|(job, _)| job.kept_until.unwrap_or(0));
                    }
                    Err(_) if self.stopping.is_cancelled() => return,
                    Err(error) => {
                        tracing::warn!(job = %id, %error, "a job's record cannot be read");
                        tokio::time::sleep(COMMIT_RETRY).await;
                    }
                }
            };
            let mut state = self.state();
            if let Some(at) = kept_until.filter(|_| !state.deliveries.holds(*id)) {
                state.kept.insert((at, *id));
            }
        }
    }
}
