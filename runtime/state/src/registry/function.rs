//! A function: its versions, which of them gets which part of the requests, and by what requests stay with theirs.

use crate::store::files::Files;
use gannet_base::allowed_hosts::AllowedHost;
use gannet_base::hop::VersionKey;
use gannet_base::limits::TenantLimits;
use gannet_base::manifest::{FunctionLimits, Manifest};
use gannet_base::names::{FunctionName, RequestId, TenantName};
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
    /// Its name.
    pub name: FunctionName,
    /// The one that gets most requests.
    pub current: Arc<Version>,
    /// All of them.
    pub versions: Vec<Arc<Version>>,
    /// Those that get requests, and their weights; never empty.
    pub traffic: Vec<(Arc<Version>, u32)>,
    /// By what requests stay with their version.
    pub sticky: Option<Sticky>,
    /// Versions under a tag of their own.
    pub tags: BTreeMap<String, Arc<Version>>,
    /// What was current before, oldest first.
    pub before: Vec<u32>,
}

/// How a new version is deployed.
#[derive(Debug, Clone, Default)]
pub struct DeployOptions {
    /// Whether it gets no requests yet.
    pub no_traffic: bool,
    /// The tag that it gets.
    pub tag: Option<String>,
    /// The version that must be current still, because the new one is made from it.
    pub expected_current: Option<VersionKey>,
}

/// A deployed version.
#[derive(Debug)]
pub struct Version {
    /// Its number in this run of the front door. A change of limits gives it a new one.
    pub key: VersionKey,
    /// Its tenant.
    pub tenant: TenantName,
    /// Its function.
    pub function: FunctionName,
    /// What was stored of it.
    pub record: Arc<VersionRecord>,
    /// Its limits, none of them above its tenant's.
    pub limits: FunctionLimits,
    /// Where it may send requests to.
    pub allowed_hosts: Vec<AllowedHost>,
    /// The permits of its concurrent requests.
    pub permits: Arc<VersionPermits>,
    /// The compiled component.
    pub compiled: PathBuf,
    /// Its assets, in the order of their names.
    pub assets: Vec<PathBuf>,
    /// What its driver compiled, to be put into a worker's cache.
    pub driver_cache: PathBuf,
    /// Whether the compiled component is known to be there. A newer binary compiles for another
    /// engine, under another name, the first time a version is wanted.
    pub built: AtomicBool,
}

impl Version {
    pub(super) fn new(
        key: VersionKey,
        tenant: &TenantName,
        function: &FunctionName,
        record: Arc<VersionRecord>,
        limits: &TenantLimits,
        files: &Files,
    ) -> Self {
        let limits = limits.cap(&record.manifest.limits);
        let hosts = &record.manifest.http.allowed_outbound_hosts;
        Self {
            key,
            tenant: tenant.clone(),
            function: function.clone(),
            compiled: files.compiled(tenant, &record.build_name()),
            assets: record.assets.values().map(|asset| files.asset(tenant, &asset.digest)).collect(),
            driver_cache: files.driver_cache(tenant, &record.digest),
            built: AtomicBool::new(false),
            permits: VersionPermits::new(&limits),
            allowed_hosts: hosts.iter().filter_map(|host| AllowedHost::parse(host).ok()).collect(),
            limits,
            record,
        }
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.record.manifest
    }
}

impl Function {
    /// A function as it was stored.
    pub(super) fn of(name: FunctionName, record: &FunctionRecord, versions: Vec<Arc<Version>>) -> Option<Self> {
        let find = |number: u32| versions.iter().find(|version| version.record.number == number).cloned();
        let current = find(record.current)?;
        let mut traffic: Vec<_> =
            record.traffic.iter().filter_map(|(number, weight)| Some((find(*number)?, *weight))).collect();
        if traffic.iter().all(|(_, weight)| *weight == 0) {
            traffic = vec![(Arc::clone(&current), 100)];
        }
        let tags = record.tags.iter().filter_map(|(tag, number)| Some((tag.clone(), find(*number)?))).collect();
        let (sticky, before) = (record.sticky.clone(), record.before.clone());
        Some(Self { name, current, traffic, sticky, tags, before, versions })
    }

    /// As it is stored.
    pub(super) fn record(&self) -> FunctionRecord {
        FunctionRecord {
            current: self.current.record.number,
            traffic: self.traffic.iter().map(|(version, weight)| (version.record.number, *weight)).collect(),
            sticky: self.sticky.clone(),
            tags: self.tags.iter().map(|(tag, version)| (tag.clone(), version.record.number)).collect(),
            before: self.before.clone(),
        }
    }

    /// A version by its number.
    pub fn find(&self, number: u32) -> Option<&Arc<Version>> {
        self.versions.iter().find(|version| version.record.number == number)
    }

    /// The version with a tag, or with the number in `v3`.
    pub fn tagged(&self, tag: &str) -> Option<&Arc<Version>> {
        let number = || tag.strip_prefix('v').and_then(|number| number.parse().ok());
        self.tags.get(tag).or_else(|| self.find(number()?))
    }

    /// Whether requests may reach a version.
    pub fn serves(&self, version: &Version) -> bool {
        self.serves_key(version.key)
    }

    /// Whether requests may reach the version with this key.
    pub fn serves_key(&self, key: VersionKey) -> bool {
        let by_traffic = self.traffic.iter().map(|(version, _)| version);
        by_traffic.chain(self.tags.values()).any(|version| version.key == key)
    }

    /// The version for a request.
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

/// A number that is always the same for what a request is held by, if it has it.
fn sticky_point(sticky: &Sticky, headers: &HeaderMap) -> Option<u64> {
    let value = match sticky {
        Sticky::Header(name) => headers.get(name)?.as_bytes().to_vec(),
        Sticky::Cookie(name) => {
            let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
            let mut pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
            pairs.find(|(known, _)| known == name)?.1.as_bytes().to_vec()
        }
    };
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(value).into();
    Some(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}

/// The index that a point falls on, where each weight is a part of the whole.
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
