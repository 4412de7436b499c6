//! The `[jobs]` table of a manifest: how a function's background jobs run, are tried again and are kept.
//!
//! Invariant: like the rest of a manifest, the settings have been checked. No tenant's limit is in force here yet; see
//! [`crate::limits::TenantLimits::cap_jobs`].

use crate::hop::RequestCaps;
use crate::manifest::{FunctionLimits, INSTANCES_MAX, ManifestError};
use serde::{Deserialize, Serialize};

/// Seconds in a week, the longest time that a setting of jobs may be.
const WEEK_S: u64 = 7 * 24 * 3600;
/// Bytes of the JSON pointer to a job's concurrency key.
const KEY_BYTES_MAX: usize = 256;
/// The conditions after which a job may be tried again: the function answered with an error (a status that is no
/// success, or an output with `error`), it trapped, its time was used up, its worker ended, it was refused memory, or
/// the platform is at fault.
pub const RETRY_CONDITIONS: [&str; 6] = ["error", "trap", "timeout", "killed", "memory", "platform"];

/// How the function's background jobs run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JobSettings {
    /// Attempts after the first.
    #[schema(minimum = 0, maximum = 100)]
    pub retries: u64,
    /// Starts of the function in a row that may fail for a job before it fails.
    #[schema(minimum = 1, maximum = 1000)]
    pub start_attempts: u64,
    /// Delay before the first retry. It doubles with each further one.
    #[schema(minimum = 0, maximum = 86400)]
    pub backoff_s: u64,
    /// The longest delay before a retry.
    #[schema(minimum = 1, maximum = 86400)]
    pub backoff_max_s: u64,
    /// The conditions after which a job is tried again: `error`, `trap`, `timeout`, `killed`, `memory`, `platform`.
    #[schema(max_items = 6)]
    pub retry_on: Vec<String>,
    /// Time of one attempt.
    #[schema(minimum = 5, maximum = 604800)]
    pub timeout_s: u64,
    /// CPU time of the guest in one attempt, instead of `limits.cpu_ms`.
    #[schema(minimum = 1, maximum = 604800000)]
    pub cpu_ms: u64,
    /// GPU time of one attempt, instead of `limits.gpu_time_ms`.
    #[schema(minimum = 1, maximum = 604800000)]
    pub gpu_time_ms: u64,
    /// Jobs of one version that run at once; 0 stands for three quarters of `limits.concurrency`.
    #[schema(minimum = 0, maximum = 128)]
    pub concurrency: u64,
    /// A JSON pointer (RFC 6901) to the part of a job's input that is its concurrency key. Without it, jobs have none.
    #[schema(max_length = 256, pattern = "^(/([^/~]|~[01])*)*$")]
    pub key: String,
    /// Jobs with the same concurrency key that run at once.
    #[schema(minimum = 1, maximum = 128)]
    pub key_concurrency: u64,
    /// Jobs with the same concurrency key that begin in a minute, evenly spaced; 0: as many as can.
    #[schema(minimum = 0, maximum = 60000)]
    pub key_per_minute: u64,
    /// Time from a job's submission within which it must end.
    #[schema(minimum = 10, maximum = 604800)]
    pub ttl_s: u64,
    /// How long a job's result is kept.
    #[schema(minimum = 60, maximum = 604800)]
    pub result_s: u64,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            retries: 3,
            start_attempts: 10,
            backoff_s: 5,
            backoff_max_s: 600,
            retry_on: vec!["killed".into(), "platform".into()],
            timeout_s: 600,
            cpu_ms: 600_000,
            gpu_time_ms: 600_000,
            concurrency: 0,
            key: String::new(),
            key_concurrency: 1,
            key_per_minute: 0,
            ttl_s: 86_400,
            result_s: 1_800,
        }
    }
}

impl JobSettings {
    /// Returns what one attempt may use, in place of the function's limits.
    pub fn caps(&self) -> RequestCaps {
        RequestCaps {
            cpu_ms: self.cpu_ms,
            gpu_time_ms: self.gpu_time_ms,
            timeout_ms: self.timeout_s.saturating_mul(1000),
        }
    }

    /// Returns how many jobs of a version with these limits run at once. By default a quarter of its concurrency is left
    /// to requests, so that jobs do not keep clients waiting.
    pub fn concurrency(&self, limits: &FunctionLimits) -> u64 {
        match self.concurrency {
            0 => (limits.concurrency * 3 / 4).max(1),
            some => some,
        }
    }

    /// Returns the settings that are numbers: name, value, smallest and largest allowed value.
    pub(super) fn bounds(&self) -> [(&'static str, u64, u64, u64); 12] {
        let (instances, week_ms) = (u64::from(INSTANCES_MAX), WEEK_S * 1000);
        [
            ("jobs.retries", self.retries, 0, 100),
            ("jobs.start_attempts", self.start_attempts, 1, 1000),
            ("jobs.backoff_s", self.backoff_s, 0, 24 * 3600),
            ("jobs.backoff_max_s", self.backoff_max_s, 1, 24 * 3600),
            ("jobs.timeout_s", self.timeout_s, 5, WEEK_S),
            ("jobs.cpu_ms", self.cpu_ms, 1, week_ms),
            ("jobs.gpu_time_ms", self.gpu_time_ms, 1, week_ms),
            ("jobs.concurrency", self.concurrency, 0, instances),
            ("jobs.key_concurrency", self.key_concurrency, 1, instances),
            ("jobs.key_per_minute", self.key_per_minute, 0, 60_000),
            ("jobs.ttl_s", self.ttl_s, 10, WEEK_S),
            ("jobs.result_s", self.result_s, 60, WEEK_S),
        ]
    }

    /// Checks the settings that are texts.
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        let count = self.retry_on.len();
        if count > RETRY_CONDITIONS.len() {
            let most = RETRY_CONDITIONS.len();
            return Err(ManifestError(format!("jobs.retry_on has {count} conditions; the limit is {most}")));
        }
        if let Some(other) = self.retry_on.iter().find(|condition| !RETRY_CONDITIONS.contains(&condition.as_str())) {
            let other: String = other.chars().take(64).collect();
            let known = RETRY_CONDITIONS.join(", ");
            return Err(ManifestError(format!("jobs.retry_on holds {other:?}; the conditions are {known}")));
        }
        if !is_pointer(&self.key) {
            let key: String = self.key.chars().take(64).collect();
            return Err(ManifestError(format!(
                "jobs.key = {key:?}; it must be a JSON pointer such as \"/user/id\", of at most {KEY_BYTES_MAX} bytes"
            )));
        }
        Ok(())
    }
}

/// Whether a text is a JSON pointer (RFC 6901, 3) that is not too long. The empty one points to the whole input.
fn is_pointer(text: &str) -> bool {
    text.len() <= KEY_BYTES_MAX
        && (text.is_empty() || text.starts_with('/'))
        && text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    #[test]
    fn a_manifest_sets_how_its_jobs_run() {
        assert_eq!(Manifest::parse("").unwrap().jobs, JobSettings::default());
        let text =
            "[jobs]\nretries = 0\nretry_on = [\"error\", \"memory\"]\nkey = \"/user/a~1b\"\ntimeout_s = 604800\n";
        let jobs = Manifest::parse(text).unwrap().jobs;
        assert_eq!((jobs.retries, jobs.retry_on.len(), jobs.key.as_str()), (0, 2, "/user/a~1b"));
        assert_eq!(jobs.caps().timeout_ms, 604_800_000);
        assert_eq!((jobs.caps().cpu_ms, jobs.caps().gpu_time_ms), (600_000, 600_000));
    }

    #[test]
    fn settings_out_of_range_are_refused_by_their_name() {
        for (line, part) in [
            ("retries = 101", "jobs.retries = 101; it may be 0 to 100"),
            ("timeout_s = 4", "jobs.timeout_s = 4; it may be 5 to 604800"),
            ("cpu_ms = 604800001", "jobs.cpu_ms = 604800001; it may be 1 to 604800000"),
            ("concurrency = 129", "jobs.concurrency = 129; it may be 0 to 128"),
            ("key_per_minute = 60001", "jobs.key_per_minute = 60001; it may be 0 to 60000"),
            ("ttl_s = 9", "jobs.ttl_s = 9; it may be 10 to 604800"),
            ("result_s = 59", "jobs.result_s = 59; it may be 60 to 604800"),
            ("retrys = 1", "unknown key `retrys`; the nearest known one is `retries`"),
            ("retry_on = [\"always\"]", "jobs.retry_on holds \"always\"; the conditions are error, trap"),
            ("key = \"user\"", "jobs.key = \"user\"; it must be a JSON pointer"),
            ("key = \"/a~2\"", "jobs.key = \"/a~2\""),
        ] {
            let error = Manifest::parse(&format!("[jobs]\n{line}")).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let long = "a".repeat(KEY_BYTES_MAX);
        assert!(Manifest::parse(&format!("[jobs]\nkey = \"/{long}\"")).is_err());
        let many = vec!["error"; 7];
        assert!(Manifest::parse(&format!("[jobs]\nretry_on = {many:?}")).is_err());
    }

    #[test]
    fn jobs_leave_a_quarter_of_a_versions_concurrency_to_requests() {
        let with = |jobs, concurrency| {
            let limits = FunctionLimits { concurrency, ..FunctionLimits::default() };
            JobSettings { concurrency: jobs, ..JobSettings::default() }.concurrency(&limits)
        };
        assert_eq!((with(0, 16), with(0, 1), with(0, 3), with(5, 16)), (12, 1, 2, 5));
    }
}
