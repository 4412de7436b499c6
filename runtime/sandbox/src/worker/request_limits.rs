//! The limits of one request: its version's, unless the request brings caps of its own, as that of a background job does.
//!
//! Everything that limits a request takes its limits from here, so that a prepared instance, which was made before its
//! request, has those of the request that it serves.

use gannet_base::hop::{RequestCaps, RunLimits};
use std::time::Duration;

/// The limits of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestLimits {
    pub(crate) cpu_ms: u64,
    pub(crate) gpu_time_ms: u64,
    /// Time until the head of the response.
    pub(crate) timeout_ms: u64,
    /// Time for the body of the response, and for a guest that runs on.
    pub(crate) stream_ms: u64,
    pub(crate) stream_idle_ms: u64,
    /// Whether they are those of a job, for texts.
    is_job: bool,
}

impl RequestLimits {
    pub(crate) fn new(version: &RunLimits, caps: Option<RequestCaps>) -> Self {
        match caps {
            Some(RequestCaps { cpu_ms, gpu_time_ms, timeout_ms }) => Self {
                cpu_ms,
                gpu_time_ms,
                timeout_ms,
                stream_ms: timeout_ms,
                stream_idle_ms: timeout_ms,
                is_job: true,
            },
            None => Self {
                cpu_ms: version.cpu_ms,
                gpu_time_ms: version.gpu_time_ms,
                timeout_ms: version.timeout_ms,
                stream_ms: version.stream_ms,
                stream_idle_ms: version.stream_idle_ms,
                is_job: false,
            },
        }
    }

    /// Names the setting for CPU time.
    pub(crate) fn cpu_setting(&self) -> &'static str {
        if self.is_job { "jobs.cpu_ms" } else { "limits.cpu_ms" }
    }

    /// Describes a limit on time for error texts: the setting and its value. `setting` is its name in `[limits]`; a job
    /// has one setting for all of them.
    pub(crate) fn time_setting(&self, setting: &str, limit_ms: u64) -> String {
        if self.is_job {
            return format!("jobs.timeout_s = {}", Duration::from_millis(limit_ms).as_secs_f64());
        }
        format!("limits.{setting} = {limit_ms}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: RunLimits = RunLimits {
        memory_bytes: 1,
        cpu_ms: 2,
        gpu_memory_bytes: 3,
        gpu_time_ms: 4,
        loop_mi_ops: 5,
        log_bytes: 6,
        stream_idle_ms: 7,
        stream_ms: 8,
        timeout_ms: 9,
        instance_reuse: 1,
    };

    #[test]
    fn the_caps_of_a_job_replace_the_limits_of_its_version() {
        let own = RequestLimits::new(&VERSION, None);
        assert_eq!((own.cpu_ms, own.gpu_time_ms, own.timeout_ms), (2, 4, 9));
        assert_eq!((own.stream_ms, own.stream_idle_ms), (8, 7));
        assert_eq!(own.cpu_setting(), "limits.cpu_ms");
        assert_eq!(own.time_setting("stream_idle_ms", 7), "limits.stream_idle_ms = 7");
        let caps = RequestCaps { cpu_ms: 604_800_000, gpu_time_ms: 20, timeout_ms: 600_000 };
        let job = RequestLimits::new(&VERSION, Some(caps));
        assert_eq!((job.cpu_ms, job.gpu_time_ms, job.timeout_ms), (604_800_000, 20, 600_000));
        assert_eq!((job.stream_ms, job.stream_idle_ms), (600_000, 600_000));
        assert_eq!(job.cpu_setting(), "jobs.cpu_ms");
        assert_eq!(job.time_setting("timeout_ms", job.timeout_ms), "jobs.timeout_s = 600");
        assert_eq!(job.time_setting("timeout_ms", 1_500), "jobs.timeout_s = 1.5");
    }
}
