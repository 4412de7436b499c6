//! Changes of records, and the form in which the database keeps a record.

use crate::lines::sum_text;
use crate::store::error::StoreError;
use gannet_base::names::{AssetName, FunctionName, TenantName};
use gannet_base::records::{
    AssetRecord, DeletedTenantRecord, FunctionRecord, KeyRecord, SecretRecord, TenantRecord, VersionRecord,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Length of a value's checksum in the database, with the tab before it.
const SUM_BYTES: usize = 9;

/// Changes that become durable together, or not at all.
#[derive(Debug, Default)]
pub struct WriteBatch(pub(super) Vec<super::journal::Change>);

impl WriteBatch {
    /// Returns an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn put<T: Serialize>(mut self, key: Vec<u8>, value: &T) -> Result<Self, StoreError> {
        let bytes = serde_json::to_vec(value).map_err(|error| StoreError::Io(error.to_string()))?;
        self.0.push((key, Some(bytes)));
        Ok(self)
    }

    pub(super) fn without(mut self, key: Vec<u8>) -> Self {
        self.0.push((key, None));
        self
    }

    /// Writes a tenant.
    pub fn tenant(self, name: &TenantName, record: &TenantRecord) -> Result<Self, StoreError> {
        self.put(format!("t/{name}").into_bytes(), record)
    }

    /// Writes a key.
    pub fn key(self, hash: &[u8; 32], record: &KeyRecord) -> Result<Self, StoreError> {
        self.put([b"k/", hash.as_slice()].concat(), record)
    }

    /// Removes a key.
    pub fn without_key(self, hash: &[u8; 32]) -> Self {
        self.without([b"k/", hash.as_slice()].concat())
    }

    /// Removes a tenant's record and reserves its name. The caller removes its keys, secrets, assets and functions.
    pub fn without_tenant(self, name: &TenantName, record: &DeletedTenantRecord) -> Result<Self, StoreError> {
        self.without(format!("t/{name}").into_bytes()).put(format!("g/{name}").into_bytes(), record)
    }

    /// Writes a secret.
    pub fn secret(self, tenant: &TenantName, name: &str, record: &SecretRecord) -> Result<Self, StoreError> {
        self.put(format!("s/{tenant}/{name}").into_bytes(), record)
    }

    /// Removes a secret.
    pub fn without_secret(self, tenant: &TenantName, name: &str) -> Self {
        self.without(format!("s/{tenant}/{name}").into_bytes())
    }

    /// Writes the record of an asset.
    pub fn asset(self, tenant: &TenantName, name: &AssetName, record: &AssetRecord) -> Result<Self, StoreError> {
        self.put(format!("asset/{tenant}/{name}").into_bytes(), record)
    }

    /// Removes the record of an asset.
    pub fn without_asset(self, tenant: &TenantName, name: &AssetName) -> Self {
        self.without(format!("asset/{tenant}/{name}").into_bytes())
    }

    /// Writes a function.
    pub fn function(
        self,
        tenant: &TenantName,
        name: &FunctionName,
        record: &FunctionRecord,
    ) -> Result<Self, StoreError> {
        self.put(format!("f/{tenant}/{name}").into_bytes(), record)
    }

    /// Writes a version.
    pub fn version(self, tenant: &TenantName, name: &FunctionName, record: &VersionRecord) -> Result<Self, StoreError> {
        self.put(format!("v/{tenant}/{name}/{:010}", record.number).into_bytes(), record)
    }

    /// Removes a function.
    pub fn without_function(self, tenant: &TenantName, name: &FunctionName) -> Self {
        self.without(format!("f/{tenant}/{name}").into_bytes())
    }

    /// Removes a version.
    pub fn without_version(self, tenant: &TenantName, name: &FunctionName, number: u32) -> Self {
        self.without(format!("v/{tenant}/{name}/{number:010}").into_bytes())
    }
}

/// Returns the checksum of a record: the CRC-32 of its key and its value.
pub(super) fn record_sum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(b"\t");
    hasher.update(value);
    hasher.finalize()
}

/// Returns a value as the database keeps it: followed by a tab and its checksum in hex.
pub(super) fn sealed(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(value.len() + SUM_BYTES);
    stored.extend_from_slice(value);
    stored.push(b'\t');
    stored.extend_from_slice(&sum_text(record_sum(key, value)));
    stored
}

/// Returns the value that the database keeps under `key`, or None if its checksum is wrong or missing.
pub(super) fn unsealed<'a>(key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (value, sum) = stored.split_at_checked(stored.len().checked_sub(SUM_BYTES)?)?;
    (sum.strip_prefix(b"\t")? == sum_text(record_sum(key, value))).then_some(value)
}

/// Reads a record as the database keeps it.
pub(super) fn parse<T: DeserializeOwned>(key: &[u8], stored: &[u8]) -> Result<T, StoreError> {
    let corrupt = |cause: String| StoreError::Corrupt { record: describe(key), cause };
    let value = unsealed(key, stored).ok_or_else(|| corrupt("its checksum is wrong".into()))?;
    serde_json::from_slice(value).map_err(|error| corrupt(error.to_string()))
}

/// Names a record for people.
pub(super) fn describe(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key);
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        ["t", tenant] => format!("tenant {tenant}"),
        ["g", tenant] => format!("the reserved name of the deleted tenant {tenant}"),
        ["k", ..] => {
            let hash = key.get(2..10).unwrap_or_default();
            format!("the key with the id {}", hex::encode(hash))
        }
        ["s", tenant, name] => format!("secret {name} of {tenant}"),
        ["asset", tenant, name] => format!("asset {name} of {tenant}"),
        ["f", tenant, function] => format!("function {tenant}/{function}"),
        ["v", tenant, function, number] => format!("version {} of {tenant}/{function}", number.trim_start_matches('0')),
        ["a", tenant, ..] => format!("an audit entry of {tenant}"),
        ["l", tenant, ..] | ["y", _, tenant] => format!("a sum of the usage of {tenant}"),
        ["w"] => "the position up to which the ledger is counted".to_owned(),
        _ => format!("the record {:?}", text.chars().take(64).collect::<String>()),
    }
}
