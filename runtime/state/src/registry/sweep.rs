//! Removes files that nothing in the registry refers to: in the background after a change, and all of them at a start,
//! because a crash may have come between a change and the removal of its files.
//!
//! Each removal holds the registry's lock, so that nothing refers to a file while it is removed.

use crate::registry::{Registry, Snapshot};
use crate::store::files::FileKind;
use gannet_base::names::TenantName;
use std::sync::Arc;

impl Registry {
    /// Removes, in the background, the components and builds with these names that no version and no upload needs.
    pub fn sweep_components(self: &Arc<Self>, tenant: &TenantName, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let tenant = tenant.clone();
        self.sweep(move |registry, snapshot| {
            let unneeded = |name: &&String| !registry.needs_file(snapshot, FileKind::Component, &tenant, name);
            names.iter().filter(unneeded).for_each(|name| registry.store.files().remove_component(&tenant, name));
        });
    }

    /// Removes the files of unused assets, in the background.
    pub fn sweep_assets(self: &Arc<Self>, tenant: &TenantName) {
        let tenant = tenant.clone();
        self.sweep(move |registry, snapshot| {
            let files = registry.store.files();
            let unneeded = |digest: &&String| !registry.needs_file(snapshot, FileKind::Asset, &tenant, digest);
            files.assets(&tenant).iter().filter(unneeded).for_each(|digest| files.remove_asset(&tenant, digest));
        });
    }

    /// Removes all files that nothing refers to, and those of tenants that do not exist, in the background.
    pub fn sweep_all(self: &Arc<Self>) {
        self.sweep(|registry, snapshot| {
            let removed = registry.store.files().remove_unneeded(|kind, tenant, name| {
                let Ok(tenant) = TenantName::new(tenant) else { return false };
                match name {
                    Some(name) => registry.needs_file(snapshot, kind, &tenant, name),
                    None => snapshot.tenants.contains_key(&tenant),
                }
            });
            if removed > 0 {
                tracing::info!(removed, "files that nothing refers to were removed");
            }
        });
    }

    fn sweep(self: &Arc<Self>, remove: impl FnOnce(&Self, &Snapshot) + Send + 'static) {
        let registry = Arc::clone(self);
        tokio::spawn(async move {
            let _changing = registry.changing.lock().await;
            let sweeping = Arc::clone(&registry);
            let swept = tokio::task::spawn_blocking(move || remove(&sweeping, &sweeping.snapshot()));
            // The lock is held until the files are removed.
            let _ = swept.await;
        });
    }

    /// Returns whether a version, a name or an upload needs a file: a component or a build by its name, an asset by its
    /// digest.
    fn needs_file(&self, snapshot: &Snapshot, kind: FileKind, tenant: &TenantName, name: &str) -> bool {
        let digest = name.split_once('.').map_or(name, |(digest, _)| digest);
        if self.is_protected(tenant, digest) {
            return true;
        }
        snapshot.tenants.get(tenant).is_some_and(|owner| match kind {
            FileKind::Component => owner.needs(name),
            FileKind::Asset => owner.needs_asset(name),
        })
    }
}
