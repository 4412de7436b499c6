//! Changes of records that become durable together.

use crate::records::{Change, Expect};
use crate::store::error::StoreError;
use gannet_base::names::{AssetName, FunctionName, TenantName};
use gannet_base::records::{
    AssetRecord, DeletedTenantRecord, FunctionRecord, KeyRecord, SecretRecord, TenantRecord, VersionRecord,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// Changes that become durable together, or not at all.
#[derive(Debug, Default)]
pub struct WriteBatch(BTreeMap<String, Option<Vec<u8>>>);

impl WriteBatch {
    /// Returns an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the changes. Where a record was named more than once, the last one counts.
    pub(super) fn into_changes(self) -> Vec<Change> {
        let change = |(key, value): (String, Option<Vec<u8>>)| match value {
            Some(value) => Change::Put { key, value, expect: Expect::Any },
            None => Change::Delete { key, expect: Expect::Any },
        };
        self.0.into_iter().map(change).collect()
    }

    pub(super) fn put<T: Serialize>(mut self, key: String, value: &T) -> Result<Self, StoreError> {
        let bytes = serde_json::to_vec(value).map_err(|error| StoreError::Io(error.to_string()))?;
        self.0.insert(key, Some(bytes));
        Ok(self)
    }

    pub(super) fn without(mut self, key: String) -> Self {
        self.0.insert(key, None);
        self
    }

    /// Writes a tenant.
    pub fn tenant(self, name: &TenantName, record: &TenantRecord) -> Result<Self, StoreError> {
        self.put(format!("t/{name}"), record)
    }

    /// Writes a key.
    pub fn key(self, hash: &[u8; 32], record: &KeyRecord) -> Result<Self, StoreError> {
        self.put(key_of(hash), record)
    }

    /// Removes a key.
    pub fn without_key(self, hash: &[u8; 32]) -> Self {
        self.without(key_of(hash))
    }

    /// Removes a tenant's record and reserves its name. The caller removes its keys, secrets, assets and functions.
    pub fn without_tenant(self, name: &TenantName, record: &DeletedTenantRecord) -> Result<Self, StoreError> {
        self.without(format!("t/{name}")).put(format!("g/{name}"), record)
    }

    /// Writes a secret.
    pub fn secret(self, tenant: &TenantName, name: &str, record: &SecretRecord) -> Result<Self, StoreError> {
        self.put(format!("s/{tenant}/{name}"), record)
    }

    /// Removes a secret.
    pub fn without_secret(self, tenant: &TenantName, name: &str) -> Self {
        self.without(format!("s/{tenant}/{name}"))
    }

    /// Writes the record of an asset.
    pub fn asset(self, tenant: &TenantName, name: &AssetName, record: &AssetRecord) -> Result<Self, StoreError> {
        self.put(format!("asset/{tenant}/{name}"), record)
    }

    /// Removes the record of an asset.
    pub fn without_asset(self, tenant: &TenantName, name: &AssetName) -> Self {
        self.without(format!("asset/{tenant}/{name}"))
    }

    /// Writes a function.
    pub fn function(
        self,
        tenant: &TenantName,
        name: &FunctionName,
        record: &FunctionRecord,
    ) -> Result<Self, StoreError> {
        self.put(format!("f/{tenant}/{name}"), record)
    }

    /// Writes a version.
    pub fn version(self, tenant: &TenantName, name: &FunctionName, record: &VersionRecord) -> Result<Self, StoreError> {
        self.put(format!("v/{tenant}/{name}/{:010}", record.number), record)
    }

    /// Removes a function.
    pub fn without_function(self, tenant: &TenantName, name: &FunctionName) -> Self {
        self.without(format!("f/{tenant}/{name}"))
    }

    /// Removes a version.
    pub fn without_version(self, tenant: &TenantName, name: &FunctionName, number: u32) -> Self {
        self.without(format!("v/{tenant}/{name}/{number:010}"))
    }
}

/// Returns the name of a key's record.
fn key_of(hash: &[u8; 32]) -> String {
    format!("k/{}", hex::encode(hash))
}

/// Reads the value of a record.
pub(super) fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, StoreError> {
    let corrupt =
        |cause: serde_json::Error| StoreError::Corrupt { record: describe(key.as_bytes()), cause: cause.to_string() };
    serde_json::from_slice(value).map_err(corrupt)
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
        ["n"] => "the number of the last change".to_owned(),
        ["\0last"] => "the newest revision".to_owned(),
        ["w"] => "the position up to which the ledger is counted".to_owned(),
        _ => format!("the record {:?}", text.chars().take(64).collect::<String>()),
    }
}
