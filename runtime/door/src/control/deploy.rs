//! Deploying: a component with its manifest, or other settings for the bytes that are there. Each makes a version.

use super::functions::{find, names};
use crate::control::arguments::json_needed;
use crate::control::authorize::TenantAccess;
use crate::control::call::{Answered, Call};
use crate::control::error::ControlError;
use crate::control::views::Deployed;
use crate::control::{Control, upload};
use crate::respond::{Done, json};
use gannet_base::manifest::Manifest;
use gannet_base::names::FunctionName;
use gannet_base::records::{PinnedAsset, VersionRecord};
use gannet_fleet::build;
use gannet_fleet::build::BuildRequest;
use gannet_state::registry::DeployOptions;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn how(call: &Call) -> Result<DeployOptions, ControlError> {
    Ok(DeployOptions {
        no_traffic: call.query.flag("no_traffic")?,
        tag: call.query.get("tag").map(ToOwned::to_owned),
        in_place_of: None,
    })
}

impl Control {
    /// Refuses settings that the tenant may not have, or that nothing here can serve. Answers the assets that they name.
    fn check_manifest(
        &self,
        acting: &TenantAccess,
        name: &FunctionName,
        manifest: &Manifest,
    ) -> Result<BTreeMap<String, PinnedAsset>, ControlError> {
        let assets = acting.owner.pin_assets(manifest)?;
        // A key for one function would read any secret by naming it.
        if acting.only.is_some() {
            let named = |secret: &&String| {
                let function = acting.owner.functions.get(name);
                !function.is_some_and(|function| function.current.manifest().secrets.names.contains(secret))
            };
            if let Some(new) = manifest.secrets.names.iter().find(named) {
                let told = format!("secrets.names holds {new:?}, which a key for one function cannot add");
                return Err(ControlError::Conflict(told));
            }
        }
        let limits = &acting.owner.limits;
        if let Some((name, value, limit)) = limits.exceeded_by(manifest) {
            return Err(ControlError::AboveLimit { name, value, limit });
        }
        let classes = &manifest.gpu.class;
        let candidates = gannet_fleet::gpus::candidates(&self.slots, classes).concat();
        if candidates.is_empty() {
            let served: Vec<&str> = self.slots.iter().map(|slot| slot.class.as_str()).collect();
            return Err(ControlError::Unservable(format!("gpu.class = {classes:?}, but this server has {served:?}")));
        }
        if manifest.scale.min > 0 {
            let kept = candidates.iter().filter_map(|slot| self.slots.get(*slot)?.gpu.as_ref());
            // With what its other functions keep.
            let kept = kept.map(|gpu| acting.owner.kept_bytes(Some((name, &assets)), gpu.context_bytes));
            let most = kept.max().unwrap_or(0).div_ceil(1 << 20);
            if most > limits.resident_gpu_mib {
                let (name, limit) = ("scale.min > 0 keeps GPU memory: resident_gpu_mib", limits.resident_gpu_mib);
                return Err(ControlError::AboveLimit { name, value: most, limit });
            }
        }
        Ok(assets)
    }

    pub(super) async fn deploy(&self, call: Call, acting: &TenantAccess) -> Answered {
        let name = call.function()?;
        let dry_run = call.query.flag("dry_run")?;
        let how = how(&call)?;
        let store = Arc::clone(self.registry.store());
        let limit = acting.owner.limits.component_mib << 20;
        let _receiving = self.builder.receiving(&acting.tenant).map_err(ControlError::from)?;
        let mut upload = upload::receive(call.inbound, store.files(), &acting.tenant, limit).await?;
        let arriving = self.registry.arriving(&acting.tenant, &upload.digest);
        if upload.is_there && !upload.path.exists() {
            return Err(ControlError::NotFound.into());
        }
        let manifest = upload.manifest.take().unwrap_or_default();
        if let Some(own) = manifest.name.as_ref().filter(|own| **own != name) {
            let told = format!("the manifest is for {own:?}, the request for {name:?}");
            return Err(ControlError::Invalid(told).into());
        }
        let assets = self.check_manifest(acting, &name, &manifest)?;
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
        };
        self.build(acting, &mut record, &upload.path).await?;
        if dry_run {
            drop(arriving);
            self.registry.sweep(&acting.tenant, names(&record));
            return self.tried(acting, &name, &record, &how);
        }
        if !upload.is_there {
            let (store, tenant) = (Arc::clone(&store), acting.tenant.clone());
            let (digest, path) = (upload.digest.clone(), upload.path.clone());
            let kept =
                tokio::task::spawn_blocking(move || build::keep_component(&store, &tenant, &digest, &path)).await;
            kept.map_err(|error| ControlError::Internal(error.to_string()))?.map_err(ControlError::from)?;
        }
        let names = names(&record);
        let put = self.put(acting, &name, record, how).await;
        drop(arriving);
        if put.is_err() {
            self.registry.sweep(&acting.tenant, names);
        }
        put
    }

    /// Has a component built, and notes what the builder found.
    async fn build(
        &self,
        acting: &TenantAccess,
        record: &mut VersionRecord,
        component: &Path,
    ) -> Result<(), ControlError> {
        let wanted = BuildRequest::of(self.registry.store(), &acting.tenant, record, component);
        let built = self.builder.build(&acting.tenant, wanted).await?;
        record.kernels = Arc::new(built.kernels);
        record.warnings = built.warnings;
        record.snapshot_size = built.snapshot_size;
        Ok(())
    }

    pub(super) async fn configure(&self, call: Call, acting: &TenantAccess) -> Answered {
        let name = call.function()?;
        let (dry_run, mut how) = (call.query.flag("dry_run")?, how(&call)?);
        let patch: serde_json::Map<_, _> = json_needed(call.inbound).await?;
        let current = Arc::clone(&find(acting, &name)?.current);
        how.in_place_of = Some(current.key);
        let manifest = current.manifest().patched(&patch);
        let manifest = manifest.map_err(|error| ControlError::Invalid(error.to_string()))?;
        let assets = self.check_manifest(acting, &name, &manifest)?;
        let mut record = VersionRecord {
            number: 0,
            created: jiff::Timestamp::now(),
            manifest,
            cause: Some("settings".into()),
            assets,
            ..VersionRecord::clone(&current.record)
        };
        // What `init` sees may have changed: then it runs again.
        let arriving = self.registry.arriving(&acting.tenant, &record.digest);
        if record.build_name() != current.record.build_name() {
            let component = self.registry.store().files().component(&acting.tenant, &record.digest);
            self.build(acting, &mut record, &component).await?;
        }
        if dry_run {
            let told = self.tried(acting, &name, &record, &how);
            drop(arriving);
            self.registry.sweep(&acting.tenant, names(&record));
            return told;
        }
        let names = names(&record);
        let put = self.put(acting, &name, record, how).await;
        drop(arriving);
        if put.is_err() {
            self.registry.sweep(&acting.tenant, names);
        }
        put
    }

    /// What a deploy would make, or why it would be refused.
    fn tried(
        &self,
        acting: &TenantAccess,
        name: &FunctionName,
        record: &VersionRecord,
        how: &DeployOptions,
    ) -> Answered {
        acting.owner.check_deploy(name, record, how).map_err(ControlError::from)?;
        let function = acting.owner.functions.get(name);
        let same = function.and_then(|function| {
            let all = std::iter::once(&function.current).chain(function.versions.iter().rev());
            all.into_iter().find(|version| version.record.is_same(record))
        });
        let base = self.live.load().public_url.clone().unwrap_or_else(|| self.own_url.clone());
        let told = Deployed {
            tenant: acting.tenant.to_string(),
            name: name.to_string(),
            version: same.map_or(0, |version| version.record.number),
            digest: record.digest.clone(),
            url: format!("{}/f/{}/{name}/", base.trim_end_matches('/'), acting.tenant),
            tag: how.tag.clone(),
            kernels: record.kernels.keys().cloned().collect(),
            warnings: record.warnings.clone(),
            dry_run: true,
        };
        Ok(json(Done::Ok, &told))
    }

    async fn put(
        &self,
        acting: &TenantAccess,
        name: &FunctionName,
        record: VersionRecord,
        how: DeployOptions,
    ) -> Answered {
        let (tenant, tag) = (&acting.tenant, how.tag.clone());
        let served_alone = how.no_traffic;
        let deployed = self.registry.deploy(tenant, name, record, how).await;
        let (version, new) = deployed.map_err(ControlError::from)?;
        tracing::info!(%tenant, function = %name, version = version.record.number, new, "deployed");
        self.pool.redeployed(tenant, name).await;
        self.after_change(acting);
        let number = format!("v{}", version.record.number);
        let shown = tag.as_deref().or(served_alone.then_some(number.as_str()));
        let told = Deployed {
            tenant: tenant.to_string(),
            name: name.to_string(),
            version: version.record.number,
            digest: version.record.digest.clone(),
            url: self.url(&version, shown),
            tag,
            kernels: version.record.kernels.keys().cloned().collect(),
            warnings: version.record.warnings.clone(),
            dry_run: false,
        };
        Ok(json(if new { Done::Created } else { Done::Ok }, &told))
    }
}
