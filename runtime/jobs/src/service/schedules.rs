//! The task that makes the jobs of schedules.
//!
//! ```text
//!  look: manifests of the current versions + those made by API ─▶ known: pattern, record, next time
//!    ▲                                                                │ the earliest time comes
//!    └ a function changed, 30 s passed, a commit was refused ◀────────┤
//!                                                                     ▼
//!                              one commit: the job's record, its input, and the schedule's record with this time
//! ```
//!
//! The commit expects the schedule's record as it was read, and that the job, whose id follows from the time, does not
//! exist. So two tasks cannot both make a job for one time, and a crash leaves both records or none of them.
//!
//! Times are those of the wall's clock, unlike elsewhere in this crate: at three o'clock means at three o'clock.

use super::dispatch;
use super::shared::{COMMIT_RETRY, Shared, put_job};
use super::state::Names;
use super::submit::{SubmitError, concurrency_key};
use crate::job::{Job, JobId, Millis, Policy, State};
use crate::keys;
use crate::outcome::Payload;
use crate::queue::serial_key;
use crate::runner::Runner;
use crate::schedule::{Decision, Due, Fired, SkipReason, decide, due, next_after};
use futures::future::join_all;
use gannet_base::cron::Cron;
use gannet_base::manifest::Schedule;
use gannet_base::names::{ScheduleName, TenantName};
use gannet_state::records::{Change, CommitError, Entry, Expect, Revision};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often the task looks which schedules there are, at least.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The longest sleep: the clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(5);
/// Records that are read at once.
const PAGE: usize = 1_000;
/// Pause before a schedule that could not fire is tried again, in milliseconds.
const RETRY_MS: Millis = 1_000;
/// Schedules that fire at once.
const AT_ONCE: usize = 64;

/// A schedule of a function.
pub(super) type ScheduleKey = (Names, ScheduleName);

/// Who made a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleSource {
    /// The manifest of the function's current version.
    Manifest,
    /// A client.
    Api,
}

/// What the task knows of a schedule.
struct Known {
    schedule: Schedule,
    cron: Cron,
    fired: Fired,
    revision: Revision,
    next: Option<Millis>,
}

pub(super) fn wall_clock() -> Millis {
    jiff::Timestamp::now().as_millisecond()
}

pub(super) fn put_fired(key: &ScheduleKey, fired: &Fired, expect: Expect) -> io::Result<Change> {
    let ((tenant, function), name) = key;
    Ok(Change::Put { key: keys::fired(tenant, function, name), value: serde_json::to_vec(fired)?, expect })
}

/// Makes the jobs of all schedules until the service stops.
pub(super) async fn keep<R: Runner>(shared: Arc<Shared<R>>) {
    let mut known = BTreeMap::new();
    loop {
        match look(&shared, &known).await {
            Ok(found) => known = found,
            Err(error) => tracing::warn!(%error, "schedules could not be read"),
        }
        let until = Instant::now() + LOOK_EVERY;
        while Instant::now() < until {
            let must_look = fire_due(&shared, &mut known).await;
            let next = known.values().filter_map(|known| known.next).min();
            let wait = next.map_or(SLEEP_MAX, |next| until_wall(next).min(SLEEP_MAX));
            tokio::select! {
                () = shared.schedules.changed.notified() => break,
                () = tokio::time::sleep(wait) => {}
                () = shared.stopping.cancelled() => return,
            }
            if must_look {
                break;
            }
        }
    }
}

/// Returns how long it is until a time. Never nothing, so that what cannot be done is not tried without a pause.
fn until_wall(time: Millis) -> Duration {
    let wait = Duration::from_millis(u64::try_from(time.saturating_sub(wall_clock())).unwrap_or(0));
    wait.max(Duration::from_millis(20))
}

/// Reads all records with a prefix.
async fn all_records<R: Runner>(shared: &Shared<R>, prefix: &str) -> io::Result<Vec<Entry>> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = shared.records.page(prefix, after.as_deref(), PAGE).await?;
        after = page.entries.last().map(|entry| entry.key.clone()).or(after);
        let is_last = !page.more || page.entries.is_empty();
        all.extend(page.entries);
        if is_last {
            return Ok(all);
        }
    }
}

/// Returns all schedules that there are now, or those of one tenant. Those of suspended tenants are not among them, and
/// begin anew when the tenant is resumed.
pub(super) async fn current<R: Runner>(
    shared: &Shared<R>,
    only: Option<&TenantName>,
) -> io::Result<BTreeMap<ScheduleKey, (Schedule, ScheduleSource)>> {
    let mut all = BTreeMap::new();
    let prefix = only.map_or_else(|| keys::SCHEDULES.to_owned(), |tenant| format!("{}{tenant}/", keys::SCHEDULES));
    for entry in all_records(shared, &prefix).await? {
        let Some((tenant, function, name)) = keys::schedule_of(&entry.key) else { continue };
        if shared.runner.function(&tenant, &function).is_none() {
            // It went with its function.
            let gone = Change::Delete { key: entry.key, expect: Expect::Revision(entry.revision) };
            commit_unless_changed(shared, vec![gone]).await?;
            continue;
        }
        let schedule = serde_json::from_slice(&entry.value).map_err(io::Error::other)?;
        if shared.runner.job_limits(&tenant).is_some() {
            all.insert(((tenant, function), name), (schedule, ScheduleSource::Api));
        }
    }
    for (tenant, function, name, schedule) in shared.runner.schedules() {
        if only.is_none_or(|only| *only == tenant) {
            all.insert(((tenant, function), name), (schedule, ScheduleSource::Manifest));
        }
    }
    Ok(all)
}

async fn commit_unless_changed<R: Runner>(shared: &Shared<R>, changes: Vec<Change>) -> io::Result<Option<Revision>> {
    match shared.records.commit(changes).await {
        Ok(revision) => Ok(Some(revision)),
        Err(CommitError::Conflict { .. }) => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Finds out which schedules there are, and begins the records of new ones.
async fn look<R: Runner>(
    shared: &Shared<R>,
    before: &BTreeMap<ScheduleKey, Known>,
) -> io::Result<BTreeMap<ScheduleKey, Known>> {
    let now = wall_clock();
    let all = current(shared, None).await?;
    let mut stored = BTreeMap::new();
    for entry in all_records(shared, keys::FIRED).await? {
        let Some((tenant, function, name)) = keys::schedule_of(&entry.key) else { continue };
        let key = ((tenant, function), name);
        if all.contains_key(&key) {
            let fired: Fired = serde_json::from_slice(&entry.value).map_err(io::Error::other)?;
            stored.insert(key, (fired, entry.revision));
        } else {
            let gone = Change::Delete { key: entry.key, expect: Expect::Revision(entry.revision) };
            commit_unless_changed(shared, vec![gone]).await?;
        }
    }
    let mut known = BTreeMap::new();
    for (key, (schedule, _)) in all {
        let same = before.get(&key).filter(|known| known.schedule == schedule).map(|known| known.cron.clone());
        let cron = match same.map_or_else(|| schedule.check(jiff::Timestamp::now()), Ok) {
            Ok(cron) => cron,
            Err(error) => {
                tracing::warn!(schedule = %key.1, function = %key.0.1, %error, "a schedule cannot fire any more");
                continue;
            }
        };
        let found = stored.remove(&key);
        let expect = found.as_ref().map_or(Expect::Absent, |(_, revision)| Expect::Revision(*revision));
        let fired = match &found {
            Some((fired, _)) => fired.clone().going_on(&schedule, now),
            None => Fired::begin(&schedule, now),
        };
        let revision = match found.filter(|(found, _)| *found == fired) {
            Some((_, revision)) => Some(revision),
            None => commit_unless_changed(shared, vec![put_fired(&key, &fired, expect)?]).await?,
        };
        // If somebody else has just written it, the next look finds that.
        if let Some(revision) = revision {
            let next = next_after(&cron, fired.after);
            known.insert(key, Known { schedule, cron, fired, revision, next });
        }
    }
    Ok(known)
}

/// Fires the schedules that are due. Returns whether one of them was changed by somebody else.
async fn fire_due<R: Runner>(shared: &Arc<Shared<R>>, known: &mut BTreeMap<ScheduleKey, Known>) -> bool {
    let now = wall_clock();
    let mut ready: Vec<_> = known.iter_mut().filter(|(_, known)| known.next.is_some_and(|next| next <= now)).collect();
    let mut must_look = false;
    for some in ready.chunks_mut(AT_ONCE) {
        let firing = some.iter_mut().map(|(key, known)| fire(shared, key, known, now));
        for (fired, (key, known)) in join_all(firing).await.into_iter().zip(some.iter_mut()) {
            match fired {
                Ok(is_current) => must_look |= !is_current,
                Err(error) => {
                    tracing::warn!(schedule = %key.1, function = %key.0.1, tenant = %key.0.0, %error, "a schedule waits to fire");
                    known.next = Some(now.saturating_add(RETRY_MS));
                }
            }
        }
    }
    must_look
}

/// Does what is due of one schedule. Returns false if its record was changed by somebody else.
async fn fire<R: Runner>(
    shared: &Arc<Shared<R>>,
    key: &ScheduleKey,
    known: &mut Known,
    now: Millis,
) -> Result<bool, SubmitError> {
    let mut fired = known.fired.clone();
    let time = match due(&known.cron, known.schedule.missed, fired.after, now) {
        Due::Later(next) => {
            known.next = next;
            return Ok(true);
        }
        Due::Missed(time) => {
            fired.skip(time, SkipReason::Missed);
            return note(shared, key, known, fired).await;
        }
        Due::Fire(time) => time,
    };
    // None for suspended tenants, and their times are not missed ones either.
    if shared.runner.job_limits(&key.0.0).is_none() {
        return Ok(false);
    }
    let previous_runs = match fired.last_job {
        Some(job) => shared.read(job).await?.is_some_and(|(job, _)| !job.state.is_terminal()),
        None => false,
    };
    let decision = decide(known.schedule.overlap, previous_runs);
    if decision == Decision::Skip {
        fired.skip(time, SkipReason::Overlap);
        return note(shared, key, known, fired).await;
    }
    let id = JobId::scheduled(&key.0.0, &key.0.1, &key.1, time);
    fired.fire(time, id);
    let firing = Firing { key, schedule: &known.schedule, id, time, in_turn: decision == Decision::SubmitInTurn };
    match make(shared, &firing, &fired, Expect::Revision(known.revision)).await {
        Ok(Some(revision)) => {
            known.next = next_after(&known.cron, fired.after);
            (known.fired, known.revision) = (fired, revision);
            Ok(true)
        }
        Ok(None) | Err(SubmitError::NoFunction) => Ok(false),
        Err(error @ SubmitError::LimitReached { .. }) => {
            tracing::info!(schedule = %key.1, function = %key.0.1, tenant = %key.0.0, %error, "a schedule is skipped");
            let mut fired = known.fired.clone();
            fired.skip(time, SkipReason::Limit);
            note(shared, key, known, fired).await
        }
        Err(error) => Err(error),
    }
}

/// Writes that a time was left out.
async fn note<R: Runner>(
    shared: &Shared<R>,
    key: &ScheduleKey,
    known: &mut Known,
    fired: Fired,
) -> Result<bool, SubmitError> {
    let change = put_fired(key, &fired, Expect::Revision(known.revision))?;
    let Some(revision) = commit_unless_changed(shared, vec![change]).await? else { return Ok(false) };
    known.next = next_after(&known.cron, fired.after);
    (known.fired, known.revision) = (fired, revision);
    Ok(true)
}

/// A job that a schedule makes.
pub(super) struct Firing<'a> {
    pub(super) key: &'a ScheduleKey,
    pub(super) schedule: &'a Schedule,
    pub(super) id: JobId,
    /// The time that it is made for.
    pub(super) time: Millis,
    /// Whether it waits for those that the schedule made before.
    pub(super) in_turn: bool,
}

/// Makes a job, together with the schedule's record, which must be as expected. Returns that record's revision, or None
/// if somebody else has changed it.
pub(super) async fn make<R: Runner>(
    shared: &Arc<Shared<R>>,
    firing: &Firing<'_>,
    fired: &Fired,
    expect: Expect,
) -> Result<Option<Revision>, SubmitError> {
    let (names, name) = firing.key;
    let function = shared.runner.function(&names.0, &names.1).ok_or(SubmitError::NoFunction)?;
    let limits = shared.runner.job_limits(&names.0).ok_or(SubmitError::NoFunction)?;
    let settings = &function.settings;
    let input = serde_json::to_vec(&firing.schedule.input).map_err(io::Error::other)?;
    let bytes = input.len() as u64;
    if !shared.runner.has_room(bytes) {
        return Err(SubmitError::Full);
    }
    let empty = Payload { bytes: 0, blob: None };
    let mut job = Job::submitted(names.clone(), &Policy::default(), settings, empty, shared.clock.now());
    (job.id, job.schedule, job.scheduled) = (firing.id, Some(name.to_string()), Some(firing.time));
    job.path = Some(firing.schedule.path.clone()).filter(|path| path != "/");
    job.key = if firing.in_turn { Some(serial_key(name.as_str())) } else { concurrency_key(&settings.key, &input) };
    let bytes = bytes + crate::job::JOB_BYTES;
    shared.reserve(&names.0, (1, bytes), limits)?;
    let made = store(shared, firing.key, &mut job, input, (fired, expect)).await;
    match &made {
        Ok(Made::New(_)) => {
            shared.state().add_waiting(&job, shared.clock.now());
            dispatch::serve(shared, names);
        }
        _ => shared.release(&names.0, (1, bytes)),
    }
    Ok(match made? {
        Made::New(revision) | Made::Before(revision) => Some(revision),
        Made::Changed => None,
    })
}

/// What became of a job that was to be made.
enum Made {
    /// It is stored.
    New(Revision),
    /// It had been made before: the clock was put back by more than a day. The schedule's record is stored.
    Before(Revision),
    /// The schedule's record is not as expected.
    Changed,
}

async fn store<R: Runner>(
    shared: &Shared<R>,
    key: &ScheduleKey,
    job: &mut Job,
    input: Vec<u8>,
    (fired, expect): (&Fired, Expect),
) -> Result<Made, SubmitError> {
    let stored = shared.store_payload(keys::input(job.id), input).await?;
    job.input = stored.payload;
    let record = put_fired(key, fired, expect)?;
    let mut changes: Vec<Change> = stored.change.into_iter().collect();
    changes.extend([record.clone(), put_job(job, Expect::Absent)?]);
    let ((tenant, function), name) = key;
    let record_key = keys::fired(tenant, function, name);
    let mut is_unknown = false;
    loop {
        match shared.records.commit(changes.clone()).await {
            Ok(revision) => return Ok(Made::New(revision)),
            Err(CommitError::Conflict { .. }) => {}
            Err(CommitError::Unknown(why)) => {
                tracing::warn!(job = %job.id, why, "it is not known whether the job of a schedule was stored");
                is_unknown = true;
                tokio::time::sleep(COMMIT_RETRY).await;
            }
            Err(CommitError::Full) => return Err(SubmitError::Full),
            Err(error) => return Err(io::Error::other(error).into()),
        }
        let found = shared.records.get(&record_key).await?;
        let is_as_expected = match (&found, expect) {
            (None, Expect::Absent) => true,
            (Some(entry), Expect::Revision(revision)) => entry.revision == revision,
            _ => false,
        };
        if !is_as_expected {
            // Ours, if it could not be told before.
            let own = found
                .filter(|_| is_unknown)
                .filter(|entry| serde_json::from_slice::<Fired>(&entry.value).is_ok_and(|stored| stored == *fired));
            let is_waiting = shared.read(job.id).await?.is_some_and(|(found, _)| found.state == State::InQueue);
            return Ok(own.filter(|_| is_waiting).map_or(Made::Changed, |entry| Made::New(entry.revision)));
        }
        if shared.read(job.id).await?.is_some() {
            let revision = commit_unless_changed(shared, vec![record]).await?;
            return Ok(revision.map_or(Made::Changed, Made::Before));
        }
        if shared.stopping.is_cancelled() {
            return Err(io::Error::other("the server stops").into());
        }
    }
}
