//! The `[scale]` table of a manifest: how many workers serve a function, one on each GPU.
//!
//! Invariant: like the rest of a manifest, the settings have been checked: `min` is at most `max`.

use crate::manifest::{FunctionLimits, INSTANCES_MAX};
use serde::{Deserialize, Serialize};

/// Most workers of a function.
const WORKERS_MAX: u64 = 1024;

/// When a function gets another worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRule {
    /// When the oldest waiting request or job has waited for `queue_delay_s`: one more.
    #[default]
    QueueDelay,
    /// As many as the requests and jobs that run or wait, divided by `requests_per_worker`.
    RequestCount,
}

/// How a function scales.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scale {
    /// Number of workers that are kept running with the function loaded, each in a GPU slot of its own. A server with fewer
    /// slots keeps one in each. Their GPU memory is charged.
    #[schema(minimum = 0, maximum = 1024)]
    pub min: u64,
    /// Workers that may serve the function at once, one on each GPU.
    #[schema(minimum = 1, maximum = 1024)]
    pub max: u64,
    /// How long an idle worker is kept.
    #[schema(minimum = 1, maximum = 86400)]
    pub idle_timeout_s: u64,
    /// When the function gets another worker.
    pub rule: ScaleRule,
    /// With `queue_delay`: how long the oldest request or job waits before there is one worker more.
    #[schema(minimum = 1, maximum = 3600)]
    pub queue_delay_s: u64,
    /// With `request_count`: requests and jobs for each worker; 0 stands for `limits.concurrency`.
    #[schema(minimum = 0, maximum = 128)]
    pub requests_per_worker: u64,
    /// Requests that one instance serves, one after the other; 1 gives each request a fresh instance.
    #[schema(minimum = 1, maximum = 1000000)]
    pub instance_reuse: u64,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            min: 0,
            max: 4,
            idle_timeout_s: 60,
            rule: ScaleRule::QueueDelay,
            queue_delay_s: 4,
            requests_per_worker: 0,
            instance_reuse: 1,
        }
    }
}

impl Scale {
    /// Returns the settings with their ranges: name, value, smallest and largest allowed value.
    pub(super) fn bounds(&self) -> [(&'static str, u64, u64, u64); 6] {
        [
            ("scale.max", self.max, 1, WORKERS_MAX),
            ("scale.min", self.min, 0, self.max),
            ("scale.idle_timeout_s", self.idle_timeout_s, 1, 24 * 3600),
            ("scale.queue_delay_s", self.queue_delay_s, 1, 3600),
            ("scale.requests_per_worker", self.requests_per_worker, 0, u64::from(INSTANCES_MAX)),
            ("scale.instance_reuse", self.instance_reuse, 1, 1_000_000),
        ]
    }

    /// Returns how many requests and jobs one worker is for, under the rule `request_count`.
    pub fn requests_per_worker(&self, limits: &FunctionLimits) -> u64 {
        if self.requests_per_worker == 0 { limits.concurrency.max(1) } else { self.requests_per_worker }
    }
}
