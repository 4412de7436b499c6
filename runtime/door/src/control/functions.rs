//! `/api/v1/functions`: lists functions, describes one, and deletes one.

use crate::control::Control;
use crate::control::authorize::TenantGrant;
use crate::control::call::{ApiCall, CallResult};
use crate::control::error::ControlError;
use crate::respond::{ReplyStatus, json};
use gannet_api::{
    Deleted, FunctionDetail, FunctionView, Functions, HealthView, KernelView, Kernels, KillsView, VersionView, Versions,
};
use gannet_base::hop::BundleKernel;
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::records::VersionRecord;
use gannet_fleet::pool::Pool;
use gannet_state::registry::{Function, Snapshot, Version};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Returns a function of the tenant, as it was when the request came.
pub(super) fn find<'a>(grant: &'a TenantGrant, name: &FunctionName) -> Result<&'a Arc<Function>, ControlError> {
    grant.owner.functions.get(name).ok_or(ControlError::NotFound)
}

pub(super) fn traffic_of(function: &Function) -> BTreeMap<String, u32> {
    function.traffic.iter().map(|(version, weight)| (format!("v{}", version.record.number), *weight)).collect()
}

impl Control {
    pub(super) fn list_functions(&self, call: &ApiCall, grant: &TenantGrant) -> CallResult {
        let (limit, cursor) = (call.query.limit()?, call.query.get("cursor").unwrap_or_default());
        let covered = |function: &&Arc<Function>| grant.only.as_ref().is_none_or(|only| *only == function.name);
        let mut after = grant
            .owner
            .functions
            .values()
            .filter(|function| cursor.is_empty() || function.name.as_str() > cursor)
            .filter(covered);
        let page: Vec<_> = after.by_ref().take(limit).collect();
        let cursor = after.next().and_then(|_| page.last()).map(|function| function.name.to_string());
        let functions = page.into_iter().map(|function| self.view(function)).collect();
        Ok(json(ReplyStatus::Ok, &Functions { functions, cursor }))
    }

    pub(super) fn view(&self, function: &Function) -> FunctionView {
        let current = &function.current;
        let workers = self.pool.workers_of(current);
        FunctionView {
            name: function.name.to_string(),
            version: current.record.number,
            digest: current.record.digest.clone(),
            deployed: current.record.created.to_string(),
            public: current.manifest().http.public,
            url: self.url(&current.tenant, &current.function, None),
            kernels: current.record.kernels.keys().cloned().collect(),
            workers: workers.now,
            workers_wanted: workers.wanted,
        }
    }

    pub(super) fn detail(&self, grant: &TenantGrant, function: &Function) -> FunctionDetail {
        FunctionDetail {
            function: self.view(function),
            manifest: function.current.manifest().clone(),
            warnings: function.current.record.warnings.clone(),
            traffic: traffic_of(function),
            sticky: function.sticky.clone(),
            tags: function.tags.iter().map(|(tag, version)| (tag.clone(), version.record.number)).collect(),
            health: self.health(grant, function),
        }
    }

    /// Returns a function's quarantined kernels, and the recent kills of its workers: of the version that was killed most.
    fn health(&self, grant: &TenantGrant, function: &Function) -> HealthView {
        let kernels = function.current.record.kernels.iter();
        let quarantined = kernels.filter(|(_, kernel)| grant.owner.is_quarantined(kernel));
        let kills = function.served().filter_map(|version| self.pool.kills(version.key));
        let kills = kills.max_by_key(|(kills, _)| kills.count).map(|(kills, wait)| KillsView {
            count: kills.count,
            last: kills.time.to_string(),
            why: kills.why,
            backing_off_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        });
        HealthView { quarantined_kernels: quarantined.map(|(name, _)| name.clone()).collect(), kills }
    }

    /// Returns the URL of a function, or of one of its tags.
    pub(super) fn url(&self, tenant: &TenantName, function: &FunctionName, tag: Option<&str>) -> String {
        let file = self.live.load();
        let base = file.public_url.as_deref().unwrap_or(&self.own_url).trim_end_matches('/');
        match (&file.domain, tag) {
            (Some(domain), None) => {
                let scheme = base.split_once("://").map_or("http", |(scheme, _)| scheme);
                let port = base.rsplit_once(':').map(|(_, port)| port).filter(|port| port.parse::<u16>().is_ok());
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                format!("{scheme}://{function}--{tenant}.{domain}{port}/")
            }
            (_, Some(tag)) => format!("{base}/f/{tenant}/{function}@{tag}/"),
            (None, None) => format!("{base}/f/{tenant}/{function}/"),
        }
    }

    pub(super) fn versions(&self, call: &ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.function()?;
        let function = find(grant, &name)?;
        let view = |version: &Arc<Version>| VersionView {
            version: version.record.number,
            current: version.key == function.current.key,
            weight: function
                .traffic
                .iter()
                .find(|(served, _)| served.key == version.key)
                .map_or(0, |(_, weight)| *weight),
            tags: function
                .tags
                .iter()
                .filter(|(_, tagged)| tagged.key == version.key)
                .map(|(tag, _)| tag.clone())
                .collect(),
            digest: version.record.digest.clone(),
            size: version.record.size,
            deployed: version.record.created.to_string(),
            cause: version.record.cause.clone(),
        };
        let versions = function.versions.iter().rev().map(view).collect();
        Ok(json(ReplyStatus::Ok, &Versions { name: name.to_string(), versions }))
    }

    /// Returns the current version's kernels: the WGSL as it was deployed, and as it runs.
    pub(super) async fn kernels(&self, call: &ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.function()?;
        let version = Arc::clone(&find(grant, &name)?.current);
        let kernels = self.builder.kernels(&version).await.map_err(ControlError::from)?;
        let view = |(name, kernel): (&String, &BundleKernel)| KernelView {
            name: name.clone(),
            entry: kernel.entry.clone(),
            wgsl: kernel.wgsl.clone(),
            hardened: kernel.hardened.clone(),
        };
        let kernels = kernels.iter().map(view).collect();
        Ok(json(ReplyStatus::Ok, &Kernels { name: name.to_string(), version: version.record.number, kernels }))
    }

    pub(super) fn get_function(&self, call: &ApiCall, grant: &TenantGrant) -> CallResult {
        let function = find(grant, &call.function()?)?;
        Ok(json(ReplyStatus::Ok, &self.detail(grant, function)))
    }

    pub(super) async fn delete_function(&self, call: &ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.function()?;
        self.registry.delete(&grant.tenant, &name).await.map_err(ControlError::from)?;
        if let Err(error) = self.jobs.pause(&grant.tenant, Some(&name), false).await {
            tracing::warn!(function = %name, %error, "the pause of a deleted function is left");
        }
        if let Err(error) = self.jobs.forget_hooks(&grant.tenant, Some(&name)).await {
            tracing::error!(function = %name, %error, "the hooks of a deleted function are left until the next start");
        }
        self.after_change(grant);
        self.logs.forget(&grant.tenant, &name);
        Ok(json(ReplyStatus::Ok, &Deleted { deleted: name.to_string() }))
    }

    /// Updates the pool after a change: warms functions with `scale.min`, and unloads versions that get no requests any
    /// more. Which workers are kept, the pool's scaling finds out.
    pub(super) fn after_change(&self, grant: &TenantGrant) {
        self.jobs.look_again(&grant.tenant);
        self.pool.unload_unserved(&grant.tenant);
        warm(&self.registry.snapshot(), &self.pool, Some(&grant.tenant));
    }
}

/// Returns the names under which a version's component and its build are stored.
pub(super) fn names(record: &VersionRecord) -> Vec<String> {
    vec![record.digest.clone(), record.build_name()]
}

/// Warms every function with `min > 0`, of one tenant or of all, in the background.
pub fn warm(snapshot: &Snapshot, pool: &Pool, only: Option<&TenantName>) {
    for (name, tenant) in &snapshot.tenants {
        if only.is_some_and(|only| only != name) || tenant.record.suspended {
            continue;
        }
        for function in tenant.functions.values().filter(|function| function.current.manifest().scale.min > 0) {
            let (pool, version) = (pool.clone(), Arc::clone(&function.current));
            tokio::spawn(async move {
                if let Err(error) = pool.warm(&version).await {
                    tracing::warn!(tenant = %version.tenant, function = %version.function, %error, "a function could not be warmed");
                }
            });
        }
    }
}
