//! One attempt of a job.
//!
//! ```text
//!  record: IN_PROGRESS ──┐ (both begin at once; the result waits for the record)
//!  run the function  ────┴─▶ outcome ─▶ output stored ─▶ record: ended, or in the queue again ─▶ index, waiters
//!     └ cancelled: the run is dropped, and the record is left as the client's cancel made it
//! ```
//!
//! The run begins before the record is synced, which saves one sync; whatever the run does, its result is committed
//! after the record and expects its revision. So a job that was cancelled or expired meanwhile keeps that state, and a
//! crash in between only runs the job again.

use super::shared::{COMMIT_RETRY, Shared, put_job, put_job_and_delivery};
use super::state::{Names, Running, RunningAttempt};
use crate::job::{Job, JobId, Next, State};
use crate::keys;
use crate::outcome::{Answer, Condition, Failure, Outcome, read_answer};
use crate::parts::{ArrivingAnswer, OutputTooLarge};
use crate::runner::{AnswerSink, Attempt, Runner};
use futures::FutureExt;
use futures::future::BoxFuture;
use gannet_base::manifest::JobSettings;
use gannet_base::names::RequestId;
use gannet_state::records::{Change, CommitError, Expect, Revision};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The sink of a running job.
struct Sink<R: Runner> {
    shared: Arc<Shared<R>>,
    id: JobId,
    running: Arc<Running>,
}

impl Running {
    pub(super) fn answer(&self) -> std::sync::MutexGuard<'_, ArrivingAnswer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Runner> AnswerSink for Sink<R> {
    fn recorded(&self) -> BoxFuture<'static, ()> {
        self.running.recorded.clone().cancelled_owned().boxed()
    }

    fn begin(&self, media_type: &str) {
        self.running.answer().begin(media_type);
    }

    fn push(&self, piece: &[u8]) -> Result<(), OutputTooLarge> {
        let has_part = self.running.answer().push(piece)?;
        if has_part {
            self.shared.state().tell(self.id);
        }
        Ok(())
    }
}

fn platform(code: &str, message: String) -> Failure {
    Failure { condition: Condition::Platform, code: code.into(), message, is_permanent: false }
}

/// Runs an attempt of a job that was taken from its queue, and records how it ended.
pub(super) async fn attempt<R: Runner>(
    shared: &Arc<Shared<R>>,
    names: &Names,
    id: JobId,
    request: RequestId,
    admission: R::Admission,
) {
    let mut ran = begin_and_run(shared, id, request, admission).await;
    let again = loop {
        match ran {
            Ok(Ran::Ended) => break None,
            Ok(Ran::Again(job)) => break Some(*job),
            Ok(Ran::Unclear) => {}
            Err(error) => {
                tracing::error!(job = %id, %error, "an attempt could not be recorded");
                tokio::time::sleep(COMMIT_RETRY).await;
            }
        }
        // The record tells.
        ran = shared.put_back(id).await;
    };
    let mut state = shared.state();
    state.running.remove(&id);
    state.served(names).queue.done(id, shared.clock.now());
    if let Some(job) = again {
        state.served(names).counts.retried += 1;
        // Another attempt begins its stream anew.
        state.cursors.remove(&id);
        state.add_waiting(&job, shared.clock.now());
    }
    state.tell(id);
    state.served(names).changed.notify_one();
}

/// What became of a job after an attempt.
enum Ran {
    /// It has ended, and the index knows.
    Ended,
    /// It is in the queue again.
    Again(Box<Job>),
    /// Somebody else has changed its record, or it is not known what was stored.
    Unclear,
}

async fn begin_and_run<R: Runner>(
    shared: &Arc<Shared<R>>,
    id: JobId,
    request: RequestId,
    admission: R::Admission,
) -> io::Result<Ran> {
    let Some((mut job, revision)) = shared.read(id).await? else { return Ok(Ran::Ended) };
    if job.state != State::InQueue {
        return Ok(Ran::Unclear);
    }
    let settings = shared.settings(&job);
    job.start(request, shared.clock.now());
    let running = Arc::new(Running {
        answer: Mutex::default(),
        progress: Mutex::default(),
        cancelled: CancellationToken::new(),
        recorded: CancellationToken::new(),
    });
    {
        let mut state = shared.state();
        state.running.insert(id, Arc::clone(&running));
        state.attempts.insert(request, RunningAttempt::new(&job, &running));
        state.batches.note(&job);
    }
    let begun = take_and_run(shared, &job, revision, (request, admission), &running).await;
    shared.state().attempts.remove(&request);
    let (revision, ended) = match begun? {
        Begun::Ended(revision, ended) => (revision, ended),
        Begun::NotRun => return Ok(Ran::Unclear),
    };
    job.receipt = shared.runner.receipt(request).map(Box::new);
    job.streamed = ended.is_ok() && running.answer().is_stream();
    finish(shared, job, revision, ended, &settings).await
}

/// What became of an attempt that began.
enum Begun {
    /// It ended, with an output or not. The record has this revision.
    Ended(Revision, Result<Vec<u8>, Failure>),
    /// Somebody else has changed the record, or it is not known to be stored.
    NotRun,
}

/// Commits the record of an attempt, and runs it meanwhile.
async fn take_and_run<R: Runner>(
    shared: &Arc<Shared<R>>,
    job: &Job,
    revision: Revision,
    (request, admission): (RequestId, R::Admission),
    running: &Arc<Running>,
) -> io::Result<Begun> {
    // Ordered here; it is durable later.
    let committed = shared.records.commit(vec![put_job(job, Expect::Revision(revision))?]);
    let taking = async {
        let taken = match committed.await {
            Ok(revision) => Ok(Some(revision)),
            Err(CommitError::Conflict { .. }) => Ok(None),
            // Whatever was stored, the record is read before anything is changed.
            Err(CommitError::Unknown(_)) => match shared.read(job.id).await? {
                Some((found, revision)) if found == *job => Ok(Some(revision)),
                _ => Ok(None),
            },
            Err(error) => Err(io::Error::other(error)),
        };
        if matches!(taken, Ok(Some(_))) {
            running.recorded.cancel();
        }
        taken
    };
    let running_it = run(shared, job, request, admission, running);
    tokio::pin!(taking, running_it);
    let (taken, ended) = tokio::select! {
        taken = &mut taking => match taken {
            Ok(Some(revision)) => (Some(revision), running_it.await),
            Ok(None) => (None, None),
            Err(error) => {
                tracing::error!(job = %job.id, %error, "an attempt could not be recorded; the job goes back into the queue");
                tokio::time::sleep(COMMIT_RETRY).await;
                return Ok(Begun::NotRun);
            }
        },
        ended = &mut running_it => (taking.await?, ended),
    };
    Ok(taken.zip(ended).map_or(Begun::NotRun, |(revision, ended)| Begun::Ended(revision, ended)))
}

/// Runs the function. None if the job was cancelled or its time was over: whoever does that writes the record.
async fn run<R: Runner>(
    shared: &Arc<Shared<R>>,
    job: &Job,
    request: RequestId,
    admission: R::Admission,
    running: &Arc<Running>,
) -> Option<Result<Vec<u8>, Failure>> {
    let input = match shared.input(job).await {
        Ok(input) => input,
        Err(error) => {
            tracing::error!(job = %job.id, %error, "the input of a job cannot be read");
            return Some(Err(platform("input_missing", "the input of the job cannot be read now".into())));
        }
    };
    let timeout = Duration::from_millis(job.timeout_ms);
    let (path, schedule, scheduled) = (job.path.clone(), job.schedule.clone(), job.scheduled);
    let batch = job.batch.map(|batch| batch.id);
    let attempt =
        Attempt { job: job.id, number: job.attempt, request, input, timeout, path, schedule, scheduled, batch };
    let sink = Arc::new(Sink { shared: Arc::clone(shared), id: job.id, running: Arc::clone(running) });
    let ended = tokio::select! {
        biased;
        () = running.cancelled.cancelled() => return None,
        ended = shared.runner.run(admission, attempt, sink) => ended,
    };
    let status = match ended {
        Ok(status) => status,
        Err(failure) => return Some(Err(failure)),
    };
    let (body, is_stream) = {
        let mut answer = running.answer();
        (answer.finish(), answer.is_stream())
    };
    Some(match read_answer(status, &body) {
        Answer::Output(output) => Ok(output),
        // The parts of a stream are not one answer: an object with `error` among them is a part.
        Answer::Error(_) if is_stream && (200..300).contains(&status) => Ok(body),
        Answer::Error(failure) => Err(failure),
    })
}

async fn finish<R: Runner>(
    shared: &Arc<Shared<R>>,
    mut job: Job,
    revision: Revision,
    ended: Result<Vec<u8>, Failure>,
    settings: &JobSettings,
) -> io::Result<Ran> {
    let mut others = Vec::new();
    let outcome = match ended {
        Ok(output) => {
            let stored = loop {
                match shared.store_payload(keys::output(job.id), output.clone()).await {
                    Ok(stored) => break stored,
                    Err(error) => {
                        tracing::error!(job = %job.id, %error, "an output waits to be stored");
                        tokio::time::sleep(COMMIT_RETRY).await;
                    }
                }
            };
            others.extend(stored.change);
            Outcome::Completed { output: stored.payload }
        }
        // The workers end with the server. The record stays as it is, and the next start runs the job again.
        Err(failure) if shared.stopping.is_cancelled() && failure.condition != Condition::Error => {
            tracing::info!(job = %job.id, code = failure.code, "an attempt was ended by the end of the server");
            return Ok(Ran::Ended);
        }
        Err(failure) => Outcome::Failed(failure),
    };
    let blob = job_blob(&outcome);
    let next = job.finish(&outcome, settings, shared.clock.now());
    let committed = shared.commit_until_done(&job, revision, others).await;
    if !matches!(committed, Ok(Some(_))) {
        // Nobody refers to its output, unless the record says so after all.
        let is_named = shared.read(job.id).await?.is_some_and(|(found, _)| found.output == job.output);
        if !is_named {
            shared.remove_blobs(blob).await?;
        }
        return committed.map(|_| Ran::Unclear);
    }
    if next == Next::Again {
        return Ok(Ran::Again(Box::new(job)));
    }
    shared.note_ended(&job);
    Ok(Ran::Ended)
}

fn job_blob(outcome: &Outcome) -> Vec<String> {
    match outcome {
        Outcome::Completed { output } => output.blob.iter().cloned().collect(),
        Outcome::Failed(_) => Vec::new(),
    }
}

impl<R: Runner> Shared<R> {
    /// Ends the jobs among these that are in one of the states, in one commit, and returns how many. Those that changed
    /// meanwhile are ended one by one. There are at most 200.
    pub(super) async fn end_together(
        &self,
        ids: &[JobId],
        states: &[State],
        end: impl Fn(&mut Job),
    ) -> io::Result<u64> {
        let (mut jobs, mut changes) = (Vec::new(), Vec::new());
        for id in ids {
            match self.read(*id).await? {
                Some((mut job, revision)) if states.contains(&job.state) => {
                    end(&mut job);
                    // It may have changed since it was found, so that it is not to be ended any more.
                    if job.state.is_terminal() {
                        changes.extend(put_job_and_delivery(&job, Expect::Revision(revision))?);
                        jobs.push(job);
                    }
                }
                Some((job, _)) if job.state.is_terminal() => self.note_ended(&job),
                _ => {}
            }
        }
        match self.records.commit(changes).await {
            Ok(_) => {
                jobs.iter().for_each(|job| self.note_ended(job));
                return Ok(jobs.len() as u64);
            }
            Err(CommitError::Conflict { .. } | CommitError::Unknown(_)) => {}
            Err(error) => return Err(io::Error::other(error)),
        }
        let mut ended = 0;
        for job in jobs {
            while let Some((mut job, revision)) =
                self.read(job.id).await?.filter(|(job, _)| states.contains(&job.state))
            {
                end(&mut job);
                if !job.state.is_terminal() {
                    break;
                }
                if self.commit_until_done(&job, revision, Vec::new()).await?.is_some() {
                    self.note_ended(&job);
                    ended += 1;
                }
            }
        }
        Ok(ended)
    }

    /// Looks at the record of a job whose attempt is over or did not run: what is to be done with it?
    async fn put_back(&self, id: JobId) -> io::Result<Ran> {
        let Some((mut job, revision)) = self.read(id).await? else { return Ok(Ran::Ended) };
        match job.state {
            State::InQueue => Ok(Ran::Again(Box::new(job))),
            // What was not known to be stored was stored after all, and nobody runs it.
            State::InProgress => {
                let lost = platform("attempt_lost", "it was not known whether the attempt was recorded".into());
                let next = job.finish(&Outcome::Failed(lost), &self.settings(&job), self.clock.now());
                if self.commit_until_done(&job, revision, Vec::new()).await?.is_none() {
                    return Ok(Ran::Unclear);
                }
                if next == Next::Again {
                    return Ok(Ran::Again(Box::new(job)));
                }
                self.note_ended(&job);
                Ok(Ran::Ended)
            }
            _ => {
                self.note_ended(&job);
                Ok(Ran::Ended)
            }
        }
    }

    /// Ends a job that waits, with this outcome. Does nothing if it does not wait any more.
    pub(super) async fn end_waiting(&self, id: JobId, outcome: &Outcome) -> io::Result<()> {
        let found = self.read(id).await?;
        let Some((mut job, revision)) = found.filter(|(job, _)| job.state == State::InQueue) else {
            let mut state = self.state();
            for served in state.functions.values_mut() {
                served.queue.remove(id);
            }
            return Ok(());
        };
        // Without settings there is no further attempt.
        job.finish(outcome, &JobSettings { retries: 0, ..JobSettings::default() }, self.clock.now());
        if self.commit_until_done(&job, revision, Vec::<Change>::new()).await?.is_some() {
            self.note_ended(&job);
        }
        Ok(())
    }

    /// Notes in the index that a job which waited or ran has ended, unless it knows.
    pub(super) fn note_ended(&self, job: &Job) {
        let mut state = self.state();
        let names = (job.tenant.clone(), job.function.clone());
        state.served(&names).queue.remove(job.id);
        if !state.has_ended(job) {
            let used = state.tenant(&job.tenant);
            used.queued = used.queued.saturating_sub(1);
            used.bytes = used.bytes.saturating_add(job.output.as_ref().map_or(0, |output| output.bytes));
            state.add_ended(job);
        }
        if let Some(running) = state.running.get(&job.id) {
            running.cancelled.cancel();
        }
        state.tell(job.id);
        state.served(&names).changed.notify_one();
    }
}
