//! Implements `gannet:gpu/batch`: recording, updating and submitting batches.

use super::GpuCtxView;
use super::binding::bindings;
use super::buffer::BufferHandle;
use super::fault::GpuFault;
use super::interfaces::batch::{Grid, Host, HostBatch, Update as WitUpdate};
use super::interfaces::binding::Binding;
use super::kernel::KernelHandle;
use crate::batch::{Batch, Update};
use crate::buffer::Buffer;
use crate::submission::Submission;
use std::sync::Arc;
use wasmtime::component::Resource;

impl Host for GpuCtxView<'_> {}

impl From<WitUpdate> for Update {
    fn from(update: WitUpdate) -> Self {
        match update {
            WitUpdate::Inline(u) => Self::Inline(u.command, u.group, u.index, u.data),
            WitUpdate::Offset(u) => Self::Offset(u.command, u.group, u.index, u.offset),
            WitUpdate::Grid(u) => Self::Grid(u.command, grid(u.grid)),
            WitUpdate::Write(u) => Self::Write(u.command, u.data),
        }
    }
}

fn grid(grid: Grid) -> crate::grid::Grid {
    [grid.x, grid.y, grid.z]
}

impl GpuCtxView<'_> {
    fn buffer(&self, handle: &Resource<BufferHandle>) -> Result<Arc<Buffer>, GpuFault> {
        Ok(Arc::clone(&self.table.get(handle)?.0))
    }
}

impl HostBatch for GpuCtxView<'_> {
    fn new(&mut self) -> wasmtime::Result<Resource<Batch>> {
        Ok(self.table.push(Batch::default())?)
    }

    fn dispatch(
        &mut self,
        this: Resource<Batch>,
        kernel: Resource<KernelHandle>,
        given: Vec<Binding>,
        size: Grid,
    ) -> Result<u32, GpuFault> {
        let kernel = Arc::clone(&self.table.get(&kernel)?.0);
        let bindings = bindings(self.table, given)?;
        let session = self.session.open()?;
        Ok(self.table.get_mut(&this)?.dispatch(session, &kernel, bindings, grid(size))?)
    }

    fn copy(
        &mut self,
        this: Resource<Batch>,
        source: Resource<BufferHandle>,
        source_offset: u64,
        target: Resource<BufferHandle>,
        target_offset: u64,
        size: u64,
    ) -> Result<u32, GpuFault> {
        let (source, target) = (self.buffer(&source)?, self.buffer(&target)?);
        Ok(self.table.get_mut(&this)?.copy(&source, source_offset, &target, target_offset, size)?)
    }

    fn clear(
        &mut self,
        this: Resource<Batch>,
        buffer: Resource<BufferHandle>,
        offset: u64,
        size: u64,
    ) -> Result<u32, GpuFault> {
        let buffer = self.buffer(&buffer)?;
        Ok(self.table.get_mut(&this)?.clear(&buffer, offset, size)?)
    }

    fn write(
        &mut self,
        this: Resource<Batch>,
        buffer: Resource<BufferHandle>,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<u32, GpuFault> {
        let buffer = self.buffer(&buffer)?;
        let session = self.session.open()?;
        Ok(self.table.get_mut(&this)?.write(session, &buffer, offset, data)?)
    }

    fn read(
        &mut self,
        this: Resource<Batch>,
        buffer: Resource<BufferHandle>,
        offset: u64,
        size: u64,
    ) -> Result<u32, GpuFault> {
        let buffer = self.buffer(&buffer)?;
        Ok(self.table.get_mut(&this)?.read(&buffer, offset, size)?)
    }

    async fn submit(
        &mut self,
        this: Resource<Batch>,
        updates: Vec<WitUpdate>,
    ) -> Result<Resource<Submission>, GpuFault> {
        let session = self.session.open()?;
        let batch = self.table.get_mut(&this)?;
        batch.update(session, updates.into_iter().map(Update::from).collect())?;
        let submission = batch.encode(session)?.submit().await?;
        Ok(self.table.push(submission)?)
    }

    fn drop(&mut self, this: Resource<Batch>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
