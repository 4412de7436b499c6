//! What the control API answers and reads, as types, from which its OpenAPI document is made.

use crate::auth::{ScopeName, Scopes};
use crate::manifest::Manifest;
use crate::meter::Receipt;
use crate::meter::price::Price;
use crate::meter::usage::Sums;
use crate::limits::{LimitsChoice, TenantLimits};
use crate::store::records::{AuditRecord, Sticky};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// An error, as RFC 9457 has it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`.
    pub r#type: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// A stable code.
    pub code: String,
    /// Whose fault it is.
    pub fault: crate::respond::Blame,
    /// What is wrong: the value and the limit.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The request's id.
    #[schema(format = "uuid")]
    pub request_id: String,
}

/// Whose key it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Whoami {
    /// Whether it is the operator's.
    pub operator: bool,
    /// Whose it is else.
    pub tenant: Option<String>,
    /// What it may do.
    pub scopes: Option<Scopes>,
    /// The only function that it is for.
    pub function: Option<String>,
    /// Its id.
    pub key: Option<String>,
    /// When it ends.
    pub expires: Option<String>,
}

/// A GPU.
#[derive(Debug, Serialize, ToSchema)]
pub struct GpuView {
    /// Its place on this server.
    pub place: usize,
    /// Its index, as the driver lists it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The interface that it is used by.
    pub backend: String,
    /// Its driver.
    pub driver: String,
    /// Its class, as manifests name it.
    pub class: String,
    /// Whether it is a processor that does a GPU's work.
    pub software: bool,
    /// Whether it can tell how long work took.
    pub timestamps: bool,
    /// Its memory.
    pub memory_bytes: u64,
    /// What one tenant's device takes of it by itself.
    pub context_bytes: u64,
    /// Whether it works.
    pub health: String,
    /// Tenants' workers on it (operator only).
    pub workers: Option<usize>,
    /// Spare workers that are ready on it (operator only).
    pub spares_ready: Option<usize>,
    /// The most workers that it may have (operator only).
    pub workers_max: Option<usize>,
}

/// The GPUs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Gpus {
    /// Each in its place.
    pub gpus: Vec<GpuView>,
}

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
    pub version: Option<u32>,
}

/// Which version a tag is for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagChoice {
    /// Its number.
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
    pub lines: Vec<crate::logs::Line>,
}

/// A receipt, and whether it is acknowledged.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReceiptView {
    /// The receipt.
    #[serde(flatten)]
    pub receipt: Receipt,
    /// What it costs, in micro-units of the currency.
    pub cost_micro_units: u64,
    /// Whether its line of the ledger is on disk: from then on it is billable, and not before.
    pub billed: bool,
}

/// A secret. Its value is never told.
#[derive(Debug, Serialize, ToSchema)]
pub struct SecretView {
    /// Its name.
    pub name: String,
    /// When it was set.
    #[schema(format = DateTime)]
    pub set: String,
    /// The functions that name it.
    pub functions: Vec<String>,
}

/// Secrets, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct Secrets {
    /// Their names.
    pub secrets: Vec<SecretView>,
}

/// A tenant to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Its name.
    #[schema(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length = 24)]
    pub name: String,
    /// Limits of its own.
    #[serde(default)]
    pub limits: LimitsChoice,
}

/// A tenant that was made, and its first key.
#[derive(Debug, Serialize, ToSchema)]
pub struct TenantMade {
    /// Its name.
    pub tenant: String,
    /// The id of the key.
    pub id: String,
    /// The key; it is not told again.
    pub key: String,
}

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
pub struct TenantView {
    /// Its name.
    pub name: String,
    /// When it was made.
    #[schema(format = DateTime)]
    pub created: String,
    /// Whether nothing of it may run.
    pub suspended: bool,
    /// How many functions it has.
    pub functions: usize,
    /// Requests in flight.
    pub in_flight: usize,
}

/// Tenants, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tenants {
    /// One page of them.
    pub tenants: Vec<TenantView>,
    /// Where the next page begins, if there is one.
    pub cursor: Option<String>,
}

/// A tenant's limits, and what it uses of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Limits {
    /// Whose.
    pub tenant: String,
    /// What is in force.
    pub limits: TenantLimits,
    /// What was set for this tenant.
    pub own: LimitsChoice,
    /// What is used.
    pub used: Used,
}

/// What a tenant uses of its limits.
#[derive(Debug, Serialize, ToSchema)]
pub struct Used {
    /// Requests in flight.
    pub concurrency: u64,
    /// Functions.
    pub functions: u64,
    /// Secrets.
    pub secrets: u64,
    /// Keys.
    pub keys: u64,
    /// GPU time of today.
    pub gpu_ms_per_day: u64,
    /// Outbound HTTP of today.
    pub egress_mib_per_day: u64,
    /// What this month costs so far.
    pub spend_micro_units_per_month: u64,
}

/// A key to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewKey {
    /// What it may do; everything if nothing is named.
    pub scopes: Vec<ScopeName>,
    /// The only function that it is for.
    #[schema(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length = 32)]
    pub function: Option<String>,
    /// How long it is valid.
    #[schema(minimum = 1, maximum = 3_153_600_000_u64)]
    pub expires_in_s: Option<u64>,
    /// Requests that it may send in a second.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub requests_per_s: Option<u64>,
}

/// How a key is rotated.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rotate {
    /// How long the old one is still valid.
    #[schema(minimum = 0, maximum = 31_536_000)]
    pub overlap_s: u64,
}

/// A key that was made.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyMade {
    /// Its id.
    pub id: String,
    /// The key; it is not told again.
    pub key: String,
}

/// A key in a list. Itself it is nowhere.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyView {
    /// Its id.
    pub id: String,
    /// What it may do.
    pub scopes: Vec<ScopeName>,
    /// The only function that it is for.
    pub function: Option<String>,
    /// Requests that it may send in a second, if it has a rate of its own.
    pub requests_per_s: Option<u64>,
    /// When it was made.
    #[schema(format = DateTime)]
    pub created: String,
    /// When it ends.
    pub expires: Option<String>,
    /// When it was last used.
    pub last_used: Option<String>,
}

/// A tenant's keys.
#[derive(Debug, Serialize, ToSchema)]
pub struct Keys {
    /// The keys, oldest first.
    pub keys: Vec<KeyView>,
}

/// Entries of the audit log, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Audit {
    /// The entries.
    pub entries: Vec<AuditRecord>,
    /// Where the next page begins, if there is one.
    pub cursor: Option<String>,
}

/// What a class of GPU costs.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClassPrice {
    /// The class.
    pub class: String,
    /// Its prices.
    pub price: Price,
}

/// What work costs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Prices {
    /// ISO 4217. A micro-unit is a millionth of it.
    pub currency: String,
    /// By class of GPU. Time is charged by the started millisecond of work; idleness is not.
    pub prices: Vec<ClassPrice>,
}

/// A row of usage.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageRow {
    /// The day, if rows are days.
    pub day: Option<String>,
    /// The function, if rows are functions or versions.
    pub function: Option<String>,
    /// The version, if rows are versions.
    pub version: Option<u32>,
    /// The sums.
    #[serde(flatten)]
    pub sums: Sums,
    /// What all of it costs.
    pub micro_units: u64,
}

/// Usage; the total is the sum of its rows, and of the ledger's lines.
#[derive(Debug, Serialize, ToSchema)]
pub struct Usage {
    /// Whose.
    pub tenant: String,
    /// The first day, UTC.
    pub from: String,
    /// The last day, UTC.
    pub to: String,
    /// ISO 4217.
    pub currency: String,
    /// The rows.
    pub rows: Vec<UsageRow>,
    /// Their sum.
    pub total: UsageRow,
}

/// What was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    /// Its name.
    pub deleted: String,
}
