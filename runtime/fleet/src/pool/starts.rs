//! Counts how often a version could not be started in a row: no worker process came up for it, or no worker could load
//! it. From the third time on it waits before it is tried again. It counts by version, so that a bad one does not stop
//! the others of its function.
//!
//! Invariants: a start that succeeds ends the count, whoever asked for it. A version waits at most [`WAIT_MAX`], and
//! workers that have it loaded serve it meanwhile.

use super::Pool;
use super::error::PoolError;
use gannet_base::hop::VersionKey;
use gannet_state::registry::Version;
use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that cause no wait, because one may be an accident.
pub(super) const STARTS_FREE: u32 = 2;
/// The wait after the next failure. Each further one doubles it.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a failure is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

/// The failed starts of a version in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailures {
    /// Their number.
    pub count: u32,
    /// Why the last one failed, as its tenant may know it.
    pub why: String,
    last: Instant,
}

/// The failed starts of all versions.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    failed: HashMap<VersionKey, StartFailures>,
}

impl Starts {
    /// Records that a start which began at `began` failed. Requests that waited for the same start count once.
    fn failed(&mut self, version: VersionKey, why: &str, began: Instant, now: Instant) {
        self.failed.retain(|_, failures| now.saturating_duration_since(failures.last) < REMEMBERED);
        let failures =
            self.failed.entry(version).or_insert(StartFailures { count: 0, why: String::new(), last: began });
        if failures.count == 0 || began >= failures.last {
            failures.count = failures.count.saturating_add(1);
            failures.last = now;
            why.clone_into(&mut failures.why);
        }
    }

    /// Returns the failures of a version, and how long it has to wait because of them.
    fn recent(&self, version: VersionKey, now: Instant) -> Option<(&StartFailures, Duration)> {
        let failures = self.failed.get(&version)?;
        let past = now.saturating_duration_since(failures.last);
        let wait = match failures.count.checked_sub(STARTS_FREE + 1) {
            Some(beyond) => WAIT_FIRST.saturating_mul(1 << beyond.min(6)).min(WAIT_MAX),
            None => Duration::ZERO,
        };
        (past < REMEMBERED).then(|| (failures, wait.saturating_sub(past)))
    }
}

impl Pool {
    fn starts(&self) -> MutexGuard<'_, Starts> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a version's failed starts in a row, and how long it has to wait because of them.
    pub fn start_failures(&self, version: VersionKey) -> Option<(StartFailures, Duration)> {
        let starts = self.starts();
        if starts.failed.is_empty() {
            return None;
        }
        starts.recent(version, Instant::now()).map(|(failures, wait)| (failures.clone(), wait))
    }

    /// Refuses a version that could not be started again and again.
    pub(super) fn check_starts(&self, version: &Version) -> Result<(), PoolError> {
        match self.start_failures(version.key) {
            Some((failures, wait)) if !wait.is_zero() => Err(cannot_start(failures, wait, None)),
            _ => Ok(()),
        }
    }

    /// Forgets the failed starts of a version: a worker has loaded it, or it was deployed again.
    pub(super) fn note_start(&self, version: VersionKey) {
        self.starts().failed.remove(&version);
    }

    /// Records that a start which began at `began` failed, if this error means that. Returns what the request is told.
    pub(super) fn note_start_failure(&self, version: &Version, began: Instant, error: PoolError) -> PoolError {
        let why = match &error {
            PoolError::StartFailed(_) => "no worker could be started",
            PoolError::Internal(_) => "its worker could not load it",
            PoolError::Killed(_) => "its worker ended while it loaded it",
            _ => return error,
        };
        let mut starts = self.starts();
        let now = Instant::now();
        starts.failed(version.key, why, began, now);
        match starts.recent(version.key, now) {
            // The claim is made again, with another worker.
            Some((failures, _)) if matches!(error, PoolError::Killed(_)) && failures.count <= STARTS_FREE => error,
            Some((failures, wait)) => cannot_start(failures.clone(), wait, Some(error.to_string())),
            None => error,
        }
    }
}

fn cannot_start(failures: StartFailures, wait: Duration, cause: Option<String>) -> PoolError {
    let left_s = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    PoolError::CannotStart { failures: failures.count, why: failures.why, left_s, cause }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_third_failed_start_in_a_row_waits_a_second_and_each_more_twice_as_long() {
        let (version, other) = (7, 8);
        let (mut starts, mut now) = (Starts::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..10 {
            let (began, later) = (now, now + Duration::from_secs(1));
            starts.failed(version, "because", began, later);
            // Another request waited for the same start.
            starts.failed(version, "because", began, later);
            let (failures, wait) = starts.recent(version, later).unwrap();
            waits.push((failures.count, wait.as_secs()));
            assert_eq!(starts.recent(other, later), None, "another version is not held up");
            now = later + wait;
        }
        let expected = [0, 0, 1, 2, 4, 8, 16, 32, 60, 60];
        assert_eq!(waits, (1..).zip(expected).collect::<Vec<(u32, u64)>>());
        assert_eq!(starts.recent(version, now + REMEMBERED), None);
    }
}
