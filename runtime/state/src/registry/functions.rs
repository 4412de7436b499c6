//! Changes of functions: deploy, settings, traffic, rollback, delete.

use crate::registry::function::record_bytes;
use crate::registry::{
    ChangeResult, DeployOptions, Function, Registry, RegistryError, Snapshot, Tenant, Version, tenant_mut,
};
use crate::store::WriteBatch;
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::records::{QuarantineRecord, Sticky, VersionRecord};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Maximum number of tags of one function.
const TAGS_MAX: usize = 32;
/// Number of formerly current versions that are remembered for rollbacks.
const PREVIOUS_MAX: usize = 16;

/// Returns whether a text is a valid tag: a DNS label of at most 32 characters that begins with a letter and does not
/// look like a version's number, as in `v3`.
pub fn is_tag(text: &str) -> bool {
    let part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let letter = |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase());
    let named = letter(text) && text.strip_prefix('v').is_none_or(letter);
    named && text.len() <= 32 && text.bytes().all(part) && !text.ends_with('-')
}

impl Tenant {
    /// Returns the kernels that stay in quarantine when the function `deployed` is deployed: those that other functions
    /// of the tenant declare.
    fn quarantine_after(&self, deployed: &FunctionName) -> Vec<QuarantineRecord> {
        if self.quarantine.is_empty() {
            return Vec::new();
        }
        let others = self.functions.values().filter(|function| function.name != *deployed);
        let kept: HashSet<&str> = others
            .flat_map(|function| &function.versions)
            .flat_map(|version| version.record.kernels.values())
            .map(|kernel| kernel.source.as_str())
            .collect();
        self.quarantine.iter().filter(|record| kept.contains(hex::encode(record.source).as_str())).cloned().collect()
    }

    /// Returns the number of versions of all functions.
    pub fn version_count(&self) -> u64 {
        self.functions.values().map(|function| function.versions.len() as u64).sum()
    }

    /// Returns the bytes of the records of all versions.
    pub fn record_bytes(&self) -> u64 {
        let versions = self.functions.values().flat_map(|function| &function.versions);
        versions.fold(0, |sum, version| sum.saturating_add(version.record_bytes))
    }

    /// Whether a quota of versions is used up, so that a change must not add any that could go.
    fn is_full_of_versions(&self) -> bool {
        self.version_count() >= self.limits.versions || self.record_bytes() >= self.limits.records_mib << 20
    }

    /// Returns the bytes that components, their builds and the records of versions take. Versions that share a component
    /// or a build count it once. `other` is a version to count in addition.
    pub fn component_bytes(&self, other: Option<&VersionRecord>) -> u64 {
        let (mut components, mut builds, mut records) = (HashMap::new(), HashMap::new(), 0_u64);
        let versions = self.functions.values().flat_map(|function| &function.versions);
        let other = other.map(|record| (record, record.build_size, 0));
        let known = versions.map(|version| (&*version.record, version.build_size, version.record_bytes));
        for (record, build_size, record_bytes) in known.chain(other) {
            components.insert(record.digest.as_str(), record.size);
            let build = builds.entry(record.build_name()).or_insert(build_size);
            *build = build_size.max(*build);
            records = records.saturating_add(record_bytes);
        }
        components.values().chain(builds.values()).fold(records, |sum, size| sum.saturating_add(*size))
    }
}

impl Function {
    fn give_all_traffic(&mut self, version: &Arc<Version>) {
        let old = self.current.record.number;
        if old != version.record.number {
            self.previous.retain(|number| *number != old);
            self.previous.push(old);
            self.previous.drain(..self.previous.len().saturating_sub(PREVIOUS_MAX));
        }
        self.current = Arc::clone(version);
        self.traffic = vec![(Arc::clone(version), 100)];
    }

    /// Removes and returns old versions: those that are not among the newest `kept`, have neither traffic nor a tag,
    /// and were not the last current one.
    fn prune(&mut self, kept: usize) -> Vec<Arc<Version>> {
        let spare = self.versions.len().saturating_sub(kept);
        let (gone, stay) = self
            .versions
            .iter()
            .cloned()
            .enumerate()
            .partition::<Vec<_>, _>(|(index, version)| *index < spare && self.is_spare(version));
        self.versions = stay.into_iter().map(|(_, version)| version).collect();
        gone.into_iter().map(|(_, version)| version).collect()
    }

    /// Returns whether a version has neither traffic nor a tag and was not the last current one.
    fn is_spare(&self, version: &Version) -> bool {
        !self.serves(version) && self.previous.last().copied() != Some(version.record.number)
    }

    /// Whether one more version would remove an old one.
    fn replaces_a_version(&self, kept: usize, how: &DeployOptions) -> bool {
        let spare = (self.versions.len() + 1).saturating_sub(kept);
        // With all traffic, the new version makes the current one the last that was current.
        let is_spare_then = |version: &Version| {
            let has_tag = self.tags.values().any(|tagged| tagged.key == version.key);
            if how.no_traffic { self.is_spare(version) } else { !has_tag && version.key != self.current.key }
        };
        self.versions.iter().take(spare).any(|version| is_spare_then(version))
    }
}

impl Registry {
    /// Adds a version, or finds an identical one, and gives it traffic and a tag as `how` says. Returns the version and
    /// whether it is new.
    pub async fn deploy(
        self: &Arc<Self>,
        tenant: &TenantName,
        name: &FunctionName,
        record: VersionRecord,
        how: DeployOptions,
    ) -> Result<(Arc<Version>, bool), RegistryError> {
        let (tenant, name) = (tenant.clone(), name.clone());
        let owner = tenant.clone();
        let deployed = self.change(move |registry, next| registry.add_version(next, &tenant, &name, record, how)).await;
        let (version, new, gone) = deployed?;
        self.sweep_components(&owner, gone);
        self.sweep_assets(&owner);
        Ok((version, new))
    }

    /// Returns how many of the newest versions of a function are kept.
    pub fn kept(&self) -> usize {
        usize::try_from(self.versions_kept.load(Ordering::Relaxed)).unwrap_or(usize::MAX).max(1)
    }

    fn add_version(
        &self,
        next: &mut Snapshot,
        owner: &TenantName,
        name: &FunctionName,
        mut record: VersionRecord,
        how: DeployOptions,
    ) -> ChangeResult<(Arc<Version>, bool, Vec<String>)> {
        let tenant_entry = tenant_mut(next, owner)?;
        if let Some(expected) = how.expected_current {
            let current = tenant_entry.functions.get(name).map(|function| function.current.key);
            if current.ok_or(RegistryError::NotFound)? != expected {
                return Err(RegistryError::Conflict("the function was changed meanwhile; try again".into()));
            }
        }
        tenant_entry.check_deploy(name, &record, &how, self.kept())?;
        record.assets = tenant_entry.pin_assets(&record.manifest)?;
        let mut change = WriteBatch::new();
        let quarantine = tenant_entry.quarantine_after(name);
        if quarantine != *tenant_entry.quarantine {
            tenant_entry.quarantine = Arc::new(quarantine);
            change = change.tenant(owner, &tenant_entry.stored())?;
        }
        let mut function = tenant_entry.functions.get(name).map(|function| Function::clone(function));
        let same = function.as_ref().and_then(|function| {
            // The current version is tried first, because after a change of a secret several versions are identical.
            let all = std::iter::once(&function.current).chain(function.versions.iter().rev());
            all.into_iter().find(|version| version.record.is_same(&record)).cloned()
        });
        let (version, new) = match same {
            Some(version) => (version, false),
            None => {
                let newest = function.as_ref().and_then(|function| function.versions.last());
                record.number = newest.map_or(1, |version| version.record.number.saturating_add(1));
                (self.version(owner, name, Arc::new(record), &tenant_entry.limits), true)
            }
        };
        let mut changed = match function.take() {
            Some(mut function) => {
                if new {
                    function.versions.push(Arc::clone(&version));
                }
                function
            }
            None => Function {
                name: name.clone(),
                current: Arc::clone(&version),
                versions: vec![Arc::clone(&version)],
                traffic: vec![(Arc::clone(&version), 100)],
                sticky: None,
                tags: BTreeMap::new(),
                previous: Vec::new(),
            },
        };
        if !how.no_traffic {
            changed.give_all_traffic(&version);
        }
        if let Some(tag) = how.tag {
            changed.tags.insert(tag, Arc::clone(&version));
        }
        if new {
            change = change.version(owner, name, &version.record)?;
        }
        let pruned = changed.prune(self.kept());
        for version in &pruned {
            change = change.without_version(owner, name, version.record.number);
        }
        change = change.function(owner, name, &changed.record())?;
        tenant_entry.functions.insert(name.clone(), Arc::new(changed));
        let gone = files_of(&pruned);
        Ok((change, (version, new, gone)))
    }

    /// Removes a function and all its versions.
    pub async fn delete(self: &Arc<Self>, tenant: &TenantName, name: &FunctionName) -> Result<(), RegistryError> {
        let owner = tenant.clone();
        let (tenant, name) = (tenant.clone(), name.clone());
        let gone = self.change(move |_, next| {
            let tenant_entry = tenant_mut(next, &tenant)?;
            let removed = tenant_entry.functions.remove(&name).ok_or(RegistryError::NotFound)?;
            let mut change = WriteBatch::new().without_function(&tenant, &name);
            for version in &removed.versions {
                change = change.without_version(&tenant, &name, version.record.number);
            }
            Ok((change, files_of(&removed.versions)))
        });
        let gone = gone.await?;
        self.sweep_components(&owner, gone);
        self.sweep_assets(&owner);
        Ok(())
    }

    /// Splits the requests of a function among its versions by weight. The version with the largest weight becomes
    /// current.
    pub async fn set_traffic(
        self: &Arc<Self>,
        tenant: &TenantName,
        name: &FunctionName,
        weights: BTreeMap<u32, u32>,
        sticky: Option<Sticky>,
    ) -> Result<Arc<Function>, RegistryError> {
        self.change_function(tenant, name, move |function| {
            let mut traffic = Vec::new();
            for (number, weight) in weights.into_iter().filter(|(_, weight)| *weight > 0) {
                let version = function.find(number);
                let version =
                    version.ok_or_else(|| RegistryError::Conflict(format!("there is no version v{number}")))?;
                traffic.push((Arc::clone(version), weight));
            }
            let most = traffic.iter().max_by_key(|(version, weight)| (*weight, version.record.number));
            let most = most.map(|(version, _)| Arc::clone(version));
            let most = most.ok_or_else(|| RegistryError::Conflict("no version has a weight above 0".into()))?;
            function.give_all_traffic(&most);
            (function.traffic, function.sticky) = (traffic, sticky);
            Ok(())
        })
        .await
    }

    /// Gives all requests of a function to version `to`, or to the one that was current before.
    pub async fn roll_back(
        self: &Arc<Self>,
        tenant: &TenantName,
        name: &FunctionName,
        to: Option<u32>,
    ) -> Result<Arc<Function>, RegistryError> {
        self.change_function(tenant, name, move |function| {
            let last_previous =
                || function.previous.iter().rev().copied().find(|number| function.find(*number).is_some());
            let number = to
                .or_else(last_previous)
                .ok_or_else(|| RegistryError::Conflict("no other version has been current before".into()))?;
            let version = function.find(number).cloned();
            let version = version.ok_or_else(|| RegistryError::Conflict(format!("there is no version v{number}")))?;
            // The version that was rolled back is not added to `previous`, so that a second rollback goes further back.
            let previous = function.previous.clone();
            function.give_all_traffic(&version);
            function.previous = previous;
            function.previous.retain(|previous| *previous != number);
            Ok(())
        })
        .await
    }

    /// Gives a tag to the version `number`, or removes the tag if that is None.
    pub async fn set_tag(
        self: &Arc<Self>,
        tenant: &TenantName,
        name: &FunctionName,
        tag: String,
        number: Option<u32>,
    ) -> Result<Arc<Function>, RegistryError> {
        self.change_function(tenant, name, move |function| {
            let Some(number) = number else {
                return function.tags.remove(&tag).map(drop).ok_or(RegistryError::NotFound);
            };
            check_tags(Some(&function.tags), &tag)?;
            let version = function.find(number).cloned();
            let version = version.ok_or_else(|| RegistryError::Conflict(format!("there is no version v{number}")))?;
            function.tags.insert(tag, version);
            Ok(())
        })
        .await
    }

    async fn change_function(
        self: &Arc<Self>,
        tenant: &TenantName,
        name: &FunctionName,
        change: impl FnOnce(&mut Function) -> Result<(), RegistryError> + Send + 'static,
    ) -> Result<Arc<Function>, RegistryError> {
        let (tenant, name) = (tenant.clone(), name.clone());
        self.change(move |_, next| {
            let tenant_entry = tenant_mut(next, &tenant)?;
            let mut function = tenant_entry.functions.get(&name).map(|function| Function::clone(function));
            let function = function.as_mut().ok_or(RegistryError::NotFound)?;
            change(function)?;
            for version in function.versions.iter().filter(|version| function.serves(version)) {
                check_secrets(tenant_entry, &version.record)?;
            }
            let stored = WriteBatch::new().function(&tenant, &name, &function.record())?;
            let function = Arc::new(function.clone());
            tenant_entry.functions.insert(name, Arc::clone(&function));
            Ok((stored, function))
        })
        .await
    }

    /// For each version with traffic or a tag that `concerns` selects, makes a new version of the same component and
    /// moves the traffic and the tags to it. Also returns the names of the files of versions that were removed.
    pub(super) fn renew(
        &self,
        tenant: &TenantName,
        tenant_entry: &mut Tenant,
        mut change: WriteBatch,
        cause: &str,
        concerns: impl Fn(&Version) -> bool,
    ) -> ChangeResult<Vec<String>> {
        let mut gone = Vec::new();
        // Renewing must be possible at any time, so old versions make room.
        let kept = if tenant_entry.is_full_of_versions() { 1 } else { self.kept() };
        for function in tenant_entry.functions.values_mut() {
            let mut renewed = Function::clone(function);
            let served: Vec<_> =
                renewed.versions.iter().filter(|v| renewed.serves(v) && concerns(v)).cloned().collect();
            if served.is_empty() {
                continue;
            }
            for old in served {
                let number = renewed.versions.last().map_or(1, |version| version.record.number.saturating_add(1));
                let record = VersionRecord {
                    number,
                    created: jiff::Timestamp::now(),
                    cause: Some(cause.to_owned()),
                    ..VersionRecord::clone(&old.record)
                };
                let version = self.version(tenant, &renewed.name, Arc::new(record), &tenant_entry.limits);
                change = change.version(tenant, &renewed.name, &version.record)?;
                renewed.versions.push(Arc::clone(&version));
                if renewed.current.key == old.key {
                    renewed.current = Arc::clone(&version);
                }
                let version_refs =
                    renewed.traffic.iter_mut().map(|(version, _)| version).chain(renewed.tags.values_mut());
                version_refs
                    .filter(|version_ref| version_ref.key == old.key)
                    .for_each(|version_ref| *version_ref = Arc::clone(&version));
            }
            let pruned = renewed.prune(kept);
            for version in &pruned {
                change = change.without_version(tenant, &renewed.name, version.record.number);
            }
            gone.extend(files_of(&pruned));
            change = change.function(tenant, &renewed.name, &renewed.record())?;
            *function = Arc::new(renewed);
        }
        Ok((change, gone))
    }

    /// Applies the tenant's current limits to all its versions. Those whose limits change get a new [`Version::key`].
    pub(super) fn apply_limits(&self, tenant: &TenantName, tenant_entry: &mut Tenant) {
        let limits = Arc::clone(&tenant_entry.limits);
        for function in tenant_entry.functions.values_mut() {
            let renewed = |version: &Arc<Version>| {
                let manifest = &version.record.manifest;
                if limits.cap(&manifest.limits) == version.limits && limits.cap_jobs(&manifest.jobs) == version.jobs {
                    return Arc::clone(version);
                }
                self.version(tenant, &version.function, Arc::clone(&version.record), &limits)
            };
            let versions = function.versions.iter().map(renewed).collect();
            if let Some(function_now) = Function::from_record(function.name.clone(), &function.record(), versions) {
                *function = Arc::new(function_now);
            }
        }
    }
}

fn check_tags(tags: Option<&BTreeMap<String, Arc<Version>>>, tag: &str) -> Result<(), RegistryError> {
    if !is_tag(tag) {
        let rule = "a tag is 1 to 32 of a-z, 0-9 and dashes, a letter first, and not like a version's number";
        let tag: String = tag.chars().take(64).collect();
        return Err(RegistryError::Invalid(format!("the tag {tag:?}; {rule}")));
    }
    if tags.is_some_and(|tags| !tags.contains_key(tag) && tags.len() >= TAGS_MAX) {
        return Err(RegistryError::Invalid(format!("the function has {TAGS_MAX} tags; that is the limit")));
    }
    Ok(())
}

impl Tenant {
    /// Checks whether a version may be deployed: limits, tag and secrets. `kept` of the newest versions of a function
    /// are kept.
    pub fn check_deploy(
        &self,
        name: &FunctionName,
        record: &VersionRecord,
        how: &DeployOptions,
        kept: usize,
    ) -> Result<(), RegistryError> {
        let function = self.functions.get(name);
        if function.is_none() {
            let used = self.functions.len() as u64;
            if used >= self.limits.functions {
                return Err(RegistryError::LimitReached { name: "functions", limit: self.limits.functions, used });
            }
            if how.no_traffic {
                return Err(RegistryError::Conflict("the first version of a function must get its requests".into()));
            }
        }
        if let Some(tag) = &how.tag {
            check_tags(function.map(|function| &function.tags), tag)?;
        }
        // A version that is there already takes nothing.
        let is_new = |function: &Function| !function.versions.iter().any(|version| version.record.is_same(record));
        if function.is_none_or(|function| is_new(function)) {
            let (limit, used) = (self.limits.versions, self.version_count());
            if used >= limit && !function.is_some_and(|function| function.replaces_a_version(kept, how)) {
                return Err(RegistryError::LimitReached { name: "versions", limit, used });
            }
            let (limit, used) = (self.limits.records_mib, self.record_bytes());
            if used.saturating_add(record_bytes(record)) > limit << 20 {
                return Err(RegistryError::LimitReached { name: "records_mib", limit, used: used.div_ceil(1 << 20) });
            }
            let limit = self.limits.components_mib;
            if self.component_bytes(Some(record)) > limit << 20 {
                let used = self.component_bytes(None).div_ceil(1 << 20);
                return Err(RegistryError::LimitReached { name: "components_mib", limit, used });
            }
        }
        check_secrets(self, record)
    }
}

/// Checks that the secrets that a version names are set.
fn check_secrets(tenant_entry: &Tenant, record: &VersionRecord) -> Result<(), RegistryError> {
    if let Some(missing) = record.manifest.secrets.names.iter().find(|name| !tenant_entry.secrets.contains_key(*name)) {
        return Err(RegistryError::Conflict(format!(
            "secrets.names holds {missing:?}, which is not set; `gannet secret set {missing}` sets it"
        )));
    }
    Ok(())
}

/// Returns the digests of the components and the names of the builds of removed versions. The sweep finds out which of
/// them other versions need.
fn files_of(gone: &[Arc<Version>]) -> Vec<String> {
    let names = gone.iter().flat_map(|version| [version.record.digest.clone(), version.record.build_name()]);
    let names: HashSet<String> = names.collect();
    names.into_iter().collect()
}
