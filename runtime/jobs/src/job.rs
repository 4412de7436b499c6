//! The record of a job and its states.
//!
//! ```text
//!                ┌────────── retry by the client ◀────────────┐
//!                ▼                                            │
//!  submit ─▶ IN_QUEUE ──start──▶ IN_PROGRESS ──finish──▶ COMPLETED
//!                ▲ │ │                │ │ └─────finish──▶ FAILED, TIMED_OUT
//!                │ │ └─────cancel─────┼─┴─cancel────────▶ CANCELLED
//!                │ └───────expire─────┴───expire────────▶ TIMED_OUT
//!                └───────finish, if it may be tried again
//! ```
//!
//! Invariant: a terminal state is final, but for a client's explicit retry of a job that failed. Every change is
//! committed with the revision of the record that it was made from, so of two changes only one is made.

use crate::outcome::{Condition, Outcome, Payload};
use gannet_base::bill::Receipt;
use gannet_base::manifest::JobSettings;
use gannet_base::names::{FunctionName, RequestId, ScheduleName, TenantName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// Attempts that failed because of the platform are repeated this often, whatever `jobs.retries` says.
const PLATFORM_FAULTS_MAX: u32 = 20;
/// Bytes that a job counts for beside its input and output: its record, and what is kept of it in memory.
pub const JOB_BYTES: u64 = 1024;
/// Milliseconds until an attempt that could not begin is made again.
const NOT_BEGUN_MS: i64 = 1_000;
/// Milliseconds for which the result of a synchronous job is kept.
const SYNC_RESULT_MS: i64 = 60_000;

/// The id of a job: a UUIDv7, so that ids sort by the time of submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(RequestId);

impl JobId {
    /// Returns a new id.
    pub fn new() -> Self {
        Self(RequestId::new())
    }

    /// Parses an id.
    pub fn parse(text: &str) -> Option<Self> {
        RequestId::parse(text).map(Self)
    }

    /// Returns the id of the job that a schedule makes for a time, always the same: a UUIDv8 (RFC 9562, 5.8) of that time
    /// in milliseconds, as in a UUIDv7, and of a hash of the names and the time.
    pub fn scheduled(tenant: &TenantName, function: &FunctionName, schedule: &ScheduleName, time: Millis) -> Self {
        let hash = Sha256::digest(format!("{tenant}/{function}/{schedule}/{time}").as_bytes());
        let [_, _, a, b, c, d, e, f] = time.to_be_bytes();
        let mut bytes = [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (byte, hashed) in bytes.iter_mut().skip(6).zip(hash) {
            *byte = hashed;
        }
        let [.., version, _, variant, _, _, _, _, _, _, _] = &mut bytes;
        *version = *version & 0x0f | 0x80;
        *variant = *variant & 0x3f | 0x80;
        Self(RequestId::from_bytes(bytes))
    }
}

impl JobId {
    /// Returns the id of an item of a batch, always the same: a UUIDv8 of the batch's time, the index, and a hash of the
    /// batch's id. So the items of a batch sort by their index.
    pub fn item(batch: BatchId, index: u32) -> Self {
        let of_batch = batch.0.to_bytes();
        let hash = Sha256::digest(of_batch);
        let [time @ .., _, _, _, _, _, _, _, _, _, _] = of_batch;
        let [t0, t1, t2, t3, t4, t5] = time;
        let [h0, h1, h2, h3, h4, h5, ..] = <[u8; 32]>::from(hash);
        // The 26 bits of the index surround the version and the variant.
        let [.., a] = (index >> 22).to_be_bytes();
        let [.., b] = (index >> 14).to_be_bytes();
        let [.., c] = (index >> 8).to_be_bytes();
        let [.., d] = index.to_be_bytes();
        let (a, c) = (0x80 | a & 0x0f, 0x80 | c & 0x3f);
        let bytes = [t0, t1, t2, t3, t4, t5, a, b, c, d, h0, h1, h2, h3, h4, h5];
        Self(RequestId::from_bytes(bytes))
    }
}

/// The id of a batch: a UUIDv7, as that of a job.
pub type BatchId = JobId;

/// Which item of which batch a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRef {
    /// The batch.
    pub id: BatchId,
    /// The number of the item in it, from 0.
    pub index: u32,
}

impl Default for JobId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since 1970, UTC.
pub type Millis = i64;

/// The state of a job, in the words of Runpod's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = JobState)]
pub enum State {
    /// It waits for a worker.
    InQueue,
    /// An attempt runs.
    InProgress,
    /// It has its output.
    Completed,
    /// It failed, and is not tried again.
    Failed,
    /// A client cancelled it.
    Cancelled,
    /// Its time was over.
    TimedOut,
}

impl State {
    /// Whether it is final.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::InQueue | Self::InProgress)
    }

    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InQueue => "IN_QUEUE",
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::TimedOut => "TIMED_OUT",
        }
    }
}

/// What a client asks for when it submits a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Milliseconds that one attempt may take. None: `jobs.timeout_s`.
    pub execution_timeout_ms: Option<u64>,
    /// Milliseconds from the submission until the job is given up. None: `jobs.ttl_s`.
    pub ttl_ms: Option<u64>,
    /// Milliseconds from the submission until the first attempt may begin.
    pub delay_ms: Option<u64>,
    /// Whether other jobs go first.
    pub low_priority: bool,
}

/// The record of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The tenant that owns its function.
    pub tenant: TenantName,
    /// Its function.
    pub function: FunctionName,
    /// Its state.
    pub state: State,
    /// When it was submitted.
    pub submitted: Millis,
    /// When it is given up if it has not ended.
    pub expires: Millis,
    /// Milliseconds that one attempt may take.
    pub timeout_ms: u64,
    /// Whether other jobs go first.
    #[serde(default, skip_serializing_if = "is_false")]
    pub low: bool,
    /// Whether a client waits for it, and its result is kept only for a minute.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sync: bool,
    /// Its input.
    pub input: Payload,
    /// The value of its concurrency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The address that is told about its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// The schedule that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The time of the schedule that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<Millis>,
    /// Which item of which batch it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchRef>,
    /// The path at which its function gets it, if not `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Number of its latest attempt; 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// Failed attempts that count against `jobs.retries`.
    #[serde(default)]
    pub failures: u32,
    /// Attempts that the platform failed.
    #[serde(default)]
    pub platform_faults: u32,
    /// Attempts for which its function could not be started, in a row.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_failures: u32,
    /// How often a client has put it into the queue again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retried: u32,
    /// The next attempt does not begin before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Millis>,
    /// When its latest attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Millis>,
    /// The request of its latest attempt: the id of its receipt and of its log lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Millis>,
    /// When its record is removed, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<Millis>,
    /// Its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Payload>,
    /// Whether the output is the list of a stream's parts.
    #[serde(default, skip_serializing_if = "is_false")]
    pub streamed: bool,
    /// Why the latest attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The stable code of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// The receipt of the latest attempt, if the ledger may not have it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Box<Receipt>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The job has ended.
    Ended,
    /// It is in the queue again.
    Again,
}

impl Job {
    /// Returns the record of a job that is being submitted.
    pub fn submitted(
        (tenant, function): (TenantName, FunctionName),
        policy: &Policy,
        settings: &JobSettings,
        input: Payload,
        now: Millis,
    ) -> Self {
        let ttl_ms = policy.ttl_ms.unwrap_or_else(|| settings.ttl_s.saturating_mul(1000));
        Self {
            id: JobId::new(),
            tenant,
            function,
            state: State::InQueue,
            submitted: now,
            expires: now.saturating_add_unsigned(ttl_ms),
            timeout_ms: policy.execution_timeout_ms.unwrap_or_else(|| settings.timeout_s.saturating_mul(1000)),
            low: policy.low_priority,
            sync: false,
            input,
            key: None,
            webhook: None,
            schedule: None,
            scheduled: None,
            batch: None,
            path: None,
            attempt: 0,
            failures: 0,
            platform_faults: 0,
            start_failures: 0,
            retried: 0,
            not_before: policy.delay_ms.map(|delay_ms| now.saturating_add_unsigned(delay_ms)),
            started: None,
            request: None,
            ended: None,
            kept_until: None,
            output: None,
            streamed: false,
            error: None,
            error_code: None,
            receipt: None,
        }
    }

    /// Begins an attempt of a queued job.
    pub fn start(&mut self, request: RequestId, now: Millis) {
        self.state = State::InProgress;
        self.attempt = self.attempt.saturating_add(1);
        self.not_before = None;
        self.started = Some(now);
        self.request = Some(request);
    }

    /// Ends the attempt: the job has ended, or is in the queue again.
    pub fn finish(&mut self, outcome: &Outcome, settings: &JobSettings, now: Millis) -> Next {
        let failure = match outcome {
            Outcome::Completed { output } => {
                self.output = Some(output.clone());
                (self.error, self.error_code) = (None, None);
                self.end(State::Completed, settings, now);
                return Next::Ended;
            }
            Outcome::Failed(failure) => failure,
        };
        (self.error, self.error_code) = (Some(failure.message.clone()), Some(failure.code.clone()));
        if now >= self.expires {
            self.end(State::TimedOut, settings, now);
            return Next::Ended;
        }
        if failure.condition == Condition::NotStarted {
            self.start_failures = self.start_failures.saturating_add(1);
        } else if failure.condition != Condition::NotBegun {
            self.start_failures = 0;
        }
        let delay_ms = if failure.condition == Condition::NotBegun {
            Some(NOT_BEGUN_MS)
        } else if failure.condition == Condition::NotStarted {
            let may_retry = u64::from(self.start_failures) < settings.start_attempts;
            may_retry.then(|| backoff_ms(self.start_failures, 1, 60))
        } else if failure.condition == Condition::Platform {
            self.platform_faults = self.platform_faults.saturating_add(1);
            (self.platform_faults <= PLATFORM_FAULTS_MAX).then(|| backoff_ms(self.platform_faults, 1, 60))
        } else {
            self.failures = self.failures.saturating_add(1);
            let may_retry = !failure.is_permanent
                && u64::from(self.failures) <= settings.retries
                && settings.retry_on.iter().any(|condition| condition == failure.condition.as_str());
            may_retry.then(|| backoff_ms(self.failures, settings.backoff_s, settings.backoff_max_s))
        };
        if let Some(delay_ms) = delay_ms {
            self.state = State::InQueue;
            self.not_before = Some(now.saturating_add(delay_ms));
            return Next::Again;
        }
        let state = if failure.condition == Condition::Timeout { State::TimedOut } else { State::Failed };
        self.end(state, settings, now);
        Next::Ended
    }

    /// Ends a job that has not ended, because a client says so.
    pub fn cancel(&mut self, settings: &JobSettings, now: Millis) {
        self.end(State::Cancelled, settings, now);
    }

    /// Ends a job whose time is over.
    pub fn expire(&mut self, settings: &JobSettings, now: Millis) {
        self.error = Some("the job had not ended when its ttl was over".into());
        self.error_code = Some("ttl_exceeded".into());
        self.end(State::TimedOut, settings, now);
    }

    /// Puts a failed job into the queue again, as if it had just been submitted.
    pub fn retry(&mut self, now: Millis) {
        let ttl = self.expires.saturating_sub(self.submitted);
        self.state = State::InQueue;
        (self.submitted, self.expires) = (now, now.saturating_add(ttl));
        (self.failures, self.platform_faults, self.start_failures) = (0, 0, 0);
        self.retried = self.retried.saturating_add(1);
        (self.ended, self.kept_until, self.not_before, self.started) = (None, None, None, None);
        (self.output, self.streamed, self.error, self.error_code) = (None, false, None, None);
    }

    fn end(&mut self, state: State, settings: &JobSettings, now: Millis) {
        let kept_ms =
            if self.sync { SYNC_RESULT_MS } else { i64::try_from(settings.result_s).unwrap_or(i64::MAX / 1000) * 1000 };
        self.state = state;
        self.not_before = None;
        self.ended = Some(now);
        self.kept_until = Some(now.saturating_add(kept_ms));
    }

    /// Returns how long it waited before its latest attempt, in milliseconds.
    pub fn delay_ms(&self) -> Option<u64> {
        self.started.map(|started| u64::try_from(started.saturating_sub(self.submitted)).unwrap_or(0))
    }

    /// Returns how long its latest attempt has run, in milliseconds.
    pub fn execution_ms(&self) -> Option<u64> {
        let (started, ended) = (self.started?, self.ended?);
        Some(u64::try_from(ended.saturating_sub(started)).unwrap_or(0))
    }

    /// Returns the bytes that it takes of its tenant's quota.
    pub fn stored_bytes(&self) -> u64 {
        JOB_BYTES + self.input.bytes + self.output.as_ref().map_or(0, |output| output.bytes)
    }
}

/// Returns the delay before an attempt: `first_s`, doubled with each failure, at most `most_s`.
fn backoff_ms(failures: u32, first_s: u64, most_s: u64) -> i64 {
    let doubled = first_s.saturating_mul(1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX));
    i64::try_from(doubled.min(most_s).saturating_mul(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::outcome::Failure;
    use proptest::prelude::*;

    fn settings(retries: u64, retry_on: &[&str]) -> JobSettings {
        let retry_on = retry_on.iter().map(ToString::to_string).collect();
        JobSettings { retries, retry_on, backoff_s: 5, backoff_max_s: 12, ..JobSettings::default() }
    }

    fn job(settings: &JobSettings) -> Job {
        let names = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        Job::submitted(names, &Policy::default(), settings, Payload { bytes: 2, blob: None }, 1_000)
    }

    fn failed(condition: Condition) -> Outcome {
        Outcome::Failed(Failure { condition, code: "x".into(), message: "why".into(), is_permanent: false })
    }

    #[test]
    fn attempts_are_repeated_by_condition_with_growing_delays_up_to_a_cap() {
        let settings = settings(3, &["killed"]);
        let mut job = job(&settings);
        for delay in [5_000, 10_000, 12_000] {
            job.start(RequestId::new(), 2_000);
            assert_eq!(job.finish(&failed(Condition::Killed), &settings, 3_000), Next::Again);
            assert_eq!((job.state, job.not_before), (State::InQueue, Some(3_000 + delay)));
        }
        job.start(RequestId::new(), 20_000);
        assert_eq!(job.finish(&failed(Condition::Killed), &settings, 21_000), Next::Ended);
        assert_eq!((job.state, job.attempt, job.execution_ms()), (State::Failed, 4, Some(1_000)));
        // A condition that is not listed ends the job at once.
        let mut other = super::tests::job(&settings);
        other.start(RequestId::new(), 2_000);
        assert_eq!(other.finish(&failed(Condition::Error), &settings, 3_000), Next::Ended);
        assert_eq!((other.state, other.error.as_deref()), (State::Failed, Some("why")));
    }

    #[test]
    fn a_fault_of_the_platform_costs_no_retry() {
        let settings = settings(0, &[]);
        let mut job = job(&settings);
        job.start(RequestId::new(), 2_000);
        assert_eq!(job.finish(&failed(Condition::Platform), &settings, 3_000), Next::Again);
        assert_eq!((job.failures, job.not_before), (0, Some(4_000)));
        while job.state == State::InQueue {
            job.start(RequestId::new(), 2_000);
            job.finish(&failed(Condition::Platform), &settings, 3_000);
        }
        assert_eq!((job.state, job.attempt), (State::Failed, PLATFORM_FAULTS_MAX + 1));
    }

    #[test]
    fn a_job_whose_function_never_starts_fails_after_so_many_attempts() {
        let settings = JobSettings { start_attempts: 4, ..settings(0, &[]) };
        let mut job = job(&settings);
        let mut delays = Vec::new();
        for _ in 0..3 {
            job.start(RequestId::new(), 2_000);
            assert_eq!(job.finish(&failed(Condition::NotStarted), &settings, 3_000), Next::Again);
            delays.push(job.not_before.unwrap() - 3_000);
        }
        assert_eq!((delays, job.failures, job.platform_faults), (vec![1_000, 2_000, 4_000], 0, 0));
        job.start(RequestId::new(), 2_000);
        assert_eq!(job.finish(&failed(Condition::NotStarted), &settings, 3_000), Next::Ended);
        assert_eq!((job.state, job.attempt), (State::Failed, 4));
    }

    #[test]
    fn a_job_that_cannot_begin_waits_until_its_time_is_over() {
        let settings = settings(0, &[]);
        let mut job = job(&settings);
        for _ in 0..100 {
            job.start(RequestId::new(), 2_000);
            assert_eq!(job.finish(&failed(Condition::NotBegun), &settings, 3_000), Next::Again);
        }
        job.start(RequestId::new(), 2_000);
        let expires = job.expires;
        assert_eq!(job.finish(&failed(Condition::NotBegun), &settings, expires), Next::Ended);
        assert_eq!(job.state, State::TimedOut);
    }

    #[test]
    fn results_are_kept_as_promised() {
        let settings = JobSettings { result_s: 1_800, ..settings(0, &[]) };
        let output = Outcome::Completed { output: Payload { bytes: 3, blob: None } };
        for (sync, kept_ms) in [(false, 1_800_000), (true, 60_000)] {
            let mut job = job(&settings);
            job.sync = sync;
            job.start(RequestId::new(), 2_000);
            job.finish(&output, &settings, 5_000);
            assert_eq!((job.state, job.kept_until), (State::Completed, Some(5_000 + kept_ms)));
            assert_eq!(
                (job.delay_ms(), job.execution_ms(), job.stored_bytes()),
                (Some(1_000), Some(3_000), JOB_BYTES + 5)
            );
        }
    }

    #[test]
    fn the_job_of_a_schedule_has_one_valid_id_for_each_time() {
        let (tenant, function) = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        let (one, two) = (ScheduleName::new("one").unwrap(), ScheduleName::new("two").unwrap());
        let id = |schedule, time| JobId::scheduled(&tenant, &function, schedule, time);
        let now = 1_790_000_000_000;
        assert_eq!(id(&one, now), id(&one, now));
        assert!(id(&one, now) != id(&two, now) && id(&one, now) < id(&one, now + 1));
        let text = id(&one, now).to_string();
        assert_eq!((text.get(14..15), JobId::parse(&text)), (Some("8"), Some(id(&one, now))), "{text}");
        assert!(matches!(text.get(19..20), Some("8" | "9" | "a" | "b")), "{text}");
    }

    #[test]
    fn the_items_of_a_batch_have_ids_of_their_own_that_sort_by_their_index() {
        let (one, two) = (BatchId::new(), BatchId::new());
        let indexes = [0, 1, 15, 16, 255, 256, 4_095, 65_535, 65_536, 262_144, 999_999, (1 << 22) - 1];
        let ids: Vec<_> = indexes.iter().map(|index| JobId::item(one, *index)).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        for (index, id) in indexes.iter().zip(&ids) {
            let text = id.to_string();
            assert_eq!((text.get(14..15), JobId::parse(&text)), (Some("8"), Some(*id)), "{text}");
            assert!(matches!(text.get(19..20), Some("8" | "9" | "a" | "b")), "{text}");
            assert!(*id == JobId::item(one, *index) && *id != JobId::item(two, *index));
        }
    }

    proptest! {
        #[test]
        fn a_record_reads_as_it_was_written_and_is_short(attempts in 0u32..5, low: bool, key in proptest::option::of("[a-z]{0,20}")) {
            let settings = settings(9, &["killed"]);
            let mut job = job(&settings);
            (job.low, job.key) = (low, key);
            for _ in 0..attempts {
                job.start(RequestId::new(), 2_000);
                job.finish(&failed(Condition::Killed), &settings, 3_000);
            }
            let text = serde_json::to_vec(&job).unwrap();
            prop_assert!(text.len() < 600);
            prop_assert_eq!(serde_json::from_slice::<Job>(&text).unwrap(), job);
        }
    }
}
