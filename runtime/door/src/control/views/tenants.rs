//! Tenants, keys, secrets, limits, and what they use and pay.

use gannet_base::bill::Receipt;
use gannet_base::bill::price::Price;
use gannet_base::bill::usage::Sums;
use gannet_base::limits::{LimitsChoice, TenantLimits};
use gannet_base::records::AuditRecord;
use gannet_base::scopes::ScopeName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
    #[schema(pattern = "^[a-z0-9]+(-[a-z0-9]+)*$", max_length = 24)]
    pub name: String,
    /// Limits of its own.
    #[serde(default, deserialize_with = "crate::control::arguments::object")]
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
    /// Assets together, each once.
    pub assets_mib: u64,
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
    #[schema(pattern = "^[a-z0-9]+(-[a-z0-9]+)*$", max_length = 32)]
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
