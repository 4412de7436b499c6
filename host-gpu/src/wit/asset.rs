//! `gannet:gpu/asset`. There are no values of its resources yet (see [`crate::asset`]), so the
//! methods on them are answered by the empty match.

use super::interfaces::asset::{Host, HostAsset, HostView};
use super::{GpuCtxView, GpuFault};
use crate::asset::{self, Asset, View};
use wasmtime::component::Resource;

impl Host for GpuCtxView<'_> {}

impl HostView for GpuCtxView<'_> {
    fn size(&mut self, this: Resource<View>) -> wasmtime::Result<u64> {
        match *self.table.get(&this)? {}
    }

    fn drop(&mut self, this: Resource<View>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl HostAsset for GpuCtxView<'_> {
    fn open(&mut self, name: String) -> Result<Resource<Asset>, GpuFault> {
        match asset::open(&name)? {}
    }

    fn size(&mut self, this: Resource<Asset>) -> wasmtime::Result<u64> {
        match *self.table.get(&this)? {}
    }

    fn read(&mut self, this: Resource<Asset>, _offset: u64, _size: u64) -> Result<Vec<u8>, GpuFault> {
        match *self.table.get(&this)? {}
    }

    fn view(&mut self, this: Resource<Asset>, _offset: u64, _size: u64) -> Result<Resource<View>, GpuFault> {
        match *self.table.get(&this)? {}
    }

    fn drop(&mut self, this: Resource<Asset>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
