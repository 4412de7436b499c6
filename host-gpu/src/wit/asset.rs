//! Implements `gannet:gpu/asset`: opening, reading and viewing assets.

use super::GpuCtxView;
use super::fault::GpuFault;
use super::interfaces::asset::{Host, HostAsset, HostView};
use crate::asset::{Asset, AssetView};
use crate::error::Error;
use std::sync::Arc;
use wasmtime::component::Resource;

/// Reads of at most this many bytes run on the calling thread, because handing them to another thread takes longer.
const READ_AT_ONCE_MAX: u64 = 64 << 10;

impl Host for GpuCtxView<'_> {}

impl HostView for GpuCtxView<'_> {
    fn size(&mut self, this: Resource<AssetView>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&this)?.size())
    }

    fn drop(&mut self, this: Resource<AssetView>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl HostAsset for GpuCtxView<'_> {
    fn open(&mut self, name: String) -> Result<Resource<Asset>, GpuFault> {
        let asset = Asset::open(self.assets, &name)?;
        Ok(self.table.push(asset)?)
    }

    fn size(&mut self, this: Resource<Asset>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&this)?.file().size())
    }

    async fn read(&mut self, this: Resource<Asset>, offset: u64, size: u64) -> Result<Vec<u8>, GpuFault> {
        let file = Arc::clone(self.table.get(&this)?.file());
        if size <= READ_AT_ONCE_MAX {
            return Ok(file.read(offset, size)?);
        }
        let read = tokio::task::spawn_blocking(move || file.read(offset, size)).await;
        Ok(read.unwrap_or_else(|_| Err(Error::lost()))?)
    }

    async fn view(&mut self, this: Resource<Asset>, offset: u64, size: u64) -> Result<Resource<AssetView>, GpuFault> {
        let asset = self.table.get(&this)?.clone();
        let view = self.session.open()?.view_asset(&asset, offset, size).await?;
        Ok(self.table.push(view)?)
    }

    fn drop(&mut self, this: Resource<Asset>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
