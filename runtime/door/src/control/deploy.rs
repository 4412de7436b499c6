//! Deploys a component with its manifest, or new settings for the current component. Each creates a version.

use super::functions::{find, names};
use crate::control::arguments::json_needed;
use crate::control::authorize::TenantGrant;
use crate::control::call::{ApiCall, CallResult};
use crate::control::error::ControlError;
use crate::control::{Control, upload};
use crate::respond::{ReplyStatus, json};
use gannet_api::Deployed;
use gannet_base::manifest::Manifest;
use gannet_base::names::{AssetName, FunctionName};
use gannet_base::records::{PinnedAsset, VersionRecord};
use gannet_fleet::build::{BuildBudget, BuildRequest};
use gannet_state::records::blobs::BlobKind;
use gannet_state::registry::DeployOptions;
use gannet_state::store::report::kernel_records;
use hyper::body::Body;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What a URL of the form `/f/TENANT/NAME/` changes for a function.
const PATH_STYLE: &str = "functions called by path share one origin, so cookies and headers that affect an origin are removed and pages are sandboxed; if the operator sets `domain`, each function has its own host";

fn options(call: &ApiCall) -> Result<DeployOptions, ControlError> {
    Ok(DeployOptions {
        no_traffic: call.query.flag("no_traffic")?,
        tag: call.query.get("tag").map(ToOwned::to_owned),
        expected_current: None,
    })
}

impl Control {
    /// Refuses settings above the tenant's limits, or that no GPU here can serve. Returns the assets that the manifest
    /// names.
    fn check_manifest(
        &self,
        grant: &TenantGrant,
        name: &FunctionName,
        manifest: &Manifest,
    ) -> Result<BTreeMap<String, PinnedAsset>, ControlError> {
        // Otherwise a key for one function could read any secret and any asset by naming it.
        if grant.only.is_some() {
            let current = grant.owner.functions.get(name).map(|function| function.current.manifest());
            let is_new = |secret: &&String| !current.is_some_and(|current| current.secrets.names.contains(secret));
            if let Some(new) = manifest.secrets.names.iter().find(is_new) {
                let message = format!("secrets.names contains {new:?}, which a key for one function cannot add");
                return Err(ControlError::Conflict(message));
            }
            let has =
                |asset: &AssetName| current.is_some_and(|current| current.assets.values().any(|own| own == asset));
            if let Some((name, asset)) = manifest.assets.iter().find(|(_, asset)| !has(asset)) {
                let message = format!("assets.{name} is {:?}, which a key for one function cannot add", asset.as_str());
                return Err(ControlError::Conflict(message));
            }
        }
        let assets = grant.owner.pin_assets(manifest)?;
        let limits = &grant.owner.limits;
        if let Some((name, value, limit)) = limits.exceeded_by(manifest) {
            return Err(ControlError::AboveLimit { name, value, limit });
        }
        if !manifest.schedule.is_empty() {
            let others = grant.owner.functions.values().filter(|function| function.name != *name);
            let others: usize = others.map(|function| function.current.manifest().schedule.len()).sum();
            let value = (others + manifest.schedule.len()) as u64;
            if value > limits.schedules {
                return Err(ControlError::AboveLimit { name: "schedules", value, limit: limits.schedules });
            }
        }
        let classes = &manifest.gpu.class;
        let candidates = gannet_fleet::gpus::candidates(&self.slots, classes).concat();
        if candidates.is_empty() {
            let served: Vec<&str> = self.slots.iter().map(|slot| slot.class.as_str()).collect();
            return Err(ControlError::Unservable(format!("gpu.class = {classes:?}, but this server has {served:?}")));
        }
        if manifest.scale.min > 0 {
            let kept = candidates.iter().filter_map(|slot| self.slots.get(*slot)?.gpu.as_ref());
            // Includes what the tenant's other functions keep.
            let other = Some((name, &assets, manifest.scale.min));
            let kept = kept.map(|gpu| grant.owner.resident_gpu_bytes(other, gpu.context_bytes, self.slots.len()));
            let most = kept.max().unwrap_or(0).div_ceil(1 << 20);
            if most > limits.resident_gpu_mib {
                let (name, limit) = ("scale.min > 0 keeps GPU memory: resident_gpu_mib", limits.resident_gpu_mib);
                return Err(ControlError::AboveLimit { name, value: most, limit });
            }
        }
        Ok(assets)
    }

    pub(super) async fn deploy(&self, call: ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.function()?;
        let dry_run = call.query.flag("dry_run")?;
        let options = options(&call)?;
        let store = Arc::clone(self.registry.store());
        let limit = grant.owner.limits.component_mib << 20;
        let _receiving = self.builder.receiving(&grant.tenant).map_err(ControlError::from)?;
        self.check_space(call.inbound.body.size_hint().exact().unwrap_or(limit).min(limit))?;
        let mut upload = upload::receive(call.inbound, &store, &grant.tenant, limit).await?;
        let protected_files = self.registry.protect_files(&grant.tenant, &upload.digest);
        // A key for one function may name what that function has had, and else must send the bytes: a component contains
        // kernels, which it could then read.
        let is_own = || {
            let function = grant.owner.functions.get(&name);
            function.is_some_and(|function| {
                let mut all = function.versions.iter().chain(std::iter::once(&function.current));
                all.any(|version| version.record.digest == upload.digest)
            })
        };
        let components = store.blobs(BlobKind::Component, &grant.tenant);
        let component = match &upload.path {
            Some(path) => path.clone(),
            None if grant.only.is_some() && !is_own() => return Err(ControlError::NotFound.into()),
            // It may have been removed meanwhile. From here on it is protected.
            None => {
                let stored = components.local_file(&upload.digest).await.map_err(ControlError::from)?;
                stored.ok_or(ControlError::NotFound)?
            }
        };
        let manifest = upload.manifest.take().unwrap_or_default();
        if let Some(own) = manifest.name.as_ref().filter(|own| **own != name) {
            let message = format!("the manifest is for {own:?}, the request for {name:?}");
            return Err(ControlError::Invalid(message).into());
        }
        let assets = self.check_manifest(grant, &name, &manifest)?;
        let mut record = VersionRecord {
            number: 0,
            digest: upload.digest.clone(),
            size: upload.size,
            created: jiff::Timestamp::now(),
            manifest,
            kernels: Arc::default(),
            warnings: Vec::new(),
            cause: None,
            assets,
            snapshot_size: None,
            build_size: 0,
        };
        // Check first, so that a refused deploy starts no build.
        self.check_deploy(grant, &name, &record, &options)?;
        self.build(grant, &mut record, (&component, false)).await?;
        if dry_run {
            drop(protected_files);
            self.registry.sweep_components(&grant.tenant, names(&record));
            return self.dry_run_response(grant, &name, &record, &options);
        }
        let names = names(&record);
        // As it was uploaded, so that later engines can compile it.
        let stored = match &upload.path {
            Some(path) => components.put_file(path, &upload.digest).await.map_err(ControlError::from),
            None => Ok(()),
        };
        let put = match stored {
            Ok(()) => self.put(grant, &name, record, options).await,
            Err(error) => Err(error.into()),
        };
        drop(protected_files);
        if put.is_err() {
            self.registry.sweep_components(&grant.tenant, names);
        }
        put
    }

    fn check_deploy(
        &self,
        grant: &TenantGrant,
        name: &FunctionName,
        record: &VersionRecord,
        options: &DeployOptions,
    ) -> Result<(), ControlError> {
        Ok(grant.owner.check_deploy(name, record, options, self.registry.kept())?)
    }

    /// Has a component built, and stores what the builder found in `record`.
    async fn build(
        &self,
        grant: &TenantGrant,
        record: &mut VersionRecord,
        (component, is_deployed): (&Path, bool),
    ) -> Result<(), ControlError> {
        let wanted = BuildRequest::of(self.registry.store(), &grant.tenant, record, component).await;
        let wanted = wanted.map_err(ControlError::from)?;
        let wanted = if is_deployed { wanted.of_deployed() } else { wanted };
        let budget = BuildBudget {
            account: Arc::clone(&grant.owner.account),
            limit_ms: grant.owner.limits.build_cpu_ms_per_day,
        };
        let built = self.builder.build(&grant.tenant, wanted, Some(budget)).await?;
        record.kernels = Arc::new(kernel_records(&built.report.kernels));
        record.warnings = built.report.warnings;
        record.snapshot_size = built.report.snapshot_size;
        record.build_size = built.size;
        Ok(())
    }

    pub(super) async fn configure(&self, call: ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.function()?;
        let (dry_run, mut options) = (call.query.flag("dry_run")?, options(&call)?);
        let patch: serde_json::Map<_, _> = json_needed(call.inbound).await?;
        let current = Arc::clone(&find(grant, &name)?.current);
        options.expected_current = Some(current.key);
        let manifest = current.manifest().patched(&patch);
        let manifest = manifest.map_err(|error| ControlError::Invalid(error.to_string()))?;
        let assets = self.check_manifest(grant, &name, &manifest)?;
        let mut record = VersionRecord {
            number: 0,
            created: jiff::Timestamp::now(),
            manifest,
            cause: Some("settings".into()),
            assets,
            ..VersionRecord::clone(&current.record)
        };
        // The build's name changes with what `init` can read. Then `init` must run again.
        let protected_files = self.registry.protect_files(&grant.tenant, &record.digest);
        if record.build_name() != current.record.build_name() {
            let components = self.registry.store().blobs(BlobKind::Component, &grant.tenant);
            let component = components.local_file(&record.digest).await.map_err(ControlError::from)?;
            let gone = || ControlError::Internal(format!("the component {} is not stored", record.digest));
            let component = component.ok_or_else(gone)?;
            self.build(grant, &mut record, (&component, true)).await?;
        }
        if dry_run {
            let response = self.dry_run_response(grant, &name, &record, &options);
            drop(protected_files);
            self.registry.sweep_components(&grant.tenant, names(&record));
            return response;
        }
        let names = names(&record);
        let put = self.put(grant, &name, record, options).await;
        drop(protected_files);
        if put.is_err() {
            self.registry.sweep_components(&grant.tenant, names);
        }
        put
    }

    /// Returns the warnings for a deploy: those of the builder, and for a new function what its URL changes.
    fn warnings(&self, record: &VersionRecord, is_new: bool) -> Vec<String> {
        let mut warnings = record.warnings.clone();
        if is_new && self.live.load().domain.is_none() {
            warnings.push(PATH_STYLE.to_owned());
        }
        warnings
    }

    /// Returns what a deploy would create, or why it would be refused.
    fn dry_run_response(
        &self,
        grant: &TenantGrant,
        name: &FunctionName,
        record: &VersionRecord,
        options: &DeployOptions,
    ) -> CallResult {
        self.check_deploy(grant, name, record, options)?;
        let function = grant.owner.functions.get(name);
        let same = function.and_then(|function| {
            let all = std::iter::once(&function.current).chain(function.versions.iter().rev());
            all.into_iter().find(|version| version.record.is_same(record))
        });
        let body = Deployed {
            tenant: grant.tenant.to_string(),
            name: name.to_string(),
            version: same.map_or(0, |version| version.record.number),
            digest: record.digest.clone(),
            url: self.url(&grant.tenant, name, options.tag.as_deref()),
            tag: options.tag.clone(),
            kernels: record.kernels.keys().cloned().collect(),
            warnings: self.warnings(record, function.is_none()),
            dry_run: true,
        };
        Ok(json(ReplyStatus::Ok, &body))
    }

    /// Publishes a version and updates the pool.
    async fn put(
        &self,
        grant: &TenantGrant,
        name: &FunctionName,
        record: VersionRecord,
        options: DeployOptions,
    ) -> CallResult {
        let (tenant, tag) = (&grant.tenant, options.tag.clone());
        let served_alone = options.no_traffic;
        let deployed = self.registry.deploy(tenant, name, record, options).await;
        let (version, new) = deployed.map_err(ControlError::from)?;
        tracing::info!(%tenant, function = %name, version = version.record.number, new, "deployed");
        self.pool.redeployed(&version).await;
        self.after_change(grant);
        let number = format!("v{}", version.record.number);
        let shown = tag.as_deref().or(served_alone.then_some(number.as_str()));
        let body = Deployed {
            tenant: tenant.to_string(),
            name: name.to_string(),
            version: version.record.number,
            digest: version.record.digest.clone(),
            url: self.url(tenant, name, shown),
            tag,
            kernels: version.record.kernels.keys().cloned().collect(),
            warnings: self.warnings(&version.record, new && version.record.number == 1),
            dry_run: false,
        };
        Ok(json(if new { ReplyStatus::Created } else { ReplyStatus::Ok }, &body))
    }
}
