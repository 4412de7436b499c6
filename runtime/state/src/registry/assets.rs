//! Changes of assets. An asset is put and deleted by name. Its file, named by digest, is kept as long as a name or a
//! version refers to it.

use crate::registry::{Registry, RegistryError, Tenant, tenant_mut};
use crate::store::WriteBatch;
use gannet_base::manifest::Manifest;
use gannet_base::names::{AssetName, TenantName};
use gannet_base::records::{AssetRecord, PinnedAsset};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

impl Tenant {
    /// Returns the digests that names or versions refer to, with their sizes in bytes.
    pub fn asset_sizes(&self) -> HashMap<&str, u64> {
        let versions = self.functions.values().flat_map(|function| &function.versions);
        let pinned = versions.flat_map(|version| version.record.assets.values());
        let named = self.assets.values().map(|asset| (asset.digest.as_str(), asset.size));
        named.chain(pinned.map(|asset| (asset.digest.as_str(), asset.size))).collect()
    }

    /// Returns the total size of the tenant's assets in bytes. An asset with several names counts once.
    pub fn asset_bytes(&self) -> u64 {
        self.asset_sizes().values().sum()
    }

    /// Resolves the assets that a manifest names to their current digests.
    pub fn pin_assets(&self, manifest: &Manifest) -> Result<BTreeMap<String, PinnedAsset>, RegistryError> {
        let pin = |(name, asset): (&String, &AssetName)| {
            let missing = || {
                RegistryError::Conflict(format!(
                    "assets.{name} is {:?}, which does not exist; `gannet asset put {asset} FILE` uploads it",
                    asset.as_str()
                ))
            };
            let AssetRecord { digest, size, .. } = self.assets.get(asset).ok_or_else(missing)?.clone();
            Ok((name.clone(), PinnedAsset { asset: asset.clone(), digest, size }))
        };
        manifest.assets.iter().map(pin).collect()
    }
}

impl Registry {
    /// Names an asset whose file is stored. Returns whether the name is new.
    pub async fn put_asset(
        self: &Arc<Self>,
        tenant: &TenantName,
        name: &AssetName,
        record: AssetRecord,
    ) -> Result<bool, RegistryError> {
        let owner = tenant.clone();
        let (tenant, name) = (tenant.clone(), name.clone());
        let new = self.change(move |_, next| {
            let tenant_entry = tenant_mut(next, &tenant)?;
            let (limit, used) = (tenant_entry.limits.assets_mib, tenant_entry.asset_bytes());
            let change = WriteBatch::new().asset(&tenant, &name, &record)?;
            let before = Arc::make_mut(&mut tenant_entry.assets).insert(name, record);
            if tenant_entry.asset_bytes() > limit << 20 {
                return Err(RegistryError::LimitReached { name: "assets_mib", limit, used: used.div_ceil(1 << 20) });
            }
            Ok((change, before.is_none()))
        });
        let new = new.await;
        self.sweep_assets(&owner);
        new
    }

    /// Removes the name of an asset. Versions that were deployed with the asset keep it.
    pub async fn delete_asset(self: &Arc<Self>, tenant: &TenantName, name: &AssetName) -> Result<(), RegistryError> {
        let owner = tenant.clone();
        let (tenant, name) = (tenant.clone(), name.clone());
        let deleted = self.change(move |_, next| {
            let tenant_entry = tenant_mut(next, &tenant)?;
            Arc::make_mut(&mut tenant_entry.assets).remove(&name).ok_or(RegistryError::NotFound)?;
            Ok((WriteBatch::new().without_asset(&tenant, &name), ()))
        });
        deleted.await?;
        self.sweep_assets(&owner);
        Ok(())
    }
}
