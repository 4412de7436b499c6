//! Removes files that nothing in the registry refers to: in the background after a change, and all of them at a start,
//! because a crash may have come between a change and the removal of its files.
//!
//! Each removal holds the registry's lock, so that nothing refers to a file while it is removed.

use crate::records::blobs::{BlobKind, BlobStore};
use crate::registry::{Registry, Snapshot, Tenant};
use crate::store::files::FileKind;
use crate::wait::wait;
use gannet_base::names::TenantName;
use std::collections::HashSet;
use std::io;
use std::sync::{Arc, PoisonError};

impl Registry {
    /// Removes, in the background, the components and builds with these names that no version and no upload needs.
    pub fn sweep_components(self: &Arc<Self>, tenant: &TenantName, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let tenant = tenant.clone();
        self.sweep(move |registry, snapshot| {
            let needed = snapshot.tenants.get(&tenant).map(|owner| owner.needed_files()).unwrap_or_default();
            let (files, components) = (registry.store.files(), registry.store.blobs(BlobKind::Component, &tenant));
            for name in &names {
                let remove = || files.remove_build(&tenant, name);
                registry.remove_unneeded(&tenant, name, needed.builds.contains(name), remove);
                let remove = || {
                    remove_blob(&*components, name);
                    files.remove_driver_cache(&tenant, name);
                };
                registry.remove_unneeded(&tenant, name, needed.components.contains(name), remove);
            }
        });
    }

    /// Removes the files of unused assets, in the background.
    pub fn sweep_assets(self: &Arc<Self>, tenant: &TenantName) {
        let tenant = tenant.clone();
        self.sweep(move |registry, snapshot| {
            let needed = snapshot.tenants.get(&tenant).map(|owner| owner.needed_files()).unwrap_or_default();
            registry.sweep_blobs(&tenant, BlobKind::Asset, &needed.assets);
        });
    }

    /// Removes all files that nothing refers to, and those of deleted tenants, in the background. A folder of a tenant
    /// that is neither there nor deleted stays: its record may have been lost.
    pub fn sweep_all(self: &Arc<Self>) {
        if self.store.files().must_keep() {
            tracing::warn!("files that nothing refers to are kept, because a repair has lost records");
            return;
        }
        self.sweep(|registry, snapshot| {
            let (files, blobs) = (registry.store.files(), registry.store.tenant_blobs());
            let mut stored_tenants = files.stored_tenants();
            for kind in [BlobKind::Component, BlobKind::Asset] {
                stored_tenants.extend(listed(wait(blobs.tenants(kind))));
            }
            for stored in stored_tenants {
                let known = TenantName::new(&stored).ok();
                let Some((tenant, owner)) = known.as_ref().and_then(|name| snapshot.tenants.get_key_value(name)) else {
                    match known.filter(|name| snapshot.is_deleted(name)) {
                        Some(deleted) => registry.store.remove_tenant(&deleted),
                        None => tracing::warn!(tenant = stored, "there are files of an unknown tenant; they are kept"),
                    }
                    continue;
                };
                let needed = owner.needed_files();
                registry.sweep_blobs(tenant, BlobKind::Component, &needed.components);
                registry.sweep_blobs(tenant, BlobKind::Asset, &needed.assets);
                for (kind, name, path) in files.stored_files(tenant) {
                    let is_needed = match (&name, kind) {
                        (None, _) => false,
                        (Some(name), FileKind::DriverCache) => needed.components.contains(name),
                        (Some(name), FileKind::Build) => needed.builds.contains(name),
                    };
                    let remove = || files.remove_path(&path);
                    registry.remove_unneeded(tenant, name.as_deref().unwrap_or_default(), is_needed, remove);
                }
            }
        });
    }

    /// Removes a tenant's blobs of one kind that are not needed. Blocks.
    fn sweep_blobs(&self, tenant: &TenantName, kind: BlobKind, needed: &HashSet<String>) {
        let blobs = self.store.blobs(kind, tenant);
        for digest in &listed(wait(blobs.list())) {
            self.remove_unneeded(tenant, digest, needed.contains(digest), || remove_blob(&*blobs, digest));
        }
    }

    fn sweep(self: &Arc<Self>, remove: impl FnOnce(&Self, &Snapshot) + Send + 'static) {
        let registry = Arc::clone(self);
        tokio::spawn(async move {
            let mut changing = registry.changing.lock().await;
            // A change of which it is not known whether it was made may refer to a file.
            if let Err(error) = registry.settle(&mut changing).await {
                tracing::warn!(%error, "unused files are not removed now");
                return;
            }
            let sweeping = Arc::clone(&registry);
            let swept = tokio::task::spawn_blocking(move || remove(&sweeping, &sweeping.snapshot()));
            // The lock is held until the files are removed.
            let _ = swept.await;
        });
    }

    /// Removes a file of a component, a build or an asset, unless it is needed or a request is about to refer to it.
    fn remove_unneeded(&self, tenant: &TenantName, name: &str, is_needed: bool, remove: impl FnOnce()) {
        if is_needed {
            return;
        }
        let digest = name.split_once('.').map_or(name, |(digest, _)| digest);
        // The lock is held while the file is removed: who protects it later finds that it is gone.
        let protected = self.protected_files.lock().unwrap_or_else(PoisonError::into_inner);
        if !protected.iter().any(|(owner, known)| owner == tenant && known == digest) {
            remove();
        }
    }
}

/// Returns what a store listed. What cannot be listed is not removed now.
fn listed(found: io::Result<Vec<String>>) -> Vec<String> {
    found.unwrap_or_else(|error| {
        tracing::warn!(%error, "what is stored of tenants' uploads cannot be listed; nothing of it is removed now");
        Vec::new()
    })
}

fn remove_blob(blobs: &dyn BlobStore, digest: &str) {
    if let Err(error) = wait(blobs.delete(digest)) {
        tracing::warn!(%error, "an unneeded upload could not be removed");
    }
}

/// The names of the files that a tenant needs.
#[derive(Debug, Default)]
struct NeededFiles {
    /// Components by digest.
    components: HashSet<String>,
    /// Builds by name.
    builds: HashSet<String>,
    /// Assets by digest.
    assets: HashSet<String>,
}

impl Tenant {
    fn needed_files(&self) -> NeededFiles {
        let versions = self.functions.values().flat_map(|function| &function.versions);
        NeededFiles {
            components: versions.clone().map(|version| version.record.digest.clone()).collect(),
            builds: versions.map(|version| version.record.build_name()).collect(),
            assets: self.asset_sizes().into_keys().map(ToOwned::to_owned).collect(),
        }
    }
}
