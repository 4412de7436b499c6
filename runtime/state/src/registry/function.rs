//! A function: its versions, the share of the requests that each gets, and the header or cookie that pins a client to a
//! version.

use crate::records::blobs::{BlobKind, BlobStore};
use crate::store::Store;
use gannet_base::allowed_hosts::AllowedHost;
use gannet_base::hop::VersionKey;
use gannet_base::limits::TenantLimits;
use gannet_base::manifest::{FunctionLimits, JobSettings, Manifest};
use gannet_base::names::{FunctionName, RequestId, TenantName};
use gannet_base::quota::account::UsualAmount;
use gannet_base::quota::permits::VersionPermits;
use gannet_base::records::{FunctionRecord, Sticky, VersionRecord};
use http::HeaderMap;
use http::header::COOKIE;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A function and its versions, oldest first.
#[derive(Debug, Clone)]
pub struct Function {
    /// Name of the function, unique in its tenant.
    pub name: FunctionName,
    /// The version that gets most requests.
    pub current: Arc<Version>,
    /// All versions, oldest first.
    pub versions: Vec<Arc<Version>>,
    /// Versions that get requests, and their weights. Never empty.
    pub traffic: Vec<(Arc<Version>, u32)>,
    /// Header or cookie that pins a client to a version.
    pub sticky: Option<Sticky>,
    /// Versions by tag.
    pub tags: BTreeMap<String, Arc<Version>>,
    /// Numbers of the versions that were current before, oldest first. A rollback goes back to the last one.
    pub previous: Vec<u32>,
}

/// How a new version is deployed.
#[derive(Debug, Clone, Default)]
pub struct DeployOptions {
    /// If true, the version gets no requests yet, except by its tag or number.
    pub no_traffic: bool,
    /// The tag to give the version.
    pub tag: Option<String>,
    /// The version that must still be current, because the new one is derived from it.
    pub expected_current: Option<VersionKey>,
}

/// A deployed version.
#[derive(Debug)]
pub struct Version {
    /// Unique number of the version in this run of the front door. A change of its limits gives it a new one.
    pub key: VersionKey,
    /// The tenant that owns it.
    pub tenant: TenantName,
    /// The function that it belongs to.
    pub function: FunctionName,
    /// The stored record.
    pub record: Arc<VersionRecord>,
    /// Limits from the manifest, each capped by the tenant's.
    pub limits: FunctionLimits,
    /// Settings of its jobs from the manifest, capped by the tenant's limits.
    pub jobs: JobSettings,
    /// Hosts to which the version may send outbound HTTP.
    pub allowed_hosts: Vec<AllowedHost>,
    /// What its requests use, mostly.
    pub usual: Arc<UsualAmount>,
    /// The permits of its concurrent requests.
    pub permits: Arc<VersionPermits>,
    /// File with the compiled component.
    pub compiled: PathBuf,
    /// File with the report of its build, which contains its kernels.
    pub report: PathBuf,
    /// Size of its stored record in bytes.
    pub record_bytes: u64,
    /// Size of what its build left, in bytes.
    pub build_size: u64,
    /// The assets of its tenant.
    pub assets: Arc<dyn BlobStore>,
    /// Folder with the kernels that the builder's driver compiled, to be copied into a worker's cache.
    pub driver_cache: PathBuf,
    /// Whether the compiled component is known to exist. A newer binary compiles for another
    /// engine, under another name, when the version is first used.
    pub built: AtomicBool,
    /// Held while that is found out, so that it is found out once.
    pub building: tokio::sync::Mutex<()>,
}

/// Returns the size of a stored record in bytes.
pub(super) fn record_bytes(record: &VersionRecord) -> u64 {
    serde_json::to_vec(record).map_or(0, |bytes| bytes.len() as u64)
}

impl Version {
    pub(super) fn new(
        key: VersionKey,
        tenant: &TenantName,
        function: &FunctionName,
        record: Arc<VersionRecord>,
        limits: &TenantLimits,
        store: &Store,
    ) -> Self {
        let files = store.files();
        let manifest = &record.manifest;
        let (limits, jobs) = (limits.cap(&manifest.limits), limits.cap_jobs(&manifest.jobs));
        let hosts = &manifest.http.allowed_outbound_hosts;
        let (compiled, report) =
            (files.compiled(tenant, &record.build_name()), files.build_report(tenant, &record.build_name()));
        let driver_cache = files.driver_cache(tenant, &record.digest);
        // A record of an earlier format has no size.
        let build_size = match record.build_size {
            0 => files.size_of(&[&compiled, &report, &driver_cache]),
            size => size,
        };
        Self {
            key,
            tenant: tenant.clone(),
            function: function.clone(),
            compiled,
            report,
            build_size,
            record_bytes: record_bytes(&record),
            assets: store.blobs(BlobKind::Asset, tenant),
            driver_cache,
            built: AtomicBool::new(false),
            building: tokio::sync::Mutex::new(()),
            usual: Arc::default(),
            permits: VersionPermits::new(&limits),
            allowed_hosts: hosts.iter().filter_map(|host| AllowedHost::parse(host).ok()).collect(),
            limits,
            jobs,
            record,
        }
    }

    /// Returns the version's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.record.manifest
    }
}

impl Function {
    /// Makes a function from its stored record. Returns None if the current version is missing.
    pub(super) fn from_record(
        name: FunctionName,
        record: &FunctionRecord,
        versions: Vec<Arc<Version>>,
    ) -> Option<Self> {
        let find = |number: u32| versions.iter().find(|version| version.record.number == number).cloned();
        let current = find(record.current)?;
        let mut traffic: Vec<_> =
            record.traffic.iter().filter_map(|(number, weight)| Some((find(*number)?, *weight))).collect();
        if traffic.iter().all(|(_, weight)| *weight == 0) {
            traffic = vec![(Arc::clone(&current), 100)];
        }
        let tags = record.tags.iter().filter_map(|(tag, number)| Some((tag.clone(), find(*number)?))).collect();
        let (sticky, previous) = (record.sticky.clone(), record.before.clone());
        Some(Self { name, current, traffic, sticky, tags, previous, versions })
    }

    /// Returns the record to store.
    pub(super) fn record(&self) -> FunctionRecord {
        FunctionRecord {
            current: self.current.record.number,
            traffic: self.traffic.iter().map(|(version, weight)| (version.record.number, *weight)).collect(),
            sticky: self.sticky.clone(),
            tags: self.tags.iter().map(|(tag, version)| (tag.clone(), version.record.number)).collect(),
            before: self.previous.clone(),
        }
    }

    /// Returns the version with a number.
    pub fn find(&self, number: u32) -> Option<&Arc<Version>> {
        self.versions.iter().find(|version| version.record.number == number)
    }

    /// Returns the version with a tag, or with the number in a text like `v3`.
    pub fn tagged(&self, tag: &str) -> Option<&Arc<Version>> {
        let number = || tag.strip_prefix('v').and_then(|number| number.parse().ok());
        self.tags.get(tag).or_else(|| self.find(number()?))
    }

    /// Returns whether a version has traffic or a tag.
    pub fn serves(&self, version: &Version) -> bool {
        self.serves_key(version.key)
    }

    /// Returns whether the version with this key has traffic or a tag.
    pub fn serves_key(&self, key: VersionKey) -> bool {
        self.served().any(|version| version.key == key)
    }

    /// Returns the versions that have traffic or a tag. A version may be among them more than once.
    pub fn served(&self) -> impl Iterator<Item = &Arc<Version>> {
        self.traffic.iter().map(|(version, _)| version).chain(self.tags.values())
    }

    /// Chooses the version for a request: by the sticky header or cookie if the request has it, else at random by
    /// weight.
    pub fn choose(&self, headers: &HeaderMap, request: RequestId) -> &Arc<Version> {
        if let [(only, _)] = self.traffic.as_slice() {
            return only;
        }
        let point = self.sticky.as_ref().and_then(|sticky| sticky_point(sticky, headers)).unwrap_or_else(|| {
            let [.., a, b, c, d, e, f, g, h] = request.to_bytes();
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        });
        let weights: Vec<u32> = self.traffic.iter().map(|(_, weight)| *weight).collect();
        self.traffic.get(pick(&weights, point)).map_or(&self.current, |(version, _)| version)
    }
}

/// Hashes the value of the request's sticky header or cookie, so that equal values get the same version. Returns None
/// if the request does not have it.
fn sticky_point(sticky: &Sticky, headers: &HeaderMap) -> Option<u64> {
    let value = match sticky {
        Sticky::Header(name) => headers.get(name)?.as_bytes().to_vec(),
        Sticky::Cookie(name) => {
            let cookies = headers.get_all(COOKIE).iter().map(|value| value.as_bytes());
            let mut pairs = cookies.flat_map(|bytes| bytes.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
            let value = |pair: &[u8]| Some(pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.to_vec());
            pairs.find_map(value)?
        }
    };
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(value).into();
    Some(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}

/// Returns the index of the weight that `point`, modulo the sum of the weights, falls on.
fn pick(weights: &[u32], point: u64) -> usize {
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let mut left = point % total.max(1);
    for (index, weight) in weights.iter().enumerate() {
        match left.checked_sub(u64::from(*weight)) {
            Some(rest) => left = rest,
            None => return index,
        }
    }
    0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn requests_are_split_as_the_weights_say(weights in proptest::collection::vec(0_u32..200, 1..6)) {
            proptest::prop_assume!(weights.iter().any(|weight| *weight > 0));
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let mut counts = vec![0_u32; weights.len()];
            for point in 0..total {
                counts[pick(&weights, point)] += 1;
            }
            proptest::prop_assert_eq!(counts, weights);
        }
    }

    #[test]
    fn who_is_held_by_a_header_or_a_cookie_stays() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(http::HeaderName::from_static(name), http::HeaderValue::from_static(value))])
        };
        let by_header = Sticky::Header("x-user".into());
        let one = sticky_point(&by_header, &headers("x-user", "one"));
        assert!(one.is_some() && one == sticky_point(&by_header, &headers("x-user", "one")));
        assert_ne!(one, sticky_point(&by_header, &headers("x-user", "two")));
        assert_eq!(sticky_point(&by_header, &headers("x-other", "one")), None);
        let by_cookie = Sticky::Cookie("session".into());
        assert_eq!(sticky_point(&by_cookie, &headers("cookie", "a=b; session=one")), one);
        assert_eq!(sticky_point(&by_cookie, &headers("cookie", "xsession=one")), None);
    }
}
