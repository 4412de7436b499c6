//! Functions, their versions, kernels and logs.

use gannet_base::manifest::Manifest;
use gannet_base::records::Sticky;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A function in a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct FunctionView {
    /// Its name.
    pub name: String,
    /// The version that gets most requests.
    pub version: u32,
    /// SHA-256 of that version's component.
    pub digest: String,
    /// When that version was made.
    #[schema(format = DateTime)]
    pub deployed: String,
    /// Whether it can be called without a key.
    pub public: bool,
    /// Where it can be called.
    pub url: String,
    /// The names of its kernels.
    pub kernels: Vec<String>,
}

/// Functions, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct Functions {
    /// One page of them.
    pub functions: Vec<FunctionView>,
    /// Where the next page begins, if there is one.
    pub cursor: Option<String>,
}

/// Kills of a function's workers.
#[derive(Debug, Serialize, ToSchema)]
pub struct KillsView {
    /// How many in a row.
    pub count: u32,
    /// When the last was.
    #[schema(format = DateTime)]
    pub last: String,
    /// Why.
    pub why: String,
    /// How long until it is tried again.
    pub backing_off_ms: u64,
}

/// How a function fares.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthView {
    /// Kernels that may not run until they are deployed again.
    pub quarantined_kernels: Vec<String>,
    /// Kills of its workers, if there were any lately.
    pub kills: Option<KillsView>,
}

/// A function.
#[derive(Debug, Serialize, ToSchema)]
pub struct FunctionDetail {
    /// What a list says of it.
    #[serde(flatten)]
    pub function: FunctionView,
    /// The settings of the version that gets most requests.
    pub manifest: Manifest,
    /// What its author should know.
    pub warnings: Vec<String>,
    /// Which versions get which part of the requests.
    pub traffic: BTreeMap<String, u32>,
    /// By what requests stay with their version.
    pub sticky: Option<Sticky>,
    /// Versions under a tag of their own.
    pub tags: BTreeMap<String, u32>,
    /// How it fares.
    pub health: HealthView,
}

/// What a deploy has made.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deployed {
    /// Whose.
    pub tenant: String,
    /// The function.
    pub name: String,
    /// The version; 0 for one that would be new, in a dry run.
    pub version: u32,
    /// SHA-256 of its component.
    pub digest: String,
    /// Where it can be called.
    pub url: String,
    /// Its tag.
    pub tag: Option<String>,
    /// The names of its kernels.
    pub kernels: Vec<String>,
    /// What its author should know.
    pub warnings: Vec<String>,
    /// Whether nothing was changed.
    pub dry_run: bool,
}

/// A version in a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionView {
    /// Its number.
    pub version: u32,
    /// Whether it gets most requests.
    pub current: bool,
    /// The weight of its part of the requests.
    pub weight: u32,
    /// Its tags.
    pub tags: Vec<String>,
    /// SHA-256 of its component.
    pub digest: String,
    /// The component's size in bytes.
    pub size: u64,
    /// When it was made.
    #[schema(format = DateTime)]
    pub deployed: String,
    /// Why it was made, if not by an upload.
    pub cause: Option<String>,
}

/// The versions of a function, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Versions {
    /// The function.
    pub name: String,
    /// Its versions.
    pub versions: Vec<VersionView>,
}

/// How requests are split among versions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Weights by version, as in `{"v3": 90, "v4": 10}`.
    pub traffic: BTreeMap<String, u32>,
    /// By what requests stay with their version.
    #[serde(default)]
    pub sticky: Option<Sticky>,
}

/// To which version to go back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RollBack {
    /// Its number; the one that was current before if it is left out.
    #[schema(minimum = 0, maximum = 4_294_967_295_u64)]
    pub version: Option<u32>,
}

/// Which version a tag is for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagChoice {
    /// Its number.
    #[schema(minimum = 0, maximum = 4_294_967_295_u64)]
    pub version: u32,
}

/// A kernel.
#[derive(Debug, Serialize, ToSchema)]
pub struct KernelView {
    /// Its name.
    pub name: String,
    /// Its entry point.
    pub entry: String,
    /// As it was deployed.
    pub wgsl: String,
    /// As it runs, if that was known at deploy.
    pub hardened: Option<String>,
}

/// The kernels of a version.
#[derive(Debug, Serialize, ToSchema)]
pub struct Kernels {
    /// The function.
    pub name: String,
    /// The version.
    pub version: u32,
    /// Its kernels.
    pub kernels: Vec<KernelView>,
}

/// Log lines.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogLines {
    /// The lines, oldest first.
    pub lines: Vec<gannet_fleet::logs::LogLine>,
}
