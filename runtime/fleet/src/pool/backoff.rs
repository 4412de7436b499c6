//! Counts how often the workers of a version are killed while they run its requests, and how long the version must wait
//! before it is tried again. Pure.
//!
//! It counts by version, so that a version that only its tag gets to does not stop the one that all others call.
//!
//! Invariant: a version whose workers were not killed lately never waits. One whose workers are killed again and again
//! waits at most [`BACKOFF_MAX`].

use gannet_base::hop::VersionKey;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a kill is remembered.
pub const KILLS_WITHIN: Duration = Duration::from_secs(300);
/// Kills in a row that cause no wait, because one may be an accident.
pub const KILLS_FREE: u32 = 2;
/// The wait after the next kill. Each further one doubles it.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// The recent kills of a version's workers.
#[derive(Debug, Clone)]
pub struct KillHistory {
    /// Kills in a row, each within [`KILLS_WITHIN`] of the one before.
    pub count: u32,
    /// Reason of the latest kill.
    pub why: String,
    /// Wall-clock time of the latest kill, for display.
    pub time: jiff::Timestamp,
    last: Instant,
    /// Process id of the worker that was killed last. It may have run several requests of the version, which count
    /// once.
    worker: i32,
}

/// The recent kills of all versions.
#[derive(Debug, Default)]
pub struct Backoff {
    kills: HashMap<VersionKey, KillHistory>,
}

impl Backoff {
    /// Records that a worker ended while it ran a request of a version.
    pub fn killed(&mut self, version: VersionKey, worker: i32, why: &str, now: Instant) {
        self.kills.retain(|_, kills| now.saturating_duration_since(kills.last) < KILLS_WITHIN);
        let fresh = KillHistory {
            count: 0,
            why: String::new(),
            time: jiff::Timestamp::now(),
            last: now,
            worker: worker.wrapping_add(1),
        };
        let kills = self.kills.entry(version).or_insert(fresh);
        if kills.worker != worker || kills.count == 0 {
            kills.count += 1;
            (kills.last, kills.worker, kills.time) = (now, worker, jiff::Timestamp::now());
            why.clone_into(&mut kills.why);
        }
    }

    /// Returns how long a version has to wait; zero if it may run now.
    pub fn wait(&self, version: VersionKey, now: Instant) -> Duration {
        let Some(kills) = self.recent(version, now) else { return Duration::ZERO };
        let Some(beyond) = kills.count.checked_sub(KILLS_FREE + 1) else { return Duration::ZERO };
        let wait = BACKOFF_FIRST.saturating_mul(1 << beyond.min(6)).min(BACKOFF_MAX);
        (kills.last + wait).saturating_duration_since(now)
    }

    /// Returns the recent kills of a version's workers; `None` if there were none.
    pub fn recent(&self, version: VersionKey, now: Instant) -> Option<&KillHistory> {
        self.kills.get(&version).filter(|kills| now.saturating_duration_since(kills.last) < KILLS_WITHIN)
    }

    /// Forgets the kills of a version, because it was deployed again.
    pub fn forget(&mut self, version: VersionKey) {
        self.kills.remove(&version);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_third_kill_in_a_row_waits_a_second_and_each_more_twice_as_long() {
        let (version, other) = (7, 8);
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for worker in 1..12 {
            backoff.killed(version, worker, "because", now);
            backoff.killed(version, worker, "because", now);
            waits.push(backoff.wait(version, now).as_secs());
            assert_eq!(backoff.wait(other, now), Duration::ZERO);
            now += Duration::from_secs(61);
        }
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoff.recent(version, now).unwrap().count, 11);
        now += KILLS_WITHIN;
        assert_eq!(backoff.wait(version, now), Duration::ZERO);
        backoff.killed(version, 1, "because", now);
        assert_eq!(backoff.recent(version, now).unwrap().count, 1, "the old ones are forgotten");
    }
}
