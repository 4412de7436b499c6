//! `/api/v1/functions`: deploy, list, look, delete.

use super::{Acting, Control, ControlError, only, upload};
use crate::build;
use crate::inbound::Inbound;
use crate::names::FunctionName;
use crate::registry::{Function, Snapshot, Version};
use crate::respond::{Done, Refused, ResponseBody, json};
use crate::store::records::VersionRecord;
use http::{Method, Response};
use serde_json::{Value, json as value};
use std::sync::Arc;

impl Control {
    pub(super) fn list(
        &self,
        inbound: &Inbound,
        acting: &Acting,
        snapshot: &Snapshot,
    ) -> Result<Response<ResponseBody>, Refused> {
        only(inbound, &[Method::GET], "GET")?;
        acting.needs(acting.scopes.read, "read")?;
        let query = inbound.parts.uri.query().unwrap_or_default();
        let argument = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let limit = match argument("limit") {
            None => 100,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=1000).contains(limit))
                .ok_or_else(|| ControlError::Invalid(format!("limit = {text:?}; it may be 1 to 1000")))?,
        };
        let cursor = argument("cursor").unwrap_or_default();
        let tenant = snapshot.tenants.get(&acting.tenant).ok_or(ControlError::NotFound)?;
        let mut after =
            tenant.functions.values().filter(|function| cursor.is_empty() || function.name.as_str() > cursor);
        let page: Vec<_> = after.by_ref().take(limit).collect();
        let next = after.next().and_then(|_| page.last()).map(|function| function.name.clone());
        let functions: Vec<Value> = page.into_iter().map(|function| self.describe(function)).collect();
        Ok(json(Done::Ok, &value!({ "functions": functions, "cursor": next })))
    }

    fn describe(&self, function: &Function) -> Value {
        let current = &function.current;
        value!({
            "name": function.name,
            "version": current.record.number,
            "digest": current.record.digest,
            "deployed": current.record.created,
            "public": current.manifest().http.public,
            "url": self.url(current),
            "kernels": current.record.kernels.keys().collect::<Vec<_>>(),
        })
    }

    /// How a function fares: kernels that may not run, and kills of its workers, if there were any lately.
    fn health(&self, acting: &Acting, function: &Function, snapshot: &Snapshot) -> Value {
        let tenant = snapshot.tenants.get(&acting.tenant);
        let kernels = function.current.record.kernels.iter();
        let quarantined = kernels.filter(|(_, kernel)| tenant.is_some_and(|tenant| tenant.is_quarantined(kernel)));
        let kills = self.pool.kills(&acting.tenant, &function.name).map(|(kills, wait)| {
            value!({
                "count": kills.count,
                "last": kills.time,
                "why": kills.why,
                "backing_off_ms": u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            })
        });
        value!({ "quarantined_kernels": quarantined.map(|(name, _)| name).collect::<Vec<_>>(), "kills": kills })
    }

    fn url(&self, version: &Version) -> String {
        format!("{}/f/{}/{}/", self.public_url, version.tenant, version.function)
    }

    pub(super) fn versions(
        &self,
        inbound: &Inbound,
        acting: &Acting,
        name: &FunctionName,
        snapshot: &Snapshot,
    ) -> Result<Response<ResponseBody>, Refused> {
        only(inbound, &[Method::GET], "GET")?;
        acting.needs(acting.scopes.read, "read")?;
        let function = snapshot.function(acting.tenant.as_str(), name.as_str()).ok_or(ControlError::NotFound)?;
        let versions: Vec<Value> = function
            .versions
            .iter()
            .rev()
            .map(|version| {
                value!({
                    "version": version.record.number,
                    "current": Arc::ptr_eq(version, &function.current),
                    "digest": version.record.digest,
                    "size": version.record.size,
                    "deployed": version.record.created,
                })
            })
            .collect();
        Ok(json(Done::Ok, &value!({ "name": name, "versions": versions })))
    }

    /// The current version's kernels: the WGSL as it was deployed, and as it runs.
    pub(super) fn kernels(
        &self,
        inbound: &Inbound,
        acting: &Acting,
        name: &FunctionName,
        snapshot: &Snapshot,
    ) -> Result<Response<ResponseBody>, Refused> {
        only(inbound, &[Method::GET], "GET")?;
        acting.needs(acting.scopes.read, "read")?;
        let function = snapshot.function(acting.tenant.as_str(), name.as_str()).ok_or(ControlError::NotFound)?;
        let kernels = function.current.record.kernels.iter().map(|(name, kernel)| {
            value!({ "name": name, "entry": kernel.entry, "wgsl": kernel.wgsl, "hardened": kernel.hardened })
        });
        let version = function.current.record.number;
        Ok(json(Done::Ok, &value!({ "name": name, "version": version, "kernels": kernels.collect::<Vec<_>>() })))
    }

    pub(super) async fn function(
        &self,
        inbound: Inbound,
        acting: Acting,
        name: FunctionName,
        snapshot: &Snapshot,
    ) -> Result<Response<ResponseBody>, Refused> {
        only(&inbound, &[Method::GET, Method::PUT, Method::DELETE], "GET, PUT, DELETE")?;
        match inbound.parts.method {
            Method::PUT => {
                acting.needs(acting.scopes.deploy, "deploy")?;
                Ok(self.deploy(inbound, &acting, &name).await?)
            }
            Method::DELETE => {
                acting.needs(acting.scopes.deploy, "deploy")?;
                let (registry, tenant, gone) = (Arc::clone(&self.registry), acting.tenant.clone(), name.clone());
                let deleted = tokio::spawn(async move { registry.delete(&tenant, &gone).await }).await;
                deleted.map_err(|error| ControlError::Internal(error.to_string()))?.map_err(ControlError::from)?;
                self.after_change(&acting).await;
                self.logs.forget(&acting.tenant, &name);
                Ok(json(Done::Ok, &value!({ "deleted": name })))
            }
            _ => {
                acting.needs(acting.scopes.read, "read")?;
                let function =
                    snapshot.function(acting.tenant.as_str(), name.as_str()).ok_or(ControlError::NotFound)?;
                let mut answer = self.describe(function);
                if let Value::Object(fields) = &mut answer {
                    fields.insert("manifest".into(), value!(function.current.manifest()));
                    fields.insert("warnings".into(), value!(function.current.record.warnings));
                    fields.insert("health".into(), self.health(&acting, function, snapshot));
                }
                Ok(json(Done::Ok, &answer))
            }
        }
    }

    async fn deploy(
        &self,
        inbound: Inbound,
        acting: &Acting,
        name: &FunctionName,
    ) -> Result<Response<ResponseBody>, ControlError> {
        let store = Arc::clone(self.registry.store());
        let (tenant, request) = (acting.tenant.clone(), inbound.id);
        let mut upload = upload::receive(inbound, store.files(), self.component_bytes_max).await?;
        let manifest = upload.manifest.take().unwrap_or_default();
        if let Some(own) = manifest.name.as_ref().filter(|own| *own != name) {
            return Err(ControlError::Invalid(format!("the manifest is for {own:?}, the request for {name:?}")));
        }
        let classes = &manifest.gpu.class;
        if crate::gpus::candidates(&self.places, classes).is_empty() {
            let served: Vec<&str> = self.places.iter().map(|place| place.class.as_str()).collect();
            return Err(ControlError::Unservable(format!("gpu.class = {classes:?}, but this server has {served:?}")));
        }
        let built = self.builder.build(&tenant, &upload.digest, &upload.path, classes).await?;
        let kept = {
            let (store, tenant) = (Arc::clone(&store), tenant.clone());
            let (digest, path) = (upload.digest.clone(), upload.path.clone());
            tokio::task::spawn_blocking(move || build::keep_component(&store, &tenant, &digest, &path)).await
        };
        kept.map_err(|error| ControlError::Internal(error.to_string()))??;
        let record = VersionRecord {
            number: 0,
            digest: upload.digest.clone(),
            size: upload.size,
            created: jiff::Timestamp::now(),
            manifest,
            kernels: built.kernels,
            warnings: built.warnings,
        };
        let (registry, owner, function) = (Arc::clone(&self.registry), tenant.clone(), name.clone());
        let deployed = tokio::spawn(async move { registry.deploy(&owner, &function, record).await }).await;
        let (version, new) = deployed.map_err(|error| ControlError::Internal(error.to_string()))??;
        tracing::info!(%request, %tenant, function = %name, version = version.record.number, new, "deployed");
        self.pool.redeployed(&tenant, name).await;
        self.after_change(acting).await;
        let answer = value!({
            "tenant": tenant,
            "name": name,
            "version": version.record.number,
            "digest": version.record.digest,
            "url": self.url(&version),
            "kernels": version.record.kernels.keys().collect::<Vec<_>>(),
            "warnings": version.record.warnings,
        });
        Ok(json(if new { Done::Created } else { Done::Ok }, &answer))
    }

    /// Brings the pool in line with what is deployed: pins or lets go the tenant's worker, and
    /// warms functions with `min = 1`.
    async fn after_change(&self, acting: &Acting) {
        self.pool.unpin(&acting.tenant);
        warm(&self.registry.snapshot(), &self.pool, Some(&acting.tenant));
    }
}

/// Warms every function with `min = 1`, of one tenant or of all, in the background.
pub fn warm(snapshot: &Snapshot, pool: &crate::pool::Pool, only: Option<&crate::names::TenantName>) {
    for (name, tenant) in &snapshot.tenants {
        if only.is_some_and(|only| only != name) {
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
