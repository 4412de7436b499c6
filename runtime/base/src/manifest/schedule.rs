//! The `[[schedule]]` tables of a manifest: at which times a function gets a job by itself. Schedules that are made by
//! API have the same keys.
//!
//! Invariant: a schedule of a checked manifest has a pattern that fires, and a name that no other of the function has.

use crate::cron::Cron;
use crate::manifest::ManifestError;
use crate::names::ScheduleName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Schedules in one manifest.
pub const SCHEDULES_MAX: usize = 32;
/// Bytes of a schedule's input as JSON.
pub const INPUT_BYTES_MAX: usize = 64 << 10;
/// Bytes of the path of a schedule's jobs.
const PATH_BYTES_MAX: usize = 1_024;
/// The key that the TOML parser gives a date, for which JSON has no type.
const TOML_DATE: &str = "$__toml_private_datetime";

/// What happens to times at which the server was down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// The latest of them is made up for, once.
    #[default]
    One,
    /// They are left out.
    None,
}

/// What happens if the schedule's previous job has not ended when the next one is due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// There is no job for this time.
    #[default]
    Skip,
    /// The job waits for the previous one.
    Queue,
    /// Both run.
    Allow,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Its name, which no other schedule of the function has. In a manifest, `schedule-1` for the first one by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<ScheduleName>,
    /// When it fires: minute, hour, day of the month, month and day of the week, or a name such as `@hourly`.
    #[schema(max_length = 128)]
    pub cron: String,
    /// The IANA name of the time zone in which the pattern is read.
    #[serde(default = "utc")]
    #[schema(max_length = 128)]
    pub timezone: String,
    /// The path at which the function gets the jobs.
    #[serde(default = "root")]
    #[schema(max_length = 1024)]
    pub path: String,
    /// The input of the jobs.
    #[serde(default = "empty")]
    pub input: Value,
    /// What happens to times at which the server was down.
    #[serde(default)]
    pub missed: Missed,
    /// What happens if the previous job has not ended.
    #[serde(default)]
    pub overlap: Overlap,
}

fn utc() -> String {
    "UTC".into()
}

fn root() -> String {
    "/".into()
}

fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

fn has_date(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| key == TOML_DATE || has_date(value)),
        Value::Array(list) => list.iter().any(has_date),
        _ => false,
    }
}

/// Checks the path at which a function gets its jobs: one that the function, a proxy and this server read alike. It has
/// no empty or dot segments, no escaped separators and no control characters.
pub fn check_path(path: &str) -> Result<(), ManifestError> {
    let refused = |why: &str| {
        let shown: String = path.chars().take(64).collect();
        Err(ManifestError(format!("path = {shown:?}; {why}")))
    };
    let is_path = path.starts_with('/')
        && path.len() <= PATH_BYTES_MAX
        && !path.contains('#')
        && http::uri::PathAndQuery::try_from(path).is_ok();
    if !is_path {
        return refused(&format!("it must be a path such as \"/tick\", of at most {PATH_BYTES_MAX} bytes"));
    }
    if path.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return refused("it may have printable ASCII characters only; others are escaped, such as %20");
    }
    let lower = path.split('?').next().unwrap_or_default().to_ascii_lowercase();
    let dots = lower.replace("%2e", ".");
    if dots.split('/').any(|segment| segment == "." || segment == "..") {
        return refused("it may not have the segments \".\" and \"..\"");
    }
    if lower.contains("//") || lower.contains('\\') || ["%2f", "%5c", "%00"].iter().any(|part| lower.contains(part)) {
        return refused("it may not have empty segments, escaped separators or NUL");
    }
    Ok(())
}

impl Schedule {
    /// Checks a schedule, and returns its pattern.
    pub fn check(&self, now: Timestamp) -> Result<Cron, ManifestError> {
        let cron =
            Cron::parse(&self.cron, &self.timezone, now).map_err(|refused| ManifestError(refused.to_string()))?;
        check_path(&self.path)?;
        if has_date(&self.input) {
            return Err(ManifestError("input holds a date, which JSON has not; write it as a text".into()));
        }
        let bytes = self.input.to_string().len();
        if bytes > INPUT_BYTES_MAX {
            return Err(ManifestError(format!("input has {bytes} bytes; the limit is {INPUT_BYTES_MAX}")));
        }
        Ok(cron)
    }
}

/// Returns the schedules of a manifest by their names.
pub fn named(schedules: &[Schedule]) -> impl Iterator<Item = (ScheduleName, &Schedule)> {
    schedules.iter().enumerate().filter_map(|(at, schedule)| {
        let by_place = || ScheduleName::new(&format!("schedule-{}", at + 1)).ok();
        Some((schedule.name.clone().or_else(by_place)?, schedule))
    })
}

/// Checks the schedules of a manifest.
pub(super) fn check(schedules: &[Schedule], now: Timestamp) -> Result<(), ManifestError> {
    let count = schedules.len();
    if count > SCHEDULES_MAX {
        return Err(ManifestError(format!("[[schedule]] is there {count} times; the limit is {SCHEDULES_MAX}")));
    }
    let mut names = std::collections::BTreeSet::new();
    for (name, schedule) in named(schedules) {
        if let Err(error) = schedule.check(now) {
            return Err(ManifestError(format!("schedule {name}: {error}")));
        }
        if !names.insert(name.clone()) {
            return Err(ManifestError(format!("two schedules have the name {name}")));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use serde_json::json;

    #[test]
    fn a_manifest_has_schedules_with_defaults() {
        let text = "[[schedule]]\ncron = \"*/5 * * * *\"\n\
            [[schedule]]\nname = \"nightly\"\ncron = \"@daily\"\ntimezone = \"Europe/Berlin\"\npath = \"/tick?x=1\"\n\
            input = { user = 7, tags = [\"a\"] }\nmissed = \"none\"\noverlap = \"queue\"\n";
        let manifest = Manifest::parse(text).unwrap();
        let all: Vec<_> = named(&manifest.schedule).map(|(name, schedule)| (name.to_string(), schedule)).collect();
        let (first, second) = (&all[0], &all[1]);
        assert_eq!((first.0.as_str(), second.0.as_str()), ("schedule-1", "nightly"));
        assert_eq!((first.1.timezone.as_str(), first.1.path.as_str(), &first.1.input), ("UTC", "/", &json!({})));
        assert_eq!((first.1.missed, first.1.overlap), (Missed::One, Overlap::Skip));
        assert_eq!(second.1.input, json!({ "user": 7, "tags": ["a"] }));
        assert_eq!((second.1.missed, second.1.overlap), (Missed::None, Overlap::Queue));
        let stored = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&stored).unwrap(), manifest);
        assert!(!serde_json::to_string(&Manifest::default()).unwrap().contains("schedule"), "as records were before");
    }

    #[test]
    fn a_path_of_jobs_is_read_alike_by_everybody() {
        for good in ["/", "/tick", "/tick/", "/a.b/..c?x=/../&y=%2F", "/%20"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for (bad, part) in [
            ("tick", "it must be a path"),
            ("/a#b", "it must be a path"),
            ("/a b", "it must be a path"),
            ("/a\u{7f}", "printable ASCII"),
            ("/é", "printable ASCII"),
            ("/a/../b", "it may not have the segments"),
            ("/.", "it may not have the segments"),
            ("/%2E%2e/x", "it may not have the segments"),
            ("//a", "empty segments"),
            ("/a%2Fb", "escaped separators"),
            ("/a%00", "escaped separators"),
        ] {
            let error = check_path(bad).map(|()| "fine".to_owned()).unwrap_or_else(|error| error.to_string());
            assert!(
                error.contains(part) || (part.starts_with("printable") && error.contains("it must be a path")),
                "{bad}: {error}"
            );
        }
        let long = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
        assert!(check_path(&long(PATH_BYTES_MAX)).is_ok() && check_path(&long(PATH_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn a_schedule_that_cannot_fire_or_be_stored_is_refused() {
        for (lines, part) in [
            ("cron = \"0 0 31 2 *\"", "schedule schedule-1: cron = \"0 0 31 2 *\" does not fire within 5 years"),
            ("cron = \"never\"", "cron = \"never\": it must have five fields"),
            ("timezone = \"UTC\"", "missing field `cron`"),
            ("cron = \"@daily\"\ntimezone = \"Berlin\"", "timezone = \"Berlin\" is no IANA time zone"),
            ("cron = \"@daily\"\npath = \"tick\"", "path = \"tick\"; it must be a path"),
            ("cron = \"@daily\"\nname = \"a/b\"", "schedule name \"a/b\""),
            ("cron = \"@daily\"\ninput = { at = 2026-01-01 }", "input holds a date"),
            ("cron = \"@daily\"\noverlap = \"wait\"", "overlap"),
            ("cron = \"@daily\"\nzone = \"UTC\"", "unknown key `zone`"),
            (
                "cron = \"@daily\"\nname = \"schedule-2\"\n[[schedule]]\ncron = \"@daily\"",
                "two schedules have the name schedule-2",
            ),
        ] {
            let error = Manifest::parse(&format!("[[schedule]]\n{lines}")).unwrap_err().to_string();
            assert!(error.contains(part), "{lines}: {error}");
        }
        let with_input =
            |bytes: usize| format!("[[schedule]]\ncron = \"@daily\"\ninput = \"{}\"", "x".repeat(bytes - 2));
        assert!(Manifest::parse(&with_input(INPUT_BYTES_MAX)).is_ok());
        let error = Manifest::parse(&with_input(INPUT_BYTES_MAX + 1)).unwrap_err().to_string();
        assert!(error.contains("input has 65537 bytes; the limit is 65536"), "{error}");
        let many = |count: usize| Manifest::parse(&"[[schedule]]\ncron = \"@daily\"\n".repeat(count));
        assert!(many(SCHEDULES_MAX).is_ok() && many(SCHEDULES_MAX + 1).is_err());
    }
}
