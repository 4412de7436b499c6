//! What is stored, as JSON: readable in an emergency, and new fields can be added with a default.

use crate::auth::Scopes;
use crate::hop::BundleKernel;
use crate::manifest::Manifest;
use crate::names::TenantName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TenantRecord {
    /// When it was made.
    pub created: jiff::Timestamp,
    /// Kernels that kept the GPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<QuarantineRecord>,
}

/// A kernel that may not run until it is deployed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineRecord {
    /// SHA-256 that names its source and entry point.
    pub source: [u8; 32],
    /// Since when.
    pub since: jiff::Timestamp,
}

/// A key, stored under its hash. The key itself is nowhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyRecord {
    /// A short name for lists.
    pub id: String,
    /// Whose it is.
    pub tenant: TenantName,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made.
    pub created: jiff::Timestamp,
}

/// A function.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// The number of the version that gets requests.
    pub current: u32,
}

/// A version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Counted from 1.
    pub number: u32,
    /// SHA-256 of the component, in hex.
    pub digest: String,
    /// Size of the component in bytes.
    pub size: u64,
    /// When it was deployed.
    pub created: jiff::Timestamp,
    /// Its settings.
    pub manifest: Manifest,
    /// Its kernels.
    pub kernels: BTreeMap<String, BundleKernel>,
    /// What the builder wants its author to know.
    pub warnings: Vec<String>,
}

impl VersionRecord {
    /// Whether deploying `other` would change nothing.
    pub fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest && self.manifest == other.manifest
    }
}
