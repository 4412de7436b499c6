//! What `health` says of a function: its jobs by state, its workers as Runpod's clients know them, and why its jobs wait.
//!
//! Runpod's workers serve one job each, ours several. So `running` is not the number of jobs: it is at most the number of
//! workers that have loaded the function. `throttled` and `unhealthy` are 0 or 1, because they are about the function.

use super::ServerJobs;
use gannet_base::names::{FunctionName, TenantName};
use gannet_jobs::runner::{WaitReason, Workers};
use gannet_jobs::view::JobCounts;
use serde::Serialize;

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JobsHealth)]
pub(super) struct Health {
    jobs: JobCounts,
    workers: WorkerCounts,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_reason: Option<WaitReason>,
    /// Why the function's workers end or do not start, while that is so again and again.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

/// Workers as Runpod's clients know them. A worker serves several jobs.
#[derive(Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = JobWorkers)]
pub(super) struct WorkerCounts {
    /// They have loaded the function, and no job needs them.
    idle: u64,
    /// They are to come.
    initializing: u64,
    /// The same as `idle`.
    ready: u64,
    /// They have loaded the function, and jobs run.
    running: u64,
    /// 1 if jobs wait because there is no capacity or a limit of the tenant is used up.
    throttled: u64,
    /// 1 if the function fails again and again.
    unhealthy: u64,
}

impl Health {
    /// Returns what is known of a function now.
    pub(super) fn of(jobs: &ServerJobs, names: &(TenantName, FunctionName)) -> Self {
        let (counts, wait_reason) = jobs.counts(names);
        let last_error = jobs.crash_loop(names);
        let known = jobs.workers(names).unwrap_or_default();
        let workers = WorkerCounts::of(counts, known, wait_reason, last_error.is_some());
        Self { jobs: counts, workers, wait_reason, last_error }
    }
}

impl WorkerCounts {
    fn of(counts: JobCounts, known: Workers, wait_reason: Option<WaitReason>, is_failing: bool) -> Self {
        let is_failing = is_failing || wait_reason == Some(WaitReason::CrashLoop);
        let is_held_up = matches!(wait_reason, Some(WaitReason::Capacity | WaitReason::Quota));
        let running = counts.in_progress.min(known.loaded);
        let idle = known.loaded - running;
        Self {
            idle,
            initializing: known.missing,
            ready: idle,
            running,
            throttled: u64::from(counts.in_queue > 0 && is_held_up && !is_failing),
            unhealthy: u64::from(is_failing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the counts for 3 jobs that wait, jobs that run, and workers that have loaded the function.
    #[track_caller]
    fn check((in_progress, loaded, reason): (u64, u64, Option<WaitReason>), expected: [u64; 4]) {
        let counts = JobCounts { in_queue: 3, in_progress, ..JobCounts::default() };
        let workers = WorkerCounts::of(counts, Workers { loaded, missing: 1 }, reason, false);
        assert_eq!((workers.initializing, workers.ready), (1, workers.idle));
        assert_eq!([workers.running, workers.idle, workers.throttled, workers.unhealthy], expected);
    }

    #[test]
    fn no_more_workers_run_than_have_loaded_the_function() {
        check((5, 2, None), [2, 0, 0, 0]);
        check((1, 2, None), [1, 1, 0, 0]);
        check((0, 2, None), [0, 2, 0, 0]);
        // The job's attempt has begun, and its function is being loaded.
        check((1, 0, None), [0, 0, 0, 0]);
    }

    #[test]
    fn only_capacity_and_quota_throttle() {
        check((0, 0, Some(WaitReason::Capacity)), [0, 0, 1, 0]);
        check((0, 0, Some(WaitReason::Quota)), [0, 0, 1, 0]);
        check((0, 0, Some(WaitReason::Loading)), [0, 0, 0, 0]);
        check((0, 0, Some(WaitReason::Paused)), [0, 0, 0, 0]);
        check((0, 0, Some(WaitReason::CrashLoop)), [0, 0, 0, 1]);
        let failing = JobCounts { in_queue: 1, ..JobCounts::default() };
        let workers = WorkerCounts::of(failing, Workers::default(), Some(WaitReason::Capacity), true);
        assert_eq!((workers.throttled, workers.unhealthy), (0, 1));
        let none_waits = WorkerCounts::of(JobCounts::default(), Workers::default(), Some(WaitReason::Capacity), false);
        assert_eq!(none_waits.throttled, 0);
    }
}
