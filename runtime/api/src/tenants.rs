//! Types of the operations on tenants, keys, secrets, limits, usage and prices.

use gannet_base::bill::Receipt;
use gannet_base::bill::price::Price;
use gannet_base::bill::usage::Sums;
use gannet_base::limits::{LimitsChoice, TenantLimits};
use gannet_base::records::AuditRecord;
use gannet_base::scopes::ScopeName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The receipt of a request, its cost, and whether it is billable.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ReceiptView {
    /// The fields of the receipt.
    #[serde(flatten)]
    pub receipt: Receipt,
    /// Cost of the request, in micro-units of the currency.
    pub cost_micro_units: u64,
    /// Whether its line of the ledger is synced to disk. It is billable only from then on.
    pub billed: bool,
}

/// A secret, without its value, which is never returned.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SecretView {
    /// Name of the secret.
    pub name: String,
    /// When its value was last set.
    #[schema(format = DateTime)]
    pub set: String,
    /// Functions with a version in use whose manifest names it.
    pub functions: Vec<String>,
}

/// The secrets of a tenant, sorted by name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Secrets {
    /// The secrets, without their values.
    pub secrets: Vec<SecretView>,
}

/// A request to create a tenant.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Name of the tenant.
    #[schema(pattern = "^[a-z0-9]+(-[a-z0-9]+)*$", max_length = 24)]
    pub name: String,
    /// Limits of this tenant. The server's limits hold for those that are left out.
    #[serde(default, deserialize_with = "crate::object")]
    pub limits: LimitsChoice,
}

/// A tenant that was created, and its first key.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TenantMade {
    /// Name of the tenant.
    pub tenant: String,
    /// Id of the key.
    pub id: String,
    /// Text of the key, which is returned only this once.
    pub key: String,
}

/// A tenant.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TenantView {
    /// Name of the tenant.
    pub name: String,
    /// When it was created.
    #[schema(format = DateTime)]
    pub created: String,
    /// Whether it is suspended, so that none of its functions may run.
    pub suspended: bool,
    /// Number of its functions.
    pub functions: usize,
    /// Number of its requests in flight, waiting or running.
    pub in_flight: usize,
}

/// A page of tenants, sorted by name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Tenants {
    /// The tenants of this page.
    pub tenants: Vec<TenantView>,
    /// The `cursor` argument for the next page. Null on the last page.
    pub cursor: Option<String>,
}

/// A tenant's limits, and how much of them it uses.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Name of the tenant.
    pub tenant: String,
    /// The limits in force.
    #[schema(value_type = TenantLimits)]
    pub limits: BTreeMap<String, u64>,
    /// The limits that the operator has set for this tenant.
    #[schema(value_type = LimitsChoice)]
    pub own: BTreeMap<String, u64>,
    /// How much of the limits is used.
    #[schema(value_type = Used)]
    pub used: BTreeMap<String, u64>,
}

/// How much a tenant uses of its limits.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Used {
    /// Number of requests in flight, waiting or running.
    pub concurrency: u64,
    /// Number of functions.
    pub functions: u64,
    /// Number of versions of all functions.
    pub versions: u64,
    /// Size in MiB of all components, with their compiled code, kernels, driver caches and records.
    pub components_mib: u64,
    /// Size in MiB of the records of all versions.
    pub records_mib: u64,
    /// Number of jobs that wait or run.
    pub jobs_queued: u64,
    /// Size of the inputs and results of all jobs in MiB.
    pub jobs_mib: u64,
    /// Number of schedules, in manifests and made by API.
    pub schedules: u64,
    /// Number of hooks.
    pub hooks: u64,
    /// Number of keys in key-value storage.
    pub keyvalue_keys: u64,
    /// Size of key-value storage in MiB.
    pub keyvalue_mib: u64,
    /// Number of secrets.
    pub secrets: u64,
    /// Size of all assets in MiB. Bytes with several names count once.
    pub assets_mib: u64,
    /// Number of keys.
    pub keys: u64,
    /// GPU time used today (UTC), in milliseconds.
    pub gpu_ms_per_day: u64,
    /// CPU time of today's builds (UTC), in milliseconds. A restart of the server sets it to 0.
    pub build_cpu_ms_per_day: u64,
    /// Outbound HTTP of today (UTC), in MiB.
    pub egress_mib_per_day: u64,
    /// Cost of this month (UTC) so far, in micro-units.
    pub spend_micro_units_per_month: u64,
}

impl Used {
    /// Returns these numbers by the names of the limits.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let pairs = [
            ("concurrency", self.concurrency),
            ("functions", self.functions),
            ("versions", self.versions),
            ("components_mib", self.components_mib),
            ("records_mib", self.records_mib),
            ("jobs_queued", self.jobs_queued),
            ("jobs_mib", self.jobs_mib),
            ("schedules", self.schedules),
            ("hooks", self.hooks),
            ("keyvalue_keys", self.keyvalue_keys),
            ("keyvalue_mib", self.keyvalue_mib),
            ("secrets", self.secrets),
            ("assets_mib", self.assets_mib),
            ("keys", self.keys),
            ("gpu_ms_per_day", self.gpu_ms_per_day),
            ("build_cpu_ms_per_day", self.build_cpu_ms_per_day),
            ("egress_mib_per_day", self.egress_mib_per_day),
            ("spend_micro_units_per_month", self.spend_micro_units_per_month),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// A request to create a key.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewKey {
    /// What the key may do. An empty list means all scopes.
    pub scopes: Vec<ScopeName>,
    /// The function that the key is limited to. Without it, the key is for all functions.
    #[schema(pattern = "^[a-z0-9]+(-[a-z0-9]+)*$", max_length = 32)]
    pub function: Option<String>,
    /// Seconds for which the key is valid. Without it, as long as the key that creates it.
    #[schema(minimum = 1, maximum = 3_153_600_000_u64)]
    pub expires_in_s: Option<u64>,
    /// Most requests a second with this key. Without it, the rate of the key that creates it.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub requests_per_s: Option<u64>,
}

/// A request to replace a key.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rotate {
    /// Seconds for which the old key stays valid.
    #[schema(minimum = 0, maximum = 31_536_000)]
    pub overlap_s: u64,
}

/// A key that was created.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyMade {
    /// Id of the key.
    pub id: String,
    /// Text of the key, which is returned only this once.
    pub key: String,
}

/// A key in a list, without its text, which is stored nowhere.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// Id of the key.
    pub id: String,
    /// What the key may do.
    pub scopes: Vec<ScopeName>,
    /// The function that the key is limited to. Null if it is for all functions.
    pub function: Option<String>,
    /// Most requests a second with this key. Null if it has no rate of its own.
    pub requests_per_s: Option<u64>,
    /// When it was created.
    #[schema(format = DateTime)]
    pub created: String,
    /// When it expires. Null if it does not expire.
    pub expires: Option<String>,
    /// When it was last used. Null if it never was.
    pub last_used: Option<String>,
}

/// A tenant's keys.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Keys {
    /// The keys, oldest first.
    pub keys: Vec<KeyView>,
}

/// A page of the audit log, newest entries first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Audit {
    /// The entries of this page.
    pub entries: Vec<AuditRecord>,
    /// The `cursor` argument for the next page, which may be empty. Null if there are no more entries.
    pub cursor: Option<String>,
}

/// The prices of a class of GPU.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ClassPrice {
    /// Name of the class.
    pub class: String,
    /// Prices of work on it.
    pub price: Price,
}

/// The prices of work.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Prices {
    /// The currency (ISO 4217). A micro-unit is a millionth of it.
    pub currency: String,
    /// The prices by class of GPU. Work is charged by the started millisecond; idle time is not charged.
    pub prices: Vec<ClassPrice>,
}

/// The usage of a day, a function or a version.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UsageRow {
    /// The day (UTC), if rows are grouped by day.
    pub day: Option<String>,
    /// The function, if rows are grouped by function or version.
    pub function: Option<String>,
    /// The version's number, if rows are grouped by version.
    pub version: Option<u32>,
    /// The sums of the row.
    #[serde(flatten)]
    pub sums: Sums,
    /// Cost of the row in micro-units.
    pub micro_units: u64,
}

/// The usage of a tenant. The total is the sum of the rows, and of the ledger's lines.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Name of the tenant.
    pub tenant: String,
    /// The first day, UTC.
    pub from: String,
    /// The last day, UTC.
    pub to: String,
    /// The currency (ISO 4217).
    pub currency: String,
    /// One row for each day, function or version.
    pub rows: Vec<UsageRow>,
    /// The sum of the rows.
    pub total: UsageRow,
}
