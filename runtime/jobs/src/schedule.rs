//! When a schedule makes a job. Pure: it takes the time as an argument.
//!
//! ```text
//!  after (the last time that was dealt with) ── time ─ time ─ time ── now
//!                                                               └ the latest is due; those before it are left out
//! ```
//!
//! A time is dealt with once: a job is made for it, or it is left out. After that the record's [`Fired::after`] is this
//! time, so a clock that is put back brings no second job.

use crate::job::{JobId, Millis};
use gannet_base::cron::Cron;
use gannet_base::manifest::{Missed, Overlap, Schedule};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A job that is made later than this was missed, in milliseconds.
const LATE_MS: Millis = 60_000;
/// If the last time is further ahead than this, the clock was wrong then, and the record is not believed.
const AHEAD_MS: Millis = 24 * 3_600_000;

/// What became of the times of a schedule: its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// The pattern that this is about. With another one the schedule begins anew.
    pub cron: String,
    /// Its time zone.
    pub timezone: String,
    /// All times until this one have been dealt with.
    pub after: Millis,
    /// The time for which the last job was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_fired: Option<Millis>,
    /// That job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_job: Option<JobId>,
    /// The last time that was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_skipped: Option<Skipped>,
}

/// A time for which no job was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The time.
    pub time: Millis,
    /// Why.
    pub reason: SkipReason,
}

/// Why no job was made for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// The server was down, and the schedule makes up for nothing.
    Missed,
    /// The previous job had not ended.
    Overlap,
    /// A limit of the tenant is used up.
    Limit,
}

impl SkipReason {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::Overlap => "overlap",
            Self::Limit => "limit",
        }
    }
}

impl Fired {
    /// Returns the record of a schedule that begins now.
    pub fn begin(schedule: &Schedule, now: Millis) -> Self {
        Self {
            cron: schedule.cron.clone(),
            timezone: schedule.timezone.clone(),
            after: now,
            last_fired: None,
            last_job: None,
            last_skipped: None,
        }
    }

    /// Returns the record with which a schedule goes on: this one, unless the pattern is another now, or the clock was
    /// wrong by more than a day.
    pub fn going_on(self, schedule: &Schedule, now: Millis) -> Self {
        let is_same = self.cron == schedule.cron && self.timezone == schedule.timezone;
        if is_same && self.after <= now.saturating_add(AHEAD_MS) {
            return self;
        }
        let (cron, timezone) = (schedule.cron.clone(), schedule.timezone.clone());
        Self { cron, timezone, after: now, ..self }
    }

    /// Notes that a job is made for a time.
    pub fn fire(&mut self, time: Millis, job: JobId) {
        (self.after, self.last_fired, self.last_job) = (self.after.max(time), Some(time), Some(job));
    }

    /// Notes that no job is made for a time.
    pub fn skip(&mut self, time: Millis, reason: SkipReason) {
        (self.after, self.last_skipped) = (self.after.max(time), Some(Skipped { time, reason }));
    }
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing before this time. None: nothing ever.
    Later(Option<Millis>),
    /// A job is due for this time.
    Fire(Millis),
    /// This time was missed, and those before it.
    Missed(Millis),
}

fn timestamp(time: Millis) -> Timestamp {
    Timestamp::from_millisecond(time).unwrap_or(if time < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// Returns the first time after `after`.
pub fn next_after(cron: &Cron, after: Millis) -> Option<Millis> {
    cron.next(timestamp(after)).map(Timestamp::as_millisecond)
}

/// Decides what is to be done now, if all times until `after` have been dealt with.
pub fn due(cron: &Cron, missed: Missed, after: Millis, now: Millis) -> Due {
    let latest = cron.latest(timestamp(now)).map(Timestamp::as_millisecond);
    match latest.filter(|time| *time > after) {
        None => Due::Later(next_after(cron, after.max(now))),
        Some(time) if missed == Missed::None && now.saturating_sub(time) > LATE_MS => Due::Missed(time),
        Some(time) => Due::Fire(time),
    }
}

/// What happens to a job that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is submitted.
    Submit,
    /// It is submitted, and runs only after those of the same schedule that were submitted before.
    SubmitInTurn,
    /// It is left out.
    Skip,
}

/// Decides what happens to a job that is due. `previous_runs`: the schedule's previous job waits or runs.
pub fn decide(overlap: Overlap, previous_runs: bool) -> Decision {
    match overlap {
        Overlap::Skip if previous_runs => Decision::Skip,
        Overlap::Skip | Overlap::Allow => Decision::Submit,
        Overlap::Queue => Decision::SubmitInTurn,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const MINUTE: Millis = 60_000;

    fn ms(text: &str) -> Millis {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn cron(pattern: &str) -> Cron {
        Cron::parse(pattern, "Europe/Berlin", timestamp(ms("2026-06-01T00:00:00Z"))).unwrap()
    }

    fn schedule(pattern: &str) -> Schedule {
        serde_json::from_value(serde_json::json!({ "cron": pattern })).unwrap()
    }

    #[test]
    fn after_a_downtime_one_run_is_made_up_or_none() {
        let cron = cron("0 * * * *");
        let (after, now) = (ms("2026-06-01T10:00:00Z"), ms("2026-06-01T14:30:00Z"));
        let latest = ms("2026-06-01T14:00:00Z");
        assert_eq!(due(&cron, Missed::One, after, now), Due::Fire(latest));
        assert_eq!(due(&cron, Missed::None, after, now), Due::Missed(latest));
        let next = Some(ms("2026-06-01T15:00:00Z"));
        assert_eq!(due(&cron, Missed::One, latest, now), Due::Later(next));
        // A minute late is not missed: the server may have been restarted.
        assert_eq!(due(&cron, Missed::None, after, latest + MINUTE), Due::Fire(latest));
        assert_eq!(due(&cron, Missed::None, after, latest + MINUTE + 1), Due::Missed(latest));
    }

    #[test]
    fn an_overlap_is_skipped_queued_or_allowed() {
        let all = [Overlap::Skip, Overlap::Queue, Overlap::Allow];
        let decisions = |runs| all.map(|overlap| decide(overlap, runs));
        assert_eq!(decisions(true), [Decision::Skip, Decision::SubmitInTurn, Decision::Submit]);
        assert_eq!(decisions(false), [Decision::Submit, Decision::SubmitInTurn, Decision::Submit]);
    }

    #[test]
    fn another_pattern_and_a_clock_that_was_wrong_begin_anew() {
        let now = ms("2026-06-01T12:00:00Z");
        let mut fired = Fired::begin(&schedule("0 3 * * *"), now - MINUTE);
        fired.fire(now - 9 * 60 * MINUTE, JobId::new());
        assert_eq!(fired.clone().going_on(&schedule("0 3 * * *"), now), fired);
        let other = fired.clone().going_on(&schedule("* * * * *"), now);
        assert_eq!((other.after, other.last_job), (now, fired.last_job), "no run is missed that was not planned");
        fired.after = now + 400 * 24 * 60 * MINUTE;
        assert_eq!(fired.clone().going_on(&schedule("0 3 * * *"), now).after, now);
        fired.after = now + 60 * MINUTE;
        assert_eq!(fired.clone().going_on(&schedule("0 3 * * *"), now).after, now + 60 * MINUTE);
    }

    /// Follows a schedule by a clock, and returns the times for which it made jobs.
    fn follow(cron: &Cron, missed: Missed, clock: impl Iterator<Item = Millis>, mut after: Millis) -> Vec<Millis> {
        let mut fired = Vec::new();
        for now in clock {
            match due(cron, missed, after, now) {
                Due::Later(_) => {}
                Due::Missed(time) => after = time,
                Due::Fire(time) => {
                    after = time;
                    fired.push(time);
                }
            }
        }
        fired
    }

    #[test]
    fn in_berlin_half_past_two_comes_once_each_night() {
        let cron = cron("30 2 * * *");
        for (change, expected) in [
            ("2027-03-28", ["2027-03-27T01:30:00Z", "2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"]),
            ("2026-10-25", ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        ] {
            let noon = ms(&format!("{change}T12:00:00Z"));
            let (from, to) = (noon - 48 * 60 * MINUTE, noon + 24 * 60 * MINUTE);
            let clock = (0..).map(|tick| from + tick * 7 * MINUTE).take_while(|now| *now < to);
            assert_eq!(follow(&cron, Missed::One, clock, from), expected.map(ms), "{change}");
        }
    }

    proptest! {
        /// The clock goes on, stands still while the server is down, and is put back by up to two hours.
        #[test]
        fn there_is_at_most_one_job_for_each_time(
            steps in proptest::collection::vec(prop_oneof![
                8 => 1_000i64..90_000,
                1 => 3_600_000i64..9_000_000,
                1 => -7_200_000i64..0,
            ], 1..60),
            pattern in proptest::sample::select(vec!["* * * * *", "*/10 * * * *", "30 2 * * *", "0 * * * *"]),
            start in proptest::sample::select(vec!["2026-10-24T22:00:00Z", "2027-03-27T22:00:00Z", "2026-06-01T00:00:00Z"]),
            none: bool,
        ) {
            let (cron, start) = (cron(pattern), ms(start));
            let clock: Vec<Millis> = steps.iter().scan(start, |now, step| { *now += step; Some(*now) }).collect();
            let missed = if none { Missed::None } else { Missed::One };
            let fired = follow(&cron, missed, clock.iter().copied(), start);
            prop_assert!(fired.windows(2).all(|pair| pair[0] < pair[1]));
            let latest = clock.iter().copied().max().unwrap_or(start);
            let times: BTreeSet<Millis> =
                std::iter::successors(next_after(&cron, start), |time| next_after(&cron, *time)).take_while(|time| *time <= latest).collect();
            prop_assert!(fired.iter().all(|time| times.contains(time)), "only its own times");
            if missed == Missed::One && *clock.last().unwrap() == latest {
                prop_assert_eq!(fired.last(), times.last(), "the latest is made up for");
            }
        }

        /// If nothing is missed, each time has its job.
        #[test]
        fn a_task_that_wakes_in_time_misses_none(
            waits in proptest::collection::vec(1i64..50_000, 1..100),
            pattern in proptest::sample::select(vec!["* * * * *", "*/3 * * * *", "15 2 * * *"]),
        ) {
            let (cron, start) = (cron(pattern), ms("2026-10-25T00:00:00Z"));
            let clock: Vec<Millis> = waits.iter().scan(start, |now, wait| { *now += wait; Some(*now) }).collect();
            let fired = follow(&cron, Missed::None, clock.iter().copied(), start);
            let end = *clock.last().unwrap();
            let times: Vec<Millis> =
                std::iter::successors(next_after(&cron, start), |time| next_after(&cron, *time)).take_while(|time| *time <= end).collect();
            prop_assert_eq!(fired, times);
        }
    }
}
