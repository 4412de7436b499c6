//! What is stored, as JSON: readable in an emergency, and new fields can be added with a default.

use crate::hop::{BundleAsset, BundleKernel};
use crate::limits::LimitsChoice;
use crate::manifest::Manifest;
use crate::names::{AssetName, FunctionName, TenantName};
use crate::scopes::Scopes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TenantRecord {
    /// When it was made.
    pub created: jiff::Timestamp,
    /// Kernels that kept the GPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<QuarantineRecord>,
    /// Whether nothing of it may run.
    #[serde(default)]
    pub suspended: bool,
    /// Its own limits.
    #[serde(default)]
    pub limits: LimitsChoice,
}

impl TenantRecord {
    /// A tenant that was just made.
    pub fn new(created: jiff::Timestamp) -> Self {
        Self { created, quarantine: Vec::new(), suspended: false, limits: LimitsChoice::default() }
    }
}

/// A tenant that is gone. Its name is never given again: bills and audit entries go by it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeletedTenantRecord {
    /// When it was deleted.
    pub deleted: jiff::Timestamp,
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
    /// The only function that it is for, if it is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionName>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<jiff::Timestamp>,
    /// Requests that it may send in a second, if it has a rate of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_s: Option<u64>,
    /// When it was last used, in seconds since 1970, to the minute; 0 for never.
    #[serde(default)]
    pub used_s: u64,
}

/// A secret, sealed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecretRecord {
    /// When it was set.
    pub set: jiff::Timestamp,
    /// Its value, as only the key outside the store can open it; in base64.
    pub sealed: String,
}

/// An asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetRecord {
    /// SHA-256 of its bytes, in hex: the name of its file.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it got these bytes.
    pub put: jiff::Timestamp,
}

/// An asset as a version uses it, whatever its name leads to later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedAsset {
    /// What it was called when the version was deployed.
    pub asset: AssetName,
    /// SHA-256 of its bytes, in hex.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
}

impl PinnedAsset {
    /// The asset as a worker or a builder is given it, under the name that the function knows it by.
    pub fn bundled(&self, name: &str) -> BundleAsset {
        BundleAsset { name: name.to_owned(), digest: self.digest.clone(), size: self.size }
    }
}

/// A function.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// The number of the version that gets most requests.
    pub current: u32,
    /// Versions with traffic and their weights; none: all to the current one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<(u32, u32)>,
    /// By what requests stay with their version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Versions under a tag of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, u32>,
    /// What was current before, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<u32>,
}

/// By what requests stay with the version that they met first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Sticky {
    /// The value of a header.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
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
    pub kernels: Arc<BTreeMap<String, BundleKernel>>,
    /// What the builder wants its author to know.
    pub warnings: Vec<String>,
    /// Why it was made, if not by an upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Its assets, by the names under which the function knows them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub assets: BTreeMap<String, PinnedAsset>,
    /// Size of the component with what `init` left in memory, if it has a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_size: Option<u64>,
}

impl VersionRecord {
    /// The name of what is built of it: the digest, and with a snapshot what `init` could see beside the component.
    pub fn build_name(&self) -> String {
        if !self.manifest.build.snapshot {
            return self.digest.clone();
        }
        let mut hash = Sha256::new();
        let assets = self.assets.iter().map(|(name, asset)| ("asset", name, &asset.digest));
        for (kind, name, value) in self.manifest.env.iter().map(|(name, value)| ("env", name, value)).chain(assets) {
            for part in [kind, name, value] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        let seen: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{}.{seen}", self.digest)
    }

    /// Bytes that it counts for: the component, or what its snapshot made of it.
    pub fn counted_size(&self) -> u64 {
        self.size.max(self.snapshot_size.unwrap_or(0))
    }

    /// Whether deploying `other` would change nothing.
    pub fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest && self.manifest == other.manifest && self.assets == other.assets
    }
}

/// Something that was done through the control API.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditRecord {
    /// The request that did it.
    pub request: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub time: jiff::Timestamp,
    /// The id of the key, or `operator`.
    pub actor: String,
    /// From which address.
    pub address: String,
    /// What: the operation's name in the OpenAPI document.
    pub action: String,
    /// On what: the path.
    pub path: String,
    /// And what beyond that: the name or id that was made, the values that were set; never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How it was answered; none while it is under way, or if the server ended in that moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}
