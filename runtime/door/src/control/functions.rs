//! `/api/v1/functions`: deploy, settings, traffic, list, look, delete.

use crate::control::Control;
use crate::control::arguments::json as read_json;
use crate::control::arguments::json_needed;
use crate::control::authorize::TenantAccess;
use crate::control::call::Answered;
use crate::control::call::Call;
use crate::control::error::ControlError;
use crate::control::upload;
use crate::control::views::Deleted;
use crate::control::views::Deployed;
use crate::control::views::FunctionDetail;
use crate::control::views::FunctionView;
use crate::control::views::Functions;
use crate::control::views::HealthView;
use crate::control::views::KernelView;
use crate::control::views::Kernels;
use crate::control::views::KillsView;
use crate::control::views::RollBack;
use crate::control::views::TagChoice;
use crate::control::views::Traffic;
use crate::control::views::VersionView;
use crate::control::views::Versions;
use crate::control::views::time;
use crate::respond::{Done, json};
use gannet_base::hop::BundleKernel;
use gannet_base::manifest::Manifest;
use gannet_base::names::FunctionName;
use gannet_base::records::{PinnedAsset, Sticky, VersionRecord};
use gannet_fleet::build;
use gannet_fleet::build::BuildRequest;
use gannet_fleet::pool::Pool;
use gannet_state::registry::{DeployOptions, Function, Snapshot, Version};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A function of the tenant, as it was when the request came.
fn find<'a>(acting: &'a TenantAccess, name: &FunctionName) -> Result<&'a Arc<Function>, ControlError> {
    acting.owner.functions.get(name).ok_or(ControlError::NotFound)
}

fn traffic_of(function: &Function) -> BTreeMap<String, u32> {
    function.traffic.iter().map(|(version, weight)| (format!("v{}", version.record.number), *weight)).collect()
}

impl Control {
    pub(super) fn list_functions(&self, call: &Call, acting: &TenantAccess) -> Answered {
        let (limit, cursor) = (call.query.limit()?, call.query.get("cursor").unwrap_or_default());
        let covered = |function: &&Arc<Function>| acting.only.as_ref().is_none_or(|only| *only == function.name);
        let mut after = acting
            .owner
            .functions
            .values()
            .filter(|function| cursor.is_empty() || function.name.as_str() > cursor)
            .filter(covered);
        let page: Vec<_> = after.by_ref().take(limit).collect();
        let cursor = after.next().and_then(|_| page.last()).map(|function| function.name.to_string());
        let functions = page.into_iter().map(|function| self.view(function)).collect();
        Ok(json(Done::Ok, &Functions { functions, cursor }))
    }

    fn view(&self, function: &Function) -> FunctionView {
        let current = &function.current;
        FunctionView {
            name: function.name.to_string(),
            version: current.record.number,
            digest: current.record.digest.clone(),
            deployed: time(current.record.created),
            public: current.manifest().http.public,
            url: self.url(current, None),
            kernels: current.record.kernels.keys().cloned().collect(),
        }
    }

    fn detail(&self, acting: &TenantAccess, function: &Function) -> FunctionDetail {
        FunctionDetail {
            function: self.view(function),
            manifest: function.current.manifest().clone(),
            warnings: function.current.record.warnings.clone(),
            traffic: traffic_of(function),
            sticky: function.sticky.clone(),
            tags: function.tags.iter().map(|(tag, version)| (tag.clone(), version.record.number)).collect(),
            health: self.health(acting, function),
        }
    }

    /// How a function fares: kernels that may not run, and kills of its workers, if there were any lately.
    fn health(&self, acting: &TenantAccess, function: &Function) -> HealthView {
        let kernels = function.current.record.kernels.iter();
        let quarantined = kernels.filter(|(_, kernel)| acting.owner.is_quarantined(kernel));
        let kills = self.pool.kills(&acting.tenant, &function.name).map(|(kills, wait)| KillsView {
            count: kills.count,
            last: time(kills.time),
            why: kills.why,
            backing_off_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        });
        HealthView { quarantined_kernels: quarantined.map(|(name, _)| name.clone()).collect(), kills }
    }

    /// Where a function can be called.
    fn url(&self, version: &Version, tag: Option<&str>) -> String {
        let file = self.live.load();
        let base = file.public_url.as_deref().unwrap_or(&self.own_url).trim_end_matches('/');
        let (tenant, function) = (&version.tenant, &version.function);
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

    pub(super) fn versions(&self, call: &Call, acting: &TenantAccess) -> Answered {
        let name = call.function()?;
        let function = find(acting, &name)?;
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
            deployed: time(version.record.created),
            cause: version.record.cause.clone(),
        };
        let versions = function.versions.iter().rev().map(view).collect();
        Ok(json(Done::Ok, &Versions { name: name.to_string(), versions }))
    }

    /// The current version's kernels: the WGSL as it was deployed, and as it runs.
    pub(super) fn kernels(&self, call: &Call, acting: &TenantAccess) -> Answered {
        let name = call.function()?;
        let record = &find(acting, &name)?.current.record;
        let view = |(name, kernel): (&String, &BundleKernel)| KernelView {
            name: name.clone(),
            entry: kernel.entry.clone(),
            wgsl: kernel.wgsl.clone(),
            hardened: kernel.hardened.clone(),
        };
        let kernels = record.kernels.iter().map(view).collect();
        Ok(json(Done::Ok, &Kernels { name: name.to_string(), version: record.number, kernels }))
    }

    pub(super) fn get_function(&self, call: &Call, acting: &TenantAccess) -> Answered {
        let function = find(acting, &call.function()?)?;
        Ok(json(Done::Ok, &self.detail(acting, function)))
    }

    pub(super) async fn delete_function(&self, call: &Call, acting: &TenantAccess) -> Answered {
        let name = call.function()?;
        self.registry.delete(&acting.tenant, &name).await.map_err(ControlError::from)?;
        self.after_change(acting);
        self.logs.forget(&acting.tenant, &name);
        Ok(json(Done::Ok, &Deleted { deleted: name.to_string() }))
    }

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
        let candidates = gannet_fleet::gpus::candidates(&self.places, classes).concat();
        if candidates.is_empty() {
            let served: Vec<&str> = self.places.iter().map(|place| place.class.as_str()).collect();
            return Err(ControlError::Unservable(format!("gpu.class = {classes:?}, but this server has {served:?}")));
        }
        if manifest.scale.min > 0 {
            let kept = candidates.iter().filter_map(|place| self.places.get(*place)?.gpu.as_ref());
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

    pub(super) fn get_traffic(&self, call: &Call, acting: &TenantAccess) -> Answered {
        let function = find(acting, &call.function()?)?;
        Ok(json(Done::Ok, &Traffic { traffic: traffic_of(function), sticky: function.sticky.clone() }))
    }

    pub(super) async fn set_traffic(&self, call: Call, acting: &TenantAccess) -> Answered {
        let name = call.function()?;
        find(acting, &name)?;
        let asked: Traffic = json_needed(call.inbound).await?;
        let mut weights = BTreeMap::new();
        for (version, weight) in asked.traffic {
            let number = version.strip_prefix('v').unwrap_or(&version).parse::<u32>();
            let shown: String = version.chars().take(32).collect();
            let number = number.map_err(|_| ControlError::Invalid(format!("{shown:?} is no version, as in v3")))?;
            if weight > WEIGHT_MAX {
                let told = format!("the weight of {shown:?} is {weight}; it may be 0 to {WEIGHT_MAX}");
                return Err(ControlError::Invalid(told).into());
            }
            weights.insert(number, weight);
        }
        if weights.len() > SPLIT_MAX {
            let told = format!("{} versions; requests may be split among {SPLIT_MAX}", weights.len());
            return Err(ControlError::Invalid(told).into());
        }
        let sticky = asked.sticky.map(check_sticky).transpose()?;
        let changed = self.registry.set_traffic(&acting.tenant, &name, weights, sticky).await;
        let function = changed.map_err(ControlError::from)?;
        self.changed(acting, &function)
    }

    pub(super) async fn roll_back(&self, call: Call, acting: &TenantAccess) -> Answered {
        let name = call.function()?;
        find(acting, &name)?;
        let asked: RollBack = read_json(call.inbound, false).await?.unwrap_or_default();
        let changed = self.registry.roll_back(&acting.tenant, &name, asked.version).await;
        let function = changed.map_err(ControlError::from)?;
        self.changed(acting, &function)
    }

    fn changed(&self, acting: &TenantAccess, function: &Function) -> Answered {
        self.after_change(acting);
        Ok(json(Done::Ok, &Traffic { traffic: traffic_of(function), sticky: function.sticky.clone() }))
    }

    pub(super) async fn set_tag(&self, call: Call, acting: &TenantAccess) -> Answered {
        let (name, tag) = (call.function()?, call.name(1).to_owned());
        find(acting, &name)?;
        let choice: TagChoice = json_needed(call.inbound).await?;
        let changed = self.registry.set_tag(&acting.tenant, &name, tag, Some(choice.version)).await;
        let function = changed.map_err(ControlError::from)?;
        self.after_change(acting);
        Ok(json(Done::Ok, &self.detail(acting, &function)))
    }

    pub(super) async fn delete_tag(&self, call: &Call, acting: &TenantAccess) -> Answered {
        let (name, tag) = (call.function()?, call.name(1).to_owned());
        let changed = self.registry.set_tag(&acting.tenant, &name, tag.clone(), None).await;
        changed.map_err(ControlError::from)?;
        self.after_change(acting);
        Ok(json(Done::Ok, &Deleted { deleted: tag }))
    }

    /// Brings the pool in line with what is deployed: pins or lets go the tenant's worker, warms functions with `min = 1`, and
    /// lets workers forget what gets no requests any more.
    pub(super) fn after_change(&self, acting: &TenantAccess) {
        self.pool.unpin(&acting.tenant);
        self.pool.unload_unserved(&acting.tenant);
        warm(&self.registry.snapshot(), &self.pool, Some(&acting.tenant));
    }
}

/// The largest weight of a version.
const WEIGHT_MAX: u32 = 10_000;
/// Versions among which requests may be split.
const SPLIT_MAX: usize = 16;

/// The names of a component and of what was built of it.
fn names(record: &VersionRecord) -> Vec<String> {
    vec![record.digest.clone(), record.build_name()]
}

fn how(call: &Call) -> Result<DeployOptions, ControlError> {
    Ok(DeployOptions {
        no_traffic: call.query.flag("no_traffic")?,
        tag: call.query.get("tag").map(ToOwned::to_owned),
        in_place_of: None,
    })
}

fn check_sticky(sticky: Sticky) -> Result<Sticky, ControlError> {
    let (name, fine): (&str, fn(u8) -> bool) = match &sticky {
        Sticky::Header(name) => (name, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
        Sticky::Cookie(name) => (name, |b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
    };
    if (1..=64).contains(&name.len()) && name.bytes().all(fine) {
        return Ok(sticky);
    }
    let shown: String = name.chars().take(64).collect();
    let rule = "a header's in lower case, or a cookie's, of 1 to 64 characters";
    Err(ControlError::Invalid(format!("sticky by {shown:?}; it is a name, {rule}")))
}

/// Warms every function with `min = 1`, of one tenant or of all, in the background.
pub fn warm(snapshot: &Snapshot, pool: &Pool, only: Option<&gannet_base::names::TenantName>) {
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
