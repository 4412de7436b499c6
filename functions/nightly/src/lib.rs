//! A function that runs by itself: its manifest has two schedules. Each time, the server makes a background job, and the
//! function gets it as a POST of `{"id", "input", "schedule", "time"}` to the schedule's path. `time` is the one that the
//! job was planned for, however late it runs: what is computed for a night must not depend on when that is done.
//!
//! | path | output |
//! |---|---|
//! | `/report` | a report about the day before: mean and spread of `input.samples` measurements |
//! | `/tidy?keep=7` | the day before which data may go |

use gannet_sdk::http::{Request, Response};
use gannet_sdk::{Error, Result};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Job {
    #[serde(default)]
    input: Input,
    /// Missing if a client submitted the job, and no schedule made it.
    schedule: Option<String>,
    /// RFC 3339, UTC.
    time: Option<String>,
}

#[derive(Default, Deserialize)]
struct Input {
    samples: Option<u32>,
}

/// Measurements of a day, made up: the same day gives the same ones.
fn measurements(day: i64, count: u32) -> impl Iterator<Item = f64> {
    let mut state = day.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / f64::from(1 << 24)
    })
}

/// Returns the number of days from 1970-01-01 to the day of a time such as `2026-11-24T01:30:00Z` (Howard Hinnant,
/// "chrono-compatible low-level date algorithms").
fn day_of(time: &str) -> Option<i64> {
    let mut parts = time.get(..10)?.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let year = if month <= 2 { year - 1 } else { year };
    let (era, in_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + in_era * 365 + in_era / 4 - in_era / 100 + of_year - 719_468)
}

/// The reverse of [`day_of`].
fn date(day: i64) -> String {
    let day = day + 719_468;
    let (era, in_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let of_year = in_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{of_month:02}")
}

#[gannet_sdk::handler]
fn nightly(request: Request) -> Result<Response> {
    let job: Job = serde_json::from_slice(request.body()).map_err(|error| Error::new(400, error.to_string()))?;
    let time = job.time.ok_or_else(|| Error::new(400, "no schedule made this job; try `gannet schedule run`"))?;
    let today = day_of(&time).ok_or_else(|| Error::new(400, format!("{time:?} is no time")))?;
    let answer = match request.path() {
        "/report" => {
            let count = job.input.samples.unwrap_or(1_000).clamp(1, 10_000_000);
            let (mut sum, mut squares) = (0.0, 0.0);
            for value in measurements(today - 1, count) {
                sum += value;
                squares += value * value;
            }
            let mean = sum / f64::from(count);
            let spread = (squares / f64::from(count) - mean * mean).max(0.0).sqrt();
            json!({ "schedule": job.schedule, "of": date(today - 1), "samples": count, "mean": mean, "spread": spread })
        }
        "/tidy" => {
            let keep = request.query("keep").and_then(|days| days.parse().ok()).unwrap_or(30);
            json!({ "schedule": job.schedule, "before": date(today - keep) })
        }
        other => return Err(Error::new(404, format!("there is no {other}"))),
    };
    println!("{time}: {answer}");
    Ok(Response::json(answer.to_string()))
}
