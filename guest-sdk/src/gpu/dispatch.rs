//! A single dispatch: a kernel submits a batch of one command.

use super::batch::{Batch, Submission};
use super::binding::Bindings;
use super::error::Result;
use super::grid::Grid;
use super::kernel::{Declared, Kernel};

impl Kernel {
    /// Submits one dispatch of the kernel over `grid`, without waiting for the GPU. Reading a buffer waits for it.
    ///
    /// Every variable of the kernel needs exactly one binding; a wrong one is `InvalidArgument`.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Buffer, Kernel};
    /// # fn f(kernel: &Kernel, values: &Buffer<f32>) -> gpu::Result<()> {
    /// kernel.dispatch((values, gpu::uniform(&[2.0f32])), gpu::grid_1d(1024, 64))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn dispatch(&self, bindings: impl Bindings, grid: Grid) -> Result<Submission> {
        let mut batch = Batch::new();
        batch.dispatch(self, bindings, grid)?;
        batch.submit()
    }
}

impl Declared {
    /// Opens the kernel and submits one dispatch of it over `grid`, as [`Kernel::dispatch`] does.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Buffer, Declared};
    /// fn blur(pixels: &Buffer<u32>) -> gpu::Result<()> {
    ///     Declared::new("blur.wgsl").dispatch((pixels,), gpu::grid_2d((640, 480), 8))?;
    ///     Ok(())
    /// }
    /// ```
    pub fn dispatch(&self, bindings: impl Bindings, grid: Grid) -> Result<Submission> {
        self.open()?.dispatch(bindings, grid)
    }
}
