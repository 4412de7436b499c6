//! Records the operations of a model. Products with weights are in `linear`, attention is in `attention`, all others
//! are here.

use super::kernels::Nn;
use crate::gpu::{Batch, Bind, Buffer, Command, Error, Grid, Kernel, Result, uniform};
use std::rc::Rc;

/// Stands for the only entry point of a source.
pub(super) const ONLY_ENTRY: &str = "";

/// Operations of a model, recorded once and submitted any number of times.
///
/// Activations are rows of `f32`, one row after the other. A buffer of activations that is too short is
/// `InvalidArgument`. An operation that the function did not declare ([`declare!`](crate::nn::declare!)) is `NotFound`.
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

/// Returns an error if the buffer has fewer than `rows` × `width` values.
pub(super) fn check_length<T: bytemuck::Pod>(what: &str, buffer: &Buffer<T>, rows: u32, width: u32) -> Result<()> {
    let needed = u64::from(rows) * u64::from(width);
    if (buffer.len() as u64) < needed {
        let has = buffer.len();
        return Err(Error::InvalidArgument(format!("{what} has {has} values; {rows} rows of {width} are {needed}")));
    }
    Ok(())
}

impl Pass<'_> {
    /// The batch with the recorded operations, for reads, writes and submissions.
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

    /// Records the RMS norm of rows (Zhang and Sennrich, 2019): y = x / √(mean(x²) + ε) · weight.
    ///
    /// `x` and `y` have `tokens` rows of `width` values, `weight` has `width` values.
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

    /// Records the layer norm of rows (Ba, Kiros and Hinton, 2016): y = (x − mean(x)) / √(var(x) + ε) · weight + bias.
    ///
    /// `x` and `y` have `tokens` rows of `width` values, `weight` and `bias` have `width` values.
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

    /// Records gate = silu(gate) · up for each value, the middle of a SwiGLU (Shazeer, 2020). Values that only the
    /// longer buffer has stay as they are.
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

    /// Records the exact GELU (Hendrycks and Gimpel, 2016) of each value, in place.
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

    /// Records y = y + x for each value. Values that only the longer buffer has stay as they are.
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

    /// Records the softmax of `rows` rows of `width` values, in place.
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

    /// Records the mean of the rows of each span, divided by its Euclidean length if `normalize`.
    ///
    /// A span is the first row of `x` and the row after the last. `x` has rows of `width` values, and its length is
    /// not checked. `y` gets a row of `width` values for each span.
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

    /// Records the search for the `count` largest values of each row, the largest first. With a count of 1 it is
    /// argmax.
    ///
    /// `x` has `rows` rows of `width` values. `y` gets `count` pairs for each row: the value's index in the row, and
    /// its bits (`f32::from_bits`). Of equal values, the one with the lower index is first. A `count` above `width` is
    /// `InvalidArgument`.
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
            return Err(Error::InvalidArgument(format!("the {count} largest of {width} values in a row")));
        }
        let kernel = self.kernel("nn.top", ONLY_ENTRY)?;
        self.batch.dispatch(&kernel, (x, uniform(&[width, count]), y), grid(rows, 1))?;
        Ok(())
    }

    /// Records a write of values to the start of a buffer, as [`Batch::write`] does.
    /// [`Update::write`](crate::gpu::Update::write) changes the values for a submission.
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

/// The grid with an invocation for each value, in workgroups of 64.
fn grid_over(x: &Buffer<f32>) -> Grid {
    let groups = x.len().div_ceil(64);
    let groups = u32::try_from(groups).unwrap_or(u32::MAX);
    grid(groups, 1)
}
