//! The jobs of one function that have the same concurrency key. Pure.
//!
//! A group decides for itself whether its first job may run: not more of them at once than the settings say, and, if
//! there is a rate, none before the time at which the group may go on. The queue keeps the groups that may not go on yet
//! by that time, so a group needs no clock.

use crate::job::{JobId, Millis};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the concurrency keys of jobs begin with that run one at a time.
const SERIAL: &str = "\u{1f}schedule/";
/// Milliseconds in a minute.
const MINUTE_MS: Millis = 60_000;

/// Returns the concurrency key of a schedule's jobs that run one after the other, whatever the function's settings are.
pub fn serial_key(schedule: &str) -> String {
    format!("{SERIAL}{schedule}")
}

/// The concurrency key of a group. None: jobs without one, which do not limit each other.
pub(super) type GroupKey = Option<Arc<str>>;

/// Where a job stands: its time of submission, later for a low priority, and its id.
pub(super) type Rank = (Millis, JobId);

/// What the settings of a function allow for the jobs of one concurrency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLimits {
    /// Jobs that run at once.
    pub at_once: u64,
    /// Jobs that begin in a minute, evenly spaced. 0: no limit.
    pub per_minute: u64,
}

impl KeyLimits {
    /// Returns the time between the beginnings of two jobs.
    pub(super) fn gap(&self) -> Option<Millis> {
        // Rounded up, so that never more than the limit begin in a minute.
        let per_minute = Millis::try_from(self.per_minute).unwrap_or(MINUTE_MS);
        (per_minute > 0).then(|| MINUTE_MS.saturating_add(per_minute - 1) / per_minute)
    }
}

/// Jobs with the same concurrency key.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) ready: BTreeSet<Rank>,
    pub(super) running: u64,
    /// Until when no job of the group begins, because of the rate.
    pub(super) rests_until: Option<Millis>,
}

impl Group {
    /// Returns the first job if it may run.
    pub(super) fn head(&self, key: &GroupKey, limits: KeyLimits) -> Option<(Rank, GroupKey)> {
        let may_run = match key.as_deref() {
            None => true,
            Some(key) if key.starts_with(SERIAL) => self.running == 0,
            Some(_) => self.running < limits.at_once && self.rests_until.is_none(),
        };
        self.ready.first().filter(|_| may_run).map(|rank| (*rank, key.clone()))
    }

    /// Notes that a job begins. Returns until when the group rests, if it does.
    pub(super) fn begin(&mut self, key: &GroupKey, limits: KeyLimits, now: Millis) -> Option<Millis> {
        self.running += 1;
        let has_rate = key.as_deref().is_some_and(|key| !key.starts_with(SERIAL));
        self.rests_until = limits.gap().filter(|_| has_rate).map(|gap| now.saturating_add(gap));
        self.rests_until
    }

    /// Whether nothing is known about the group that must be kept.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.running == 0 && self.rests_until.is_none()
    }
}
