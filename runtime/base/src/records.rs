//! The records in the store. They are stored as JSON, because that can be read in an emergency, and a new field with a
//! default needs no migration.

use crate::hop::BundleAsset;
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
    /// When the tenant was created.
    pub created: jiff::Timestamp,
    /// Kernels that are not run, because they kept the GPU too long.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<QuarantineRecord>,
    /// Whether the tenant is suspended. None of its functions runs then.
    #[serde(default)]
    pub suspended: bool,
    /// The limits that the operator has set for this tenant.
    #[serde(default)]
    pub limits: LimitsChoice,
}

impl TenantRecord {
    /// Returns the record of a new tenant.
    pub fn new(created: jiff::Timestamp) -> Self {
        Self { created, quarantine: Vec::new(), suspended: false, limits: LimitsChoice::default() }
    }
}

/// A deleted tenant. Its name is never given to another tenant, because bills and audit entries identify tenants by
/// name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeletedTenantRecord {
    /// When it was deleted.
    pub deleted: jiff::Timestamp,
}

/// A quarantined kernel. It may not run until it is deployed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineRecord {
    /// SHA-256 over the kernel's source and entry point.
    pub source: [u8; 32],
    /// When it was quarantined.
    pub since: jiff::Timestamp,
}

/// A key. The record is stored under the key's hash; the key itself is not stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyRecord {
    /// A short id that identifies the key in lists.
    pub id: String,
    /// The tenant that the key belongs to.
    pub tenant: TenantName,
    /// What the key allows.
    pub scopes: Scopes,
    /// When the key was created.
    pub created: jiff::Timestamp,
    /// The only function that the key is valid for; for all functions if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionName>,
    /// When the key expires; never if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<jiff::Timestamp>,
    /// Requests per second that the key may send, if it has a rate of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_s: Option<u64>,
    /// When the key was last used, in seconds since 1970; 0 if never. It is stored at most once a minute.
    #[serde(default)]
    pub used_s: u64,
}

/// An encrypted secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecretRecord {
    /// When the secret was set.
    pub set: jiff::Timestamp,
    /// The encrypted value, in base64. The key to decrypt it is not in the store.
    pub sealed: String,
}

/// An asset: a file under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetRecord {
    /// SHA-256 of its bytes, in hex. It is also the name of the file on disk.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// When the name was given these bytes.
    pub put: jiff::Timestamp,
}

/// An asset as a version uses it: the bytes do not change when the name is given other bytes later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedAsset {
    /// The name of the asset when the version was deployed.
    pub asset: AssetName,
    /// SHA-256 of its bytes, in hex.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
}

impl PinnedAsset {
    /// Returns the asset's description for a worker or a builder. `name` is the function's name for it.
    pub fn bundled(&self, name: &str) -> BundleAsset {
        BundleAsset { name: name.to_owned(), digest: self.digest.clone(), size: self.size }
    }
}

/// A function.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// Number of the current version: of those with traffic, the one with the largest weight.
    pub current: u32,
    /// Numbers of the versions with traffic, and their weights. If empty, the current version gets all requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<(u32, u32)>,
    /// Header or cookie that pins a client to a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Numbers of the versions that have a tag, by tag.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, u32>,
    /// Numbers of the versions that were current before, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<u32>,
}

/// Header or cookie that pins a client to a version. Requests with the same value get the same version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Sticky {
    /// The header with this name.
    Header(String),
    /// The cookie with this name.
    Cookie(String),
}

/// A version of a function.
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
    /// The settings of the version.
    pub manifest: Manifest,
    /// The declared kernels of the component, by name. Their sources are in the report of the build.
    pub kernels: Arc<BTreeMap<String, KernelRecord>>,
    /// Warnings of the builder for the author.
    pub warnings: Vec<String>,
    /// Why the version was made, if not by an upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The assets of the version, by the function's names for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub assets: BTreeMap<String, PinnedAsset>,
    /// Size in bytes of the component with the memory that `init` left, if the version has a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_size: Option<u64>,
    /// Size in bytes of what its build left: compiled code, report and driver cache.
    #[serde(default)]
    pub build_size: u64,
}

/// A kernel that a component declares. A record holds no source, because a server reads all records when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// Name of the entry point.
    pub entry: String,
    /// SHA-256 over the source and the entry point, in hex.
    pub source: String,
}

impl VersionRecord {
    /// Returns the name of the build: the component's digest and, with a snapshot, a hash of the environment and the
    /// assets, because `init` saw those too.
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
        let seen = hex::encode(hash.finalize().get(..16).unwrap_or_default());
        format!("{}.{seen}", self.digest)
    }

    /// Returns whether deploying `other` would change nothing: its component, settings and assets are the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest && self.manifest == other.manifest && self.assets == other.assets
    }
}

/// An entry of the audit log: a change through the control API.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditRecord {
    /// The id of the request.
    pub request: String,
    /// When the request came.
    #[schema(value_type = String, format = DateTime)]
    pub time: jiff::Timestamp,
    /// The id of the key, or `operator`.
    pub actor: String,
    /// The address of the client.
    pub address: String,
    /// The operation's name in the OpenAPI document.
    pub action: String,
    /// The path of the request.
    pub path: String,
    /// Details beyond the path: the name or id that was created, or the values that were set. Never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Status of the response; absent while the request is under way, or if the server ended before it responded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}
