//! Days and months of the bill, UTC.

use jiff::Timestamp;
use jiff::tz::Offset;

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
