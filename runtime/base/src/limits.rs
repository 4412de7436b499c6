//! The limits of a tenant: one table with the default, the range and the unit of each. Pure.
//!
//! ```text
//!  the table's default ◀─ the server file's `[limits]` ◀─ the tenant's own  = the limit in force
//! ```
//!
//! The rightmost value that is set applies. Invariant: no setting of a function is in force beyond its tenant's limit,
//! even if the limit was lowered after the function was deployed.

use crate::manifest;
use crate::manifest::Manifest;
use crate::names;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSpec {
    /// Name of the limit. It ends in the unit.
    pub name: &'static str,
    /// The value if neither the server file nor the operator sets one.
    pub default: u64,
    /// The smallest value that may be set.
    pub least: u64,
    /// The largest value that may be set.
    pub most: u64,
}

/// A value that is out of the limit's range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} = {value}; it may be {least} to {most}")]
pub struct OutOfRange {
    /// Name of the limit.
    pub name: &'static str,
    /// The value given.
    pub value: u64,
    /// The smallest allowed value.
    pub least: u64,
    /// The largest allowed value.
    pub most: u64,
}

macro_rules! limits {
    ($( $(#[doc = $doc:literal])* $name:ident: $default:tt, $least:tt, $most:tt; )*) => {
        /// The limits in force for a tenant.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
        pub struct TenantLimits {
            $( $(#[doc = $doc])* #[schema(minimum = $least, maximum = $most)] pub $name: u64, )*
        }

        impl Default for TenantLimits {
            fn default() -> Self {
                Self { $( $name: $default, )* }
            }
        }

        /// The limits that were set, for the server or for one tenant. Those that are left out keep the value from the
        /// level below.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct LimitsChoice {
            $(
                $(#[doc = $doc])*
                #[serde(skip_serializing_if = "Option::is_none")]
                #[schema(minimum = $least, maximum = $most)]
                pub $name: Option<u64>,
            )*
        }

        impl TenantLimits {
            /// Returns all limits by their names.
            pub fn by_name(&self) -> BTreeMap<String, u64> {
                [$( (stringify!($name).to_owned(), self.$name), )*].into()
            }
        }

        impl LimitsChoice {
            /// Returns the limits that are set here, by their names.
            pub fn by_name(&self) -> BTreeMap<String, u64> {
                let pairs = [$( (stringify!($name), self.$name), )*];
                pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
            }

            /// Returns the limits that are out of range.
            pub fn check(&self) -> Vec<OutOfRange> {
                let mut wrong = Vec::new();
                $(
                    if let Some(value) = self.$name
                        && !($least..=$most).contains(&value)
                    {
                        wrong.push(OutOfRange { name: stringify!($name), value, least: $least, most: $most });
                    }
                )*
                wrong
            }

            /// Returns the limits in force: those set here, and for the others those of `below`.
            pub fn over(&self, below: &TenantLimits) -> TenantLimits {
                TenantLimits { $( $name: self.$name.unwrap_or(below.$name), )* }
            }

            /// Returns these limits with a JSON merge patch (RFC 7396) applied: null unsets a limit.
            pub fn patched(&self, patch: &serde_json::Map<String, serde_json::Value>) -> Result<Self, String> {
                let mut next = self.clone();
                for (key, value) in patch {
                    let value = match value {
                        serde_json::Value::Null => None,
                        other => Some(other.as_u64().ok_or_else(|| format!("{key} = {other}; it must be a whole number, or null for the default"))?),
                    };
                    match key.as_str() {
                        $( stringify!($name) => next.$name = value, )*
                        _ => return Err(unknown(key)),
                    }
                }
                Ok(next)
            }
        }

        /// The table of all limits.
        pub const LIMITS: &[LimitSpec] = &[
            $( LimitSpec { name: stringify!($name), default: $default, least: $least, most: $most }, )*
        ];
    };
}

limits! {
    /// Requests admitted per second, of all functions together.
    requests_per_s: 50_000, 1, 1_000_000;
    /// Requests that may come at once after a quiet time.
    requests_burst: 100_000, 1, 1_000_000;
    /// Requests in flight, waiting or running.
    concurrency: 512, 1, 1_000_000;
    /// Requests that wait for a permit.
    queue_depth: 256, 0, 1_000_000;
    /// The most that a manifest may set `limits.timeout_ms` to.
    timeout_ms: 600_000, 1, 600_000;
    /// The most that a manifest may set `limits.stream_timeout_ms` to.
    stream_timeout_ms: 86_400_000, 1, 86_400_000;
    /// The most that a manifest may set `limits.stream_idle_ms` to.
    stream_idle_ms: 3_600_000, 1, 3_600_000;
    /// The most that a manifest may set `limits.queue_ms` to.
    queue_ms: 600_000, 0, 600_000;
    /// The most that a manifest may set `limits.cpu_ms` to.
    cpu_ms: 600_000, 1, 600_000;
    /// The most that a manifest may set `limits.memory_mib` to.
    memory_mib: 1_024, 1, 1_024;
    /// The most that a manifest may set `limits.gpu_memory_mib` to.
    gpu_memory_mib: 4_096, 1, 1_048_576;
    /// The most that a manifest may set `limits.gpu_time_ms` to.
    gpu_time_ms: 600_000, 1, 600_000;
    /// The most that a manifest may set `limits.loop_mi_ops` to.
    loop_mi_ops: 4, 1, 64;
    /// The most that a manifest may set `limits.concurrency` to.
    function_concurrency: 512, 1, 1_000;
    /// The most that a manifest may set `limits.body_mib` to.
    body_mib: 1_024, 0, 1_024;
    /// The most that a manifest may set `limits.log_kib` to.
    log_kib: 16_384, 0, 16_384;
    /// The most that a manifest may set `jobs.timeout_s` to.
    job_timeout_s: 86_400, 5, 604_800;
    /// The most that a manifest may set `jobs.cpu_ms` to.
    job_cpu_ms: 3_600_000, 1, 604_800_000;
    /// The most that a manifest may set `jobs.gpu_time_ms` to.
    job_gpu_time_ms: 3_600_000, 1, 604_800_000;
    /// Number of jobs that wait or run.
    jobs_queued: 100_000, 0, 10_000_000;
    /// Size of the inputs and results of all jobs together.
    jobs_mib: 1_024, 0, 16_777_216;
    /// Number of keys in key-value storage, of all buckets together.
    keyvalue_keys: 100_000, 0, 10_000_000;
    /// Size of key-value storage: of each key its name, its value and 128 bytes.
    keyvalue_mib: 64, 0, 1_048_576;
    /// Number of schedules, in manifests and made by API, of all functions together.
    schedules: 100, 0, 10_000;
    /// Number of hooks, at which others post events, of all functions together.
    hooks: 100, 0, 10_000;
    /// Size of one component.
    component_mib: 64, 1, 1_024;
    /// Size of all components together, with their compiled code, kernels, driver caches and records.
    components_mib: 10_240, 1, 16_777_216;
    /// Number of versions of all functions together.
    versions: 10_000, 1, 1_000_000;
    /// Size of the records of all versions: settings, environment and names of kernels. A server keeps them in memory.
    records_mib: 64, 1, 16_384;
    /// CPU time of builds in a day (UTC). A build that is running when it is reached runs to its end.
    build_cpu_ms_per_day: 3_600_000, 0, 86_400_000_000_u64;
    /// Changes through the control API per second. Ten times as many may come at once.
    changes_per_s: 100, 1, 1_000_000;
    /// Number of functions.
    functions: 1_000, 0, 100_000;
    /// Number of secrets.
    secrets: 100, 0, 10_000;
    /// Number of keys.
    keys: 100, 1, 10_000;
    /// Size of all assets together.
    assets_mib: 10_240, 0, 16_777_216;
    /// GPU time in a day (UTC).
    gpu_ms_per_day: 86_400_000, 0, 86_400_000_000_u64;
    /// Outbound HTTP in a day (UTC), both directions.
    egress_mib_per_day: 10_240, 0, 16_777_216;
    /// Charges in a month (UTC), in micro-units of the currency.
    spend_micro_units_per_month: 1_000_000_000_000, 0, 1_000_000_000_000_000_u64;
    /// GPU memory that functions with `scale.min` may keep without requests.
    resident_gpu_mib: 0, 0, 16_777_216;
    /// Weight of the tenant's share of a GPU, relative to other tenants.
    gpu_weight: 1, 1, 1_000;
}

/// Time that an endless kernel took on an H100 for 2^20 operations of its budget, rounded up (measured: 35 ms for four
/// times as many).
const LOOP_MS_PER_MI_OPS: u64 = 9;

/// Returns the most that `loop_mi_ops` may be where a worker has this long to release a GPU. With more, a workgroup that
/// runs to the end of its budget would get its worker killed.
pub fn loop_mi_ops_most(lease_grace_ms: u64) -> u64 {
    lease_grace_ms / LOOP_MS_PER_MI_OPS
}

/// Returns the limits of `choice` that are too high for a server with this grace.
pub fn check_grace(choice: &LimitsChoice, lease_grace_ms: u64) -> Option<OutOfRange> {
    let most = loop_mi_ops_most(lease_grace_ms);
    let value = choice.loop_mi_ops.filter(|value| *value > most)?;
    Some(OutOfRange { name: "loop_mi_ops", value, least: 1, most })
}

fn unknown(key: &str) -> String {
    let nearest = names::similar(key, LIMITS.iter().map(|limit| limit.name));
    let key: String = key.chars().take(64).collect();
    match nearest {
        Some(known) => format!("unknown limit {key:?}; the nearest known one is {known:?}"),
        None => format!("unknown limit {key:?}; `gannet limits` shows the known ones"),
    }
}

impl TenantLimits {
    /// Returns a function's settings, each with the tenant's limit for it.
    fn pairs(&self, manifest: &Manifest) -> [(&'static str, u64, u64); 16] {
        let (l, jobs) = (&manifest.limits, &manifest.jobs);
        let resident = if manifest.scale.min == 0 { 0 } else { 1 };
        [
            ("timeout_ms", l.timeout_ms, self.timeout_ms),
            ("stream_timeout_ms", l.stream_timeout_ms, self.stream_timeout_ms),
            ("stream_idle_ms", l.stream_idle_ms, self.stream_idle_ms),
            ("queue_ms", l.queue_ms, self.queue_ms),
            ("cpu_ms", l.cpu_ms, self.cpu_ms),
            ("memory_mib", l.memory_mib, self.memory_mib),
            ("gpu_memory_mib", l.gpu_memory_mib, self.gpu_memory_mib),
            ("gpu_time_ms", l.gpu_time_ms, self.gpu_time_ms),
            ("loop_mi_ops", l.loop_mi_ops, self.loop_mi_ops),
            ("concurrency", l.concurrency, self.function_concurrency),
            ("body_mib", l.body_mib, self.body_mib),
            ("log_kib", l.log_kib, self.log_kib),
            ("jobs.timeout_s", jobs.timeout_s, self.job_timeout_s),
            ("jobs.cpu_ms", jobs.cpu_ms, self.job_cpu_ms),
            ("jobs.gpu_time_ms", jobs.gpu_time_ms, self.job_gpu_time_ms),
            ("resident_gpu_mib (scale.min > 0)", resident, self.resident_gpu_mib),
        ]
    }

    /// Returns the first setting of a manifest that is beyond these limits: name, value, limit.
    pub fn exceeded_by(&self, manifest: &Manifest) -> Option<(&'static str, u64, u64)> {
        self.pairs(manifest).into_iter().find(|(_, value, limit)| value > limit)
    }

    /// Returns a function's settings, lowered to these limits. The limits may have been lowered after it was deployed.
    pub fn cap(&self, asked: &manifest::FunctionLimits) -> manifest::FunctionLimits {
        manifest::FunctionLimits {
            timeout_ms: asked.timeout_ms.min(self.timeout_ms),
            stream_timeout_ms: asked.stream_timeout_ms.min(self.stream_timeout_ms),
            stream_idle_ms: asked.stream_idle_ms.min(self.stream_idle_ms),
            queue_ms: asked.queue_ms.min(self.queue_ms),
            cpu_ms: asked.cpu_ms.min(self.cpu_ms),
            memory_mib: asked.memory_mib.min(self.memory_mib),
            gpu_memory_mib: asked.gpu_memory_mib.min(self.gpu_memory_mib),
            gpu_time_ms: asked.gpu_time_ms.min(self.gpu_time_ms),
            loop_mi_ops: asked.loop_mi_ops.min(self.loop_mi_ops),
            concurrency: asked.concurrency.min(self.function_concurrency),
            body_mib: asked.body_mib.min(self.body_mib),
            log_kib: asked.log_kib.min(self.log_kib),
        }
    }

    /// Returns the settings of a function's jobs, lowered to these limits in the same way.
    pub fn cap_jobs(&self, asked: &manifest::JobSettings) -> manifest::JobSettings {
        manifest::JobSettings {
            timeout_s: asked.timeout_s.min(self.job_timeout_s),
            cpu_ms: asked.cpu_ms.min(self.job_cpu_ms),
            gpu_time_ms: asked.gpu_time_ms.min(self.job_gpu_time_ms),
            ..asked.clone()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patch(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_tenants_choice_lies_over_the_servers_and_the_tables() {
        let server = LimitsChoice { functions: Some(5), keys: Some(3), ..LimitsChoice::default() };
        let below = server.over(&TenantLimits::default());
        let own = LimitsChoice::default().patched(&patch(json!({ "functions": 7 }))).unwrap();
        let force = own.over(&below);
        assert_eq!((force.functions, force.keys, force.secrets), (7, 3, 100));
        let back = own.patched(&patch(json!({ "functions": null }))).unwrap();
        assert_eq!(back.over(&below).functions, 5);
    }

    #[test]
    fn what_is_no_limit_is_told_with_the_nearest_known_one() {
        let choice = LimitsChoice::default();
        let told = choice.patched(&patch(json!({ "function": 7 }))).unwrap_err();
        assert_eq!(told, "unknown limit \"function\"; the nearest known one is \"functions\"");
        assert!(choice.patched(&patch(json!({ "functions": -1 }))).unwrap_err().contains("whole number"));
        let low = choice.patched(&patch(json!({ "gpu_weight": 0 }))).unwrap().check();
        assert_eq!(low.iter().map(ToString::to_string).collect::<Vec<_>>(), ["gpu_weight = 0; it may be 1 to 1000"]);
    }

    #[test]
    fn a_manifest_never_gets_more_than_its_tenants_limit() {
        let mut manifest = Manifest::default();
        let tight = LimitsChoice { memory_mib: Some(64), ..LimitsChoice::default() }.over(&TenantLimits::default());
        assert_eq!(tight.exceeded_by(&manifest), Some(("memory_mib", 128, 64)));
        assert_eq!(tight.cap(&manifest.limits).memory_mib, 64);
        manifest.limits.memory_mib = 32;
        assert_eq!(tight.exceeded_by(&manifest), None);
        manifest.jobs.timeout_s = 604_800;
        assert_eq!(tight.exceeded_by(&manifest), Some(("jobs.timeout_s", 604_800, 86_400)));
        manifest.jobs = tight.cap_jobs(&manifest.jobs);
        assert_eq!(tight.exceeded_by(&manifest), None);
        manifest.scale.min = 1;
        assert_eq!(tight.exceeded_by(&manifest).unwrap().2, 0, "nobody keeps a gpu for free");
        let long = LimitsChoice { loop_mi_ops: Some(12), ..LimitsChoice::default() };
        assert_eq!(check_grace(&long, 100).map(|wrong| wrong.most), Some(11));
        assert_eq!(check_grace(&long, 108), None);
        for limit in LIMITS {
            assert!((limit.least..=limit.most).contains(&limit.default), "{limit:?}");
        }
    }
}
