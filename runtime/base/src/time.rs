//! Days and months of the bill, UTC.

use jiff::Timestamp;
use jiff::tz::Offset;

/// A day, counted from 1970-01-01, UTC.
pub type Day = i64;

/// The day of a time.
pub fn day_of(time: Timestamp) -> Day {
    time.as_second().div_euclid(86_400)
}

/// The month of a day, counted from year 0.
pub fn month_of(day: Day) -> i64 {
    let time = Timestamp::from_second(day.saturating_mul(86_400)).unwrap_or(Timestamp::UNIX_EPOCH);
    let date = Offset::UTC.to_datetime(time).date();
    i64::from(date.year()) * 12 + i64::from(date.month()) - 1
}

/// A day as it is written: 2026-11-24.
pub fn day_text(day: Day) -> String {
    let time = Timestamp::from_second(day.saturating_mul(86_400)).unwrap_or(Timestamp::UNIX_EPOCH);
    Offset::UTC.to_datetime(time).date().to_string()
}

/// The first day of the month of a day.
pub fn month_start(day: Day) -> Day {
    let month = month_of(day);
    let mut first = day;
    while first > day - 31 && month_of(first - 1) == month {
        first -= 1;
    }
    first
}
