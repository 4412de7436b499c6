//! Reads the registry's records. Returns those that cannot be read, or whose tenant or function is missing, so that they
//! can be reported: if they were skipped silently, nobody would notice the loss.

use crate::store::batch::describe;
use crate::store::report::kernel_records;
use crate::store::stored::value_of;
use gannet_base::hop::BundleKernel;
use gannet_base::names::{AssetName, FunctionName, TenantName};
use gannet_base::records::{
    AssetRecord, DeletedTenantRecord, FunctionRecord, KeyRecord, SecretRecord, TenantRecord, VersionRecord,
};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// The stored state, as read at start.
#[derive(Debug, Default)]
pub struct StoredState {
    /// Tenants, by name.
    pub tenants: BTreeMap<TenantName, TenantRecord>,
    /// Keys, by SHA-256.
    pub keys: BTreeMap<[u8; 32], KeyRecord>,
    /// Functions and their versions, oldest first.
    pub functions: BTreeMap<(TenantName, FunctionName), (FunctionRecord, Vec<VersionRecord>)>,
    /// Secrets, by tenant and name.
    pub secrets: BTreeMap<(TenantName, String), SecretRecord>,
    /// Assets, by tenant and name.
    pub assets: BTreeMap<(TenantName, AssetName), AssetRecord>,
    /// Deleted tenants. Their names may not be reused.
    pub deleted: BTreeMap<TenantName, DeletedTenantRecord>,
    /// Versions whose record an earlier format wrote.
    pub(super) outdated: Vec<OutdatedVersion>,
}

/// A version whose record an earlier format wrote.
#[derive(Debug)]
pub(super) struct OutdatedVersion {
    pub(super) tenant: TenantName,
    pub(super) function: FunctionName,
    /// The record as this format writes it.
    pub(super) record: VersionRecord,
    /// The kernels that the record contained, with their sources.
    pub(super) kernels: BTreeMap<String, BundleKernel>,
}

/// A record that cannot be used.
#[derive(Debug)]
pub(super) struct UnfitRecord {
    pub(super) key: Vec<u8>,
    /// A description of the problem.
    why: String,
}

impl UnfitRecord {
    fn new(key: &[u8], why: impl Into<String>) -> Self {
        Self { key: key.to_vec(), why: why.into() }
    }

    /// Returns a description of the record and of the problem.
    pub(super) fn told(&self) -> String {
        format!("{} cannot be used: {}", describe(&self.key), self.why)
    }
}

fn parsed<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, UnfitRecord> {
    serde_json::from_slice(value).map_err(|error| UnfitRecord::new(key, error.to_string()))
}

/// Reads the record of a version as formats up to 4 wrote it, and the kernels that it contains.
pub(super) fn parsed_with_sources(value: &[u8]) -> Option<(VersionRecord, BTreeMap<String, BundleKernel>)> {
    let mut record: serde_json::Value = serde_json::from_slice(value).ok()?;
    let kernels: BTreeMap<String, BundleKernel> = serde_json::from_value(record.get_mut("kernels")?.take()).ok()?;
    *record.get_mut("kernels")? = serde_json::to_value(kernel_records(&kernels)).ok()?;
    Some((serde_json::from_value(record).ok()?, kernels))
}

/// Reads one record into `state`, or a version into `versions`. Sums and audit entries are read on demand.
fn read_one(
    state: &mut StoredState,
    versions: &mut BTreeMap<(TenantName, FunctionName), Vec<VersionRecord>>,
    key: &[u8],
    value: &[u8],
) -> Result<(), UnfitRecord> {
    let malformed = || UnfitRecord::new(key, "its name is malformed");
    if let Some(hash) = key.strip_prefix(b"k/") {
        state.keys.insert(hash.try_into().map_err(|_| malformed())?, parsed(key, value)?);
        return Ok(());
    }
    let Some(text) = std::str::from_utf8(key).ok() else { return Ok(()) };
    let mut parts = text.split('/');
    let kind = parts.next().unwrap_or_default();
    if !["t", "g", "s", "asset", "f", "v"].contains(&kind) {
        return Ok(());
    }
    let tenant = parts.next().and_then(|name| TenantName::new(name).ok()).ok_or_else(malformed)?;
    let second = parts.next();
    let function = second.and_then(|name| FunctionName::new(name).ok());
    match (kind, second, function) {
        ("t", None, _) => drop(state.tenants.insert(tenant, parsed(key, value)?)),
        ("g", None, _) => drop(state.deleted.insert(tenant, parsed(key, value)?)),
        ("s", Some(name), _) => drop(state.secrets.insert((tenant, name.to_owned()), parsed(key, value)?)),
        ("asset", Some(name), _) => {
            let name = AssetName::new(name).map_err(|_| malformed())?;
            state.assets.insert((tenant, name), parsed(key, value)?);
        }
        ("f", _, Some(function)) => {
            state.functions.insert((tenant, function), (parsed(key, value)?, Vec::new()));
        }
        ("v", _, Some(function)) => {
            let version = parsed(key, value).or_else(|unfit| {
                let (version, kernels) = parsed_with_sources(value).ok_or(unfit)?;
                let record = VersionRecord::clone(&version);
                let (tenant, function) = (tenant.clone(), function.clone());
                state.outdated.push(OutdatedVersion { tenant, function, record, kernels });
                Ok(version)
            })?;
            versions.entry((tenant, function)).or_default().push(version);
        }
        _ => return Err(malformed()),
    }
    Ok(())
}

/// Reads all records of the registry, in the form in which they are stored. Returns those that cannot be used beside the others.
pub(super) fn read<'a>(records: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> (StoredState, Vec<UnfitRecord>) {
    let (mut state, mut versions, mut unfit) = (StoredState::default(), BTreeMap::new(), Vec::new());
    for (key, stored) in records {
        let Some(value) = value_of(stored) else {
            unfit.push(UnfitRecord::new(key, "its revision cannot be read"));
            continue;
        };
        if let Err(record) = read_one(&mut state, &mut versions, key, &value) {
            unfit.push(record);
        }
    }
    for ((tenant, name), mut list) in versions {
        list.sort_by_key(|version| version.number);
        let Some(function) = state.functions.get_mut(&(tenant.clone(), name.clone())) else {
            let orphans = list.iter().map(|version| {
                let key = format!("v/{tenant}/{name}/{:010}", version.number);
                UnfitRecord::new(key.as_bytes(), "its function is not there")
            });
            unfit.extend(orphans);
            continue;
        };
        function.1 = list;
    }
    let StoredState { tenants, keys, functions, secrets, assets, .. } = &mut state;
    let mut orphan = |key: Vec<u8>| unfit.push(UnfitRecord::new(&key, "its tenant is not there"));
    keys.retain(|hash, record| {
        let is_owned = tenants.contains_key(&record.tenant);
        if !is_owned {
            orphan([b"k/", hash.as_slice()].concat());
        }
        is_owned
    });
    secrets.keys().filter(|(tenant, _)| !tenants.contains_key(tenant)).for_each(|(tenant, name)| {
        orphan(format!("s/{tenant}/{name}").into_bytes());
    });
    assets.keys().filter(|(tenant, _)| !tenants.contains_key(tenant)).for_each(|(tenant, name)| {
        orphan(format!("asset/{tenant}/{name}").into_bytes());
    });
    for ((tenant, name), (function, versions)) in &*functions {
        let own = std::iter::once(format!("f/{tenant}/{name}"));
        let theirs = versions.iter().map(|version| format!("v/{tenant}/{name}/{:010}", version.number));
        let all = own.chain(theirs).map(String::into_bytes);
        let why = if !tenants.contains_key(tenant) {
            "its tenant is not there"
        } else if !versions.iter().any(|version| version.number == function.current) {
            "the current version of its function is not there"
        } else {
            continue;
        };
        unfit.extend(all.map(|key| UnfitRecord::new(&key, why)));
    }
    (state, unfit)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_version_that_an_earlier_format_wrote_is_read_without_its_sources() {
        let manifest = gannet_base::manifest::Manifest::default();
        let kernel = json!({ "wgsl": "@compute fn main() {}", "entry": "main", "hardened": "x" });
        let old = json!({ "number": 3, "digest": "ab", "size": 7, "created": "2026-11-01T00:00:00Z",
            "manifest": manifest, "kernels": { "k": kernel }, "warnings": [] });
        let function = json!({ "current": 3 });
        let tenant = json!({ "created": "2026-11-01T00:00:00Z" });
        let records = [("t/acme", tenant), ("f/acme/f", function), ("v/acme/f/0000000003", old)];
        let records: Vec<_> = records.iter().map(|(key, value)| (key.as_bytes(), value.to_string())).collect();
        let (state, unfit) = read(records.iter().map(|(key, value)| (*key, value.as_bytes())));
        assert!(unfit.is_empty());
        let [outdated] = state.outdated.as_slice() else { unreachable!("one is outdated") };
        let OutdatedVersion { tenant, record: version, kernels, .. } = outdated;
        let hash = "ea761953e824b11b31647422f13a020f219fbbbc372a884e8ee23fe7b4c97b9c";
        assert_eq!((tenant.as_str(), version.kernels["k"].source.as_str()), ("acme", hash));
        assert!(!serde_json::to_string(version).unwrap().contains("@compute"));
        assert_eq!((state.functions.len(), kernels["k"].wgsl.as_str()), (1, "@compute fn main() {}"));
    }
}
