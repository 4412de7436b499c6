//! Days and months of the bill, UTC, and whether the clock may be believed.

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A day (UTC), as the number of days since 1970-01-01.
pub type Day = i64;

/// Returns the day of a time.
pub fn day_of(time: Timestamp) -> Day {
    time.as_second().div_euclid(86_400)
}

/// Returns the month of a day, as the number of months since January of year 0.
pub fn month_of(day: Day) -> i64 {
    let time = Timestamp::from_second(day.saturating_mul(86_400)).unwrap_or(Timestamp::UNIX_EPOCH);
    let date = Offset::UTC.to_datetime(time).date();
    i64::from(date.year()) * 12 + i64::from(date.month()) - 1
}

/// Formats a day like `2026-11-24`.
pub fn day_text(day: Day) -> String {
    let time = Timestamp::from_second(day.saturating_mul(86_400)).unwrap_or(Timestamp::UNIX_EPOCH);
    Offset::UTC.to_datetime(time).date().to_string()
}

/// Returns the first day of a day's month.
pub fn month_start(day: Day) -> Day {
    let month = month_of(day);
    let mut first = day;
    while first > day - 31 && month_of(first - 1) == month {
        first -= 1;
    }
    first
}

/// How far the clock may leave the monotonic clock between two looks. Time servers correct by less.
const JUMP: SignedDuration = SignedDuration::from_secs(30);
/// How long the clock must have gone evenly before anything is removed because of its age.
const STEADY: Duration = Duration::from_secs(3600);

/// Watches whether the clock goes evenly. Data is removed because of its age only while it does: a clock that is wrong
/// for a minute must not empty a log.
#[derive(Debug, Default)]
pub struct ClockWatch {
    /// The first look since the clock last jumped.
    since: Option<Instant>,
    last: Option<(Instant, Timestamp)>,
}

impl ClockWatch {
    /// Compares the clock with the monotonic clock. Returns by how much it jumped since the last look, if it did.
    pub fn look(&mut self, monotonic: Instant, now: Timestamp) -> Option<SignedDuration> {
        let jump = self.last.and_then(|(before, then)| {
            let elapsed = SignedDuration::try_from(monotonic.saturating_duration_since(before)).ok()?;
            let jump = now.duration_since(then).saturating_sub(elapsed);
            (jump.abs() > JUMP).then_some(jump)
        });
        if jump.is_some() || self.since.is_none() {
            self.since = Some(monotonic);
        }
        self.last = Some((monotonic, now));
        jump
    }

    /// Returns the time of the last look, if ages may be judged by it.
    pub fn trusted(&self) -> Option<Timestamp> {
        let (monotonic, now) = self.last?;
        (monotonic.saturating_duration_since(self.since?) >= STEADY).then_some(now)
    }
}

/// The time by which ages are judged, for all who remove something because of its age. See [`ClockWatch`].
#[derive(Debug)]
pub struct TrustedTime(AtomicI64);

impl Default for TrustedTime {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl TrustedTime {
    /// Sets the time. None: nothing may be removed because of its age.
    pub fn set(&self, time: Option<Timestamp>) {
        self.0.store(time.map_or(i64::MIN, Timestamp::as_second), Ordering::Relaxed);
    }

    /// Returns the time, if ages may be judged now.
    pub fn get(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.0.load(Ordering::Relaxed)).ok()
    }

    /// Returns the age of something of the time `then`, to the second, if ages may be judged now.
    pub fn age_of(&self, then: SystemTime) -> Option<Duration> {
        let now = u64::try_from(self.get()?.as_second()).ok()?;
        let then = then.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        Some(Duration::from_secs(now.saturating_sub(then)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_believed_after_an_hour_without_a_jump() {
        let (start, wall) = (Instant::now(), "2026-11-28T12:00:00Z".parse::<Timestamp>().unwrap());
        let mut watch = ClockWatch::default();
        let at = |minutes: u64| start + Duration::from_secs(minutes * 60);
        let shown = |minutes: i64, ahead: i64| wall + SignedDuration::from_secs(minutes * 60 + ahead);
        for minute in 0..60 {
            // Small corrections are no jumps.
            assert_eq!(watch.look(at(minute), shown(minute as i64, minute as i64 % 3)), None);
            assert_eq!(watch.trusted(), None, "{minute}");
        }
        assert_eq!(watch.look(at(60), shown(60, 0)), None);
        assert_eq!(watch.trusted(), Some(shown(60, 0)));
        // The clock is a year ahead at one look. Both jumps are reported, and nothing may be removed for an hour.
        let year = 365 * 86_400;
        assert_eq!(watch.look(at(61), shown(61, year)).unwrap().as_secs(), year);
        assert_eq!(watch.trusted(), None);
        assert_eq!(watch.look(at(62), shown(62, 0)).unwrap().as_secs(), -year);
        watch.look(at(121), shown(121, 0));
        assert_eq!(watch.trusted(), None);
        watch.look(at(122), shown(122, 0));
        assert_eq!(watch.trusted(), Some(shown(122, 0)));
        let shared = TrustedTime::default();
        assert_eq!(shared.get(), None);
        shared.set(watch.trusted());
        assert_eq!(shared.get(), Some(shown(122, 0)));
        shared.set(None);
        assert_eq!(shared.get(), None);
    }
}
