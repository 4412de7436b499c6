//! Types of the operations on functions, their versions, kernels and logs.

use gannet_base::log_line::LogLine;
use gannet_base::manifest::Manifest;
use gannet_base::records::Sticky;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A function in a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FunctionView {
    /// Name of the function, unique in its tenant.
    pub name: String,
    /// Number of the current version, which gets most requests.
    pub version: u32,
    /// SHA-256 of that version's component, in hex.
    pub digest: String,
    /// When that version was created.
    #[schema(format = DateTime)]
    pub deployed: String,
    /// Whether it can be called without a key.
    pub public: bool,
    /// URL at which it can be called.
    pub url: String,
    /// Names of that version's kernels.
    pub kernels: Vec<String>,
    /// Workers that have that version loaded.
    #[serde(default)]
    pub workers: usize,
    /// Workers that its scaling wants now.
    #[serde(default)]
    pub workers_wanted: usize,
}

/// A page of functions, sorted by name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Functions {
    /// The functions of this page.
    pub functions: Vec<FunctionView>,
    /// The `cursor` argument for the next page. Null on the last page.
    pub cursor: Option<String>,
}

/// Recent kills of workers while they ran a function's requests.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct KillsView {
    /// Number of kills in a row.
    pub count: u32,
    /// Time of the last kill.
    #[schema(format = DateTime)]
    pub last: String,
    /// Reason of the last kill.
    pub why: String,
    /// Milliseconds until the function may run again; 0 if it may run now.
    pub backing_off_ms: u64,
}

/// The health of a function.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// Names of the current version's kernels that are in quarantine: they may not run until they are deployed again.
    pub quarantined_kernels: Vec<String>,
    /// Kills of its workers. Null if there was none lately.
    pub kills: Option<KillsView>,
}

/// A function with its settings, traffic, tags and health.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FunctionDetail {
    /// The fields that a list has too.
    #[serde(flatten)]
    pub function: FunctionView,
    /// Manifest of the current version.
    pub manifest: Manifest,
    /// Warnings of the builder about the current version.
    pub warnings: Vec<String>,
    /// Weights by version, as in `{"v3": 90, "v4": 10}`.
    pub traffic: BTreeMap<String, u32>,
    /// Header or cookie that pins a client to a version.
    pub sticky: Option<Sticky>,
    /// Version numbers by tag.
    pub tags: BTreeMap<String, u32>,
    /// Its quarantined kernels and the kills of its workers.
    pub health: HealthView,
}

/// The result of a deploy.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Deployed {
    /// The tenant that owns the function.
    pub tenant: String,
    /// Name of the function.
    pub name: String,
    /// Number of the version; 0 in a dry run that would create a new one.
    pub version: u32,
    /// SHA-256 of its component, in hex.
    pub digest: String,
    /// URL at which it can be called.
    pub url: String,
    /// Tag that the deploy has set, if it was asked for one.
    pub tag: Option<String>,
    /// Names of its kernels.
    pub kernels: Vec<String>,
    /// Warnings of the builder.
    pub warnings: Vec<String>,
    /// Whether this was a dry run, which changes nothing.
    pub dry_run: bool,
}

/// A version in a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct VersionView {
    /// Number of the version.
    pub version: u32,
    /// Whether it is the current version, which gets most requests.
    pub current: bool,
    /// Its weight in the traffic; 0 if it gets none.
    pub weight: u32,
    /// The tags that lead to it.
    pub tags: Vec<String>,
    /// SHA-256 of its component, in hex.
    pub digest: String,
    /// Size of its component in bytes.
    pub size: u64,
    /// When it was created.
    #[schema(format = DateTime)]
    pub deployed: String,
    /// Why it was created, such as `settings`. Null for an upload.
    pub cause: Option<String>,
}

/// The versions of a function, newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Versions {
    /// Name of the function.
    pub name: String,
    /// Its versions.
    pub versions: Vec<VersionView>,
}

/// How requests are split among versions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Weights by version, as in `{"v3": 90, "v4": 10}`.
    pub traffic: BTreeMap<String, u32>,
    /// Header or cookie that pins a client to a version.
    pub sticky: Option<Sticky>,
}

/// A request to split requests among versions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrafficChoice {
    /// Weights by version, as in `{"v3": 90, "v4": 10}`.
    pub traffic: BTreeMap<String, u32>,
    /// Header or cookie that pins a client to a version.
    #[serde(default)]
    pub sticky: Option<Sticky>,
}

/// A request to roll back.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RollBack {
    /// Number of the version to go back to. Without it, the version that was current before.
    #[schema(minimum = 0, maximum = 4_294_967_295_u64)]
    pub version: Option<u32>,
}

/// A request to set a tag.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagChoice {
    /// Number of the version that the tag leads to.
    #[schema(minimum = 0, maximum = 4_294_967_295_u64)]
    pub version: u32,
}

/// A kernel of a version.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct KernelView {
    /// Name that the function gives it.
    pub name: String,
    /// Name of its entry point.
    pub entry: String,
    /// WGSL source as it was deployed.
    pub wgsl: String,
    /// WGSL source as it runs. Null if it was not known at deploy.
    pub hardened: Option<String>,
}

/// The kernels of a version.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Kernels {
    /// Name of the function.
    pub name: String,
    /// Number of the version.
    pub version: u32,
    /// Its kernels.
    pub kernels: Vec<KernelView>,
}

/// Log lines of a function.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LogLines {
    /// The lines, oldest first.
    pub lines: Vec<LogLine>,
}
