//! Implements `gannet:gpu/buffer`: creating, writing and reading buffers.

use super::GpuCtxView;
use super::fault::GpuFault;
use super::interfaces::buffer::{Host, HostBuffer};
use crate::batch::Batch;
use crate::buffer::Buffer;
use std::sync::Arc;
use wasmtime::component::Resource;

/// A guest's handle of a buffer. Batches keep the buffer alive too, so it can outlive its handle.
#[derive(Debug)]
pub struct BufferHandle(pub(crate) Arc<Buffer>);

impl Host for GpuCtxView<'_> {}

impl HostBuffer for GpuCtxView<'_> {
    fn create(&mut self, size: u64) -> Result<Resource<BufferHandle>, GpuFault> {
        let buffer = self.session.open()?.create_buffer(size)?;
        Ok(self.table.push(BufferHandle(buffer))?)
    }

    fn write(&mut self, this: Resource<BufferHandle>, offset: u64, data: Vec<u8>) -> Result<(), GpuFault> {
        let buffer = Arc::clone(&self.table.get(&this)?.0);
        Ok(self.session.open()?.write_buffer(&buffer, offset, data)?)
    }

    async fn read(&mut self, this: Resource<BufferHandle>, offset: u64, size: u64) -> Result<Vec<u8>, GpuFault> {
        let buffer = Arc::clone(&self.table.get(&this)?.0);
        let encoded = Batch::encode_read(self.session.open()?, &buffer, offset, size)?;
        Ok(encoded.submit().await?.take_read().await?)
    }

    fn size(&mut self, this: Resource<BufferHandle>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&this)?.0.size())
    }

    fn drop(&mut self, this: Resource<BufferHandle>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
