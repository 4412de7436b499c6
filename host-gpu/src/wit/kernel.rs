//! Implements `gannet:gpu/kernel`: opening declared kernels and compiling others.

use super::GpuCtxView;
use super::fault::GpuFault;
use super::interfaces::kernel::{Constant, Host, HostKernel};
use crate::kernel::Kernel;
use std::sync::Arc;
use wasmtime::component::Resource;

/// A guest's handle of a kernel.
#[derive(Debug)]
pub struct KernelHandle(pub(crate) Arc<Kernel>);

impl Host for GpuCtxView<'_> {}

fn values(constants: Vec<Constant>) -> Vec<(String, f64)> {
    constants.into_iter().map(|constant| (constant.name, constant.value)).collect()
}

impl HostKernel for GpuCtxView<'_> {
    async fn open(&mut self, name: String, constants: Vec<Constant>) -> Result<Resource<KernelHandle>, GpuFault> {
        let compilation = self.session.open()?.open_kernel(&name, &values(constants))?;
        Ok(self.table.push(KernelHandle(compilation.run().await?))?)
    }

    async fn compile(
        &mut self,
        wgsl: String,
        entry: String,
        constants: Vec<Constant>,
    ) -> Result<Resource<KernelHandle>, GpuFault> {
        let compilation = self.session.open()?.compile_kernel(&wgsl, &entry, &values(constants));
        Ok(self.table.push(KernelHandle(compilation.run().await?))?)
    }

    fn workgroup_size(&mut self, this: Resource<KernelHandle>) -> wasmtime::Result<(u32, u32, u32)> {
        let [x, y, z] = self.table.get(&this)?.0.workgroup_size;
        Ok((x, y, z))
    }

    fn drop(&mut self, this: Resource<KernelHandle>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
