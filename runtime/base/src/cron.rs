//! When something that repeats is due: a cron pattern in a time zone. Pure.
//!
//! Patterns have five fields (minute, hour, day of the month, month, day of the week) or are a name such as `@hourly`.
//! Where a clock is put forward or back, the rules of Vixie's cron apply: a pattern with a fixed hour and minute fires
//! once, at the end of the hour that is left out, and in the first of two equal hours; one with `*` or a step in them
//! fires whenever the clock on the wall says so.
//!
//! Invariant: a [`Cron`] that exists fires within [`YEARS`] of the time at which it was checked.

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use std::cmp::Ordering;

/// A pattern that does not fire within this many years is refused.
pub const YEARS: i64 = 5;
/// Bytes of a pattern, and of the name of a time zone.
const TEXT_BYTES_MAX: usize = 128;
const YEAR: SignedDuration = SignedDuration::from_hours(366 * 24);

/// Why a pattern or a time zone is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronRefused {
    /// The pattern cannot be read.
    #[error("cron = {pattern:?}: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why not.
        why: String,
    },
    /// The pattern never fires, or only after many years.
    #[error("cron = {pattern:?} does not fire within {YEARS} years")]
    Never {
        /// The pattern.
        pattern: String,
    },
    /// There is no such time zone.
    #[error("timezone = {name:?} is no IANA time zone such as \"Europe/Berlin\"")]
    Zone {
        /// The name.
        name: String,
    },
}

/// A cron pattern in a time zone.
#[derive(Debug, Clone)]
pub struct Cron {
    pattern: croner::Cron,
    zone: TimeZone,
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_BYTES_MAX).collect()
}

impl Cron {
    /// Reads a pattern and the IANA name of a time zone. The pattern must fire within [`YEARS`] of `now`.
    pub fn parse(pattern: &str, zone: &str, now: Timestamp) -> Result<Self, CronRefused> {
        let refused = |why: String| CronRefused::Pattern { pattern: cut(pattern), why };
        if pattern.len() > TEXT_BYTES_MAX || !pattern.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(refused(format!("it may have {TEXT_BYTES_MAX} printable characters")));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let parsed = parser.parse(pattern).map_err(|error| match error {
            // Its own words for this are about settings of the parser.
            CronError::InvalidPattern(_) | CronError::EmptyPattern => {
                refused("it must have five fields, such as \"*/5 * * * *\", or be a name such as @hourly".into())
            }
            error => refused(error.to_string().trim_end_matches('.').to_owned()),
        })?;
        let no_zone = || CronRefused::Zone { name: cut(zone) };
        let zone = Some(zone).filter(|zone| zone.len() <= TEXT_BYTES_MAX).ok_or_else(no_zone)?;
        let zone = TimeZone::get(zone).map_err(|_| no_zone())?;
        let cron = Self { pattern: parsed, zone };
        let last = now.saturating_add(YEAR * i32::try_from(YEARS).unwrap_or(1)).unwrap_or(Timestamp::MAX);
        match cron.next(now) {
            Some(first) if first <= last => Ok(cron),
            _ => Err(CronRefused::Never { pattern: cut(pattern) }),
        }
    }

    /// Returns the first time after `after` at which it fires, a whole second.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let found = self.pattern.find_next_occurrence(&self.local(after)?, false).ok()?;
        Some(found.0.timestamp())
    }

    /// Returns the last time until `until`, inclusive, at which it fired.
    pub fn latest(&self, until: Timestamp) -> Option<Timestamp> {
        let found = self.pattern.find_previous_occurrence(&self.local(until)?, true).ok()?;
        Some(found.0.timestamp())
    }

    fn local(&self, time: Timestamp) -> Option<Local> {
        let second = time.as_millisecond().div_euclid(1000);
        Some(Local(Timestamp::from_second(second).ok()?.to_zoned_datetime(self.zone.clone())))
    }
}

/// A time in a time zone, as `croner` searches over it. Its own implementation is for an older jiff.
#[derive(Debug, Clone)]
struct Local(ZonedDateTime);

impl CronDateTime for Local {
    fn to_civil(&self) -> CivilDateTime {
        let small = |part: i8| u32::from(part.unsigned_abs());
        let at = self.0.datetime();
        // jiff keeps every part in its range.
        CivilDateTime::new(
            CivilDate::from_parts_unchecked(i32::from(at.year()), small(at.month()), small(at.day())),
            CivilTime::from_parts_unchecked(small(at.hour()), small(at.minute()), small(at.second())),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(u32::from(self.0.weekday().to_sunday_zero_offset().unsigned_abs()))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let small = |part: u32| i8::try_from(part).map_err(|_| CronError::InvalidTime);
        let year = i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?;
        let (month, day) = (small(civil.month())?, small(civil.day())?);
        let (hour, minute, second) = (small(civil.hour())?, small(civil.minute())?, small(civil.second())?);
        let at = DateTime::new(year, month, day, hour, minute, second, 0).map_err(|_| CronError::InvalidDate)?;
        let ambiguous = self.0.time_zone().to_ambiguous_zoned_datetime(at);
        let local = |zoned: Result<ZonedDateTime, jiff::Error>| zoned.map(Self).map_err(|_| CronError::InvalidTime);
        Ok(match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => Resolution::Single(local(ambiguous.unambiguous())?),
            AmbiguousOffset::Fold { .. } => {
                Resolution::Ambiguous(local(ambiguous.clone().earlier())?, local(ambiguous.later())?)
            }
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.timestamp().cmp(&other.0.timestamp())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: &str = "2026-06-01T00:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn cron(pattern: &str, zone: &str) -> Cron {
        Cron::parse(pattern, zone, at(NOW)).unwrap()
    }

    /// The times at which a pattern fires in a day, as UTC.
    fn fires(pattern: &str, day: &str) -> Vec<String> {
        let cron = cron(pattern, "Europe/Berlin");
        let start: ZonedDateTime = format!("{day}T00:00:00[Europe/Berlin]").parse().unwrap();
        let (mut now, end) = (start.timestamp(), start.timestamp() + SignedDuration::from_hours(25));
        let mut all = Vec::new();
        while let Some(next) = cron.next(now).filter(|next| *next < end) {
            all.push(next.to_string()[11..16].to_owned());
            now = next;
        }
        all
    }

    #[test]
    fn what_is_no_pattern_never_fires_or_has_no_time_zone_is_refused_with_the_reason() {
        for (pattern, part) in [
            ("", "it must have five fields"),
            ("* * * *", "it must have five fields"),
            ("0 * * * * *", "it must have five fields"),
            ("@reboot", "it must have five fields"),
            ("61 * * * *", "cron = \"61 * * * *\": "),
            ("x * * * *", "cron = \"x * * * *\": "),
            ("* * * * \u{e9}", "printable"),
            ("0 0 31 2 *", "cron = \"0 0 31 2 *\" does not fire within 5 years"),
            ("0 0 29 2 +MON#5", "does not fire within 5 years"),
        ] {
            let error = Cron::parse(pattern, "UTC", at(NOW)).unwrap_err().to_string();
            assert!(error.contains(part), "{pattern}: {error}");
        }
        let error = Cron::parse("@daily", "Mars/Olympus", at(NOW)).unwrap_err().to_string();
        assert!(error.contains("timezone = \"Mars/Olympus\""), "{error}");
        for good in ["@hourly", "@weekly", "0 0 29 2 *", "*/5 8-18 * * MON-FRI", "0 0 L * *", " 0  0 1W * * "] {
            assert!(Cron::parse(good, "America/New_York", at(NOW)).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_fixed_time_fires_once_where_the_clock_is_put_forward_or_back() {
        // 2027-03-28: 02:00 to 03:00 is left out, at 01:00 UTC. 2026-10-25: it comes twice, from 00:00 UTC.
        assert_eq!(fires("30 2 * * *", "2027-03-28"), ["01:00"], "at 03:00 in Berlin");
        assert_eq!(fires("30 2 * * *", "2026-10-25"), ["00:30"]);
        for day in ["2027-03-28", "2026-10-25"] {
            assert_eq!(fires("30 * * * *", day).len(), 25, "each hour that passes");
        }
        assert_eq!(fires("30 3 * * *", "2027-03-28"), ["01:30"]);
    }

    #[test]
    fn the_longest_search_is_short() {
        let began = std::time::Instant::now();
        assert!(Cron::parse("0 0 29 2 +MON#5", "Europe/Berlin", at(NOW)).is_err());
        assert!(Cron::parse("0 0 31 2,4,6,9,11 *", "Europe/Berlin", at(NOW)).is_err());
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    }

    fn patterns() -> impl Strategy<Value = &'static str> {
        proptest::sample::select(vec![
            "30 2 * * *",
            "* * * * *",
            "*/7 * * * *",
            "0 3 * * *",
            "0 2 * * *",
            "15,45 2 * * *",
            "0 */6 * * *",
            "*/20 2 * * *",
        ])
    }

    /// Seconds around two changes of the clock in Berlin.
    fn moments() -> impl Strategy<Value = Timestamp> {
        let changes = proptest::sample::select(vec!["2026-10-25T01:00:00Z", "2027-03-28T01:00:00Z"]);
        (changes, -100_000i64..100_000).prop_map(|(change, offset)| at(change) + SignedDuration::from_secs(offset))
    }

    proptest! {
        #[test]
        fn the_times_do_not_depend_on_where_the_search_begins(pattern in patterns(), from in moments(), part in 0.0f64..1.0) {
            let cron = cron(pattern, "Europe/Berlin");
            let next = cron.next(from).unwrap();
            prop_assert!(next > from);
            let between = from + SignedDuration::from_secs(((next.as_second() - from.as_second()) as f64 * part) as i64);
            if between < next {
                prop_assert_eq!(cron.next(between), Some(next));
                prop_assert!(cron.latest(between).unwrap() <= from, "nothing fires in between");
            }
            prop_assert_eq!(cron.latest(next), Some(next));
            let before = cron.latest(from).unwrap();
            prop_assert!(before <= from);
            let following = cron.next(before).unwrap();
            prop_assert!(following == next, "{} {} {}", before, following, next);
        }

        #[test]
        fn any_text_is_read_or_refused(pattern in "[-0-9*/,LW#@A-Z+? ]{0,24}", zone in ".{0,20}") {
            let _ = Cron::parse(&pattern, "UTC", at(NOW));
            let _ = Cron::parse("* * * * *", &zone, at(NOW));
        }
    }
}
