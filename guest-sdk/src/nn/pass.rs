//! Recording the operations of a model. Products with weights are in `linear`, attention in `attention`, all others here.

use super::kernels::Nn;
use crate::gpu::{Batch, Bind, Buffer, Command, Error, Grid, Kernel, Result, uniform};
use std::rc::Rc;

/// The entry point of a source that has no other.
pub(super) const ONLY_ENTRY: &str = "";

/// Operations that are recorded once and submitted any number of times.
///
/// ```no_run
/// # use gannet_sdk::{asset::View, gpu::{self, Buffer}, nn::Nn};
/// # fn f(weight: &View, x: &Buffer<f32>, y: &Buffer<f32>) -> gpu::Result<()> {
/// let nn = Nn::new();
/// let mut pass = nn.pass();
/// pass.rms_norm(x, weight, 1e-5, 576, 1, y)?;
/// pass.batch().submit()?.wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Pass<'a> {
    pub(super) nn: &'a Nn,
    pub(super) batch: Batch,
}

impl Nn {
    /// A pass without operations.
    ///
    /// ```no_run
    /// # use gannet_sdk::nn::Nn;
    /// let nn = Nn::new();
    /// let mut pass = nn.pass();
    /// ```
    pub fn pass(&self) -> Pass<'_> {
        Pass { nn: self, batch: Batch::new() }
    }
}

pub(super) fn grid(x: u32, y: u32) -> Grid {
    Grid { x, y, z: 1 }
}

/// Refuses a buffer that is too short for what is done with it.
pub(super) fn check_length<T: bytemuck::Pod>(what: &str, buffer: &Buffer<T>, rows: u32, width: u32) -> Result<()> {
    let needed = u64::from(rows) * u64::from(width);
    if (buffer.len() as u64) < needed {
        let has = buffer.len();
        return Err(Error::InvalidArgument(format!("{what} has {has} values; {rows} rows of {width} are {needed}")));
    }
    Ok(())
}

impl Pass<'_> {
    /// What was recorded: for reads, writes and submissions.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn logits(pass: &mut Pass, logits: &Buffer<f32>) -> gpu::Result<Vec<f32>> {
    ///     let read = pass.batch().read(logits)?;
    ///     Ok(pass.batch().submit()?.wait()?.take(&read))
    /// }
    /// ```
    pub fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    pub(super) fn kernel(&self, name: &'static str, entry: &'static str) -> Result<Rc<Kernel>> {
        self.nn.kernel(name, entry)
    }

    /// The RMS norm of rows.
    ///
    /// ```
    /// # use gannet_sdk::{asset::View, gpu::{self, Buffer}, nn::Pass};
    /// fn norm(pass: &mut Pass, weight: &View, x: &Buffer<f32>, y: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.rms_norm(x, weight, 1e-5, 576, 1, y)
    /// }
    /// ```
    pub fn rms_norm(
        &mut self,
        x: &Buffer<f32>,
        weight: impl Bind,
        epsilon: f32,
        width: u32,
        tokens: u32,
        y: &Buffer<f32>,
    ) -> Result<()> {
        check_length("x", x, tokens, width)?;
        check_length("y", y, tokens, width)?;
        let shape = uniform(&[width, epsilon.to_bits()]);
        let kernel = self.kernel("nn.norm", "rms")?;
        self.batch.dispatch(&kernel, (x, weight, shape, y), grid(tokens, 1))?;
        Ok(())
    }

    /// The layer norm of rows; `weight` and `bias` are of their width.
    ///
    /// ```
    /// # use gannet_sdk::{asset::View, gpu::{self, Buffer}, nn::Pass};
    /// fn norm(pass: &mut Pass, [weight, bias]: [&View; 2], x: &Buffer<f32>, y: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.layer_norm(x, weight, bias, 1e-12, 384, 16, y)
    /// }
    /// ```
    #[allow(clippy::too_many_arguments)]
    pub fn layer_norm(
        &mut self,
        x: &Buffer<f32>,
        weight: impl Bind,
        bias: impl Bind,
        epsilon: f32,
        width: u32,
        tokens: u32,
        y: &Buffer<f32>,
    ) -> Result<()> {
        check_length("x", x, tokens, width)?;
        check_length("y", y, tokens, width)?;
        let shape = uniform(&[width, epsilon.to_bits()]);
        let kernel = self.kernel("nn.norm", "layer")?;
        self.batch.dispatch(&kernel, (x, weight, shape, y, bias), grid(tokens, 1))?;
        Ok(())
    }

    /// gate = silu(gate) · up, number by number.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn middle(pass: &mut Pass, gate: &Buffer<f32>, up: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.swiglu(gate, up)
    /// }
    /// ```
    pub fn swiglu(&mut self, gate: &Buffer<f32>, up: &Buffer<f32>) -> Result<()> {
        let kernel = self.kernel("nn.activation", "swiglu")?;
        self.batch.dispatch(&kernel, (gate, up), grid_over(gate))?;
        Ok(())
    }

    /// GELU, number by number, in place.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn middle(pass: &mut Pass, x: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.gelu(x)
    /// }
    /// ```
    pub fn gelu(&mut self, x: &Buffer<f32>) -> Result<()> {
        let kernel = self.kernel("nn.activation", "gelu")?;
        self.batch.dispatch(&kernel, (x,), grid_over(x))?;
        Ok(())
    }

    /// y = y + x, number by number.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn residual(pass: &mut Pass, y: &Buffer<f32>, x: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.add(y, x)
    /// }
    /// ```
    pub fn add(&mut self, y: &Buffer<f32>, x: &Buffer<f32>) -> Result<()> {
        let kernel = self.kernel("nn.activation", "add")?;
        self.batch.dispatch(&kernel, (y, x), grid_over(y))?;
        Ok(())
    }

    /// Softmax of rows, in place.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn chances(pass: &mut Pass, logits: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.softmax(logits, 49_152, 1)
    /// }
    /// ```
    pub fn softmax(&mut self, x: &Buffer<f32>, width: u32, rows: u32) -> Result<()> {
        check_length("x", x, rows, width)?;
        let kernel = self.kernel("nn.softmax", ONLY_ENTRY)?;
        self.batch.dispatch(&kernel, (x, uniform(&[width])), grid(rows, 1))?;
        Ok(())
    }

    /// The mean of the rows of each span, of length 1 if `normalize`.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn sentences(pass: &mut Pass, x: &Buffer<f32>, spans: &Buffer<[u32; 2]>, y: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.mean_pool(x, spans, 384, true, y)
    /// }
    /// ```
    pub fn mean_pool(
        &mut self,
        x: &Buffer<f32>,
        spans: &Buffer<[u32; 2]>,
        width: u32,
        normalize: bool,
        y: &Buffer<f32>,
    ) -> Result<()> {
        let count = u32::try_from(spans.len()).unwrap_or(u32::MAX);
        check_length("y", y, count, width)?;
        let kernel = self.kernel("nn.pool", ONLY_ENTRY)?;
        let shape = uniform(&[width, u32::from(normalize)]);
        self.batch.dispatch(&kernel, (x, spans, shape, y), grid(count, 1))?;
        Ok(())
    }

    /// The `count` largest values of each row, the largest first: pairs of an index and the value's bits. With 1 it is argmax.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn likeliest(pass: &mut Pass, logits: &Buffer<f32>, best: &Buffer<[u32; 2]>) -> gpu::Result<()> {
    ///     pass.top(logits, 49_152, 1, 1, best)
    /// }
    /// ```
    pub fn top(&mut self, x: &Buffer<f32>, width: u32, rows: u32, count: u32, y: &Buffer<[u32; 2]>) -> Result<()> {
        check_length("x", x, rows, width)?;
        check_length("y", y, rows, count)?;
        if count > width {
            return Err(Error::InvalidArgument(format!("the {count} largest of {width} values")));
        }
        let kernel = self.kernel("nn.top", ONLY_ENTRY)?;
        self.batch.dispatch(&kernel, (x, uniform(&[width, count]), y), grid(rows, 1))?;
        Ok(())
    }

    /// Records the writing of values to the start of a buffer. They can be changed with each submission:
    /// [`Update::write`](crate::gpu::Update::write).
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer, Command}, nn::Pass};
    /// fn token(pass: &mut Pass, ids: &Buffer<u32>) -> gpu::Result<Command> {
    ///     pass.write(ids, &[0])
    /// }
    /// ```
    pub fn write<T: bytemuck::Pod>(&mut self, buffer: &Buffer<T>, values: &[T]) -> Result<Command> {
        self.batch.write(buffer, values)
    }
}

/// A grid with an invocation for each value.
fn grid_over(x: &Buffer<f32>) -> Grid {
    let groups = x.len().div_ceil(64);
    let groups = u32::try_from(groups).unwrap_or(u32::MAX);
    grid(groups, 1)
}
