//! Batches: many commands in one GPU round trip.

use super::binding::{Bindings, Uniform};
use super::buffer::{Buffer, padded, values_from};
use super::error::{Error, Result};
use super::grid::Grid;
use super::kernel::Kernel;
use crate::bindings::gannet::gpu::{batch as wit_batch, submission as wit_submission};
use bytemuck::{Pod, Zeroable};
use std::marker::PhantomData;

pub use wit_submission::{Clock, Receipt};

/// At most 4096 commands, recorded once and submitted any number of times. Commands run in the order in which they
/// were recorded. One submission is one GPU round trip, reads included.
///
/// A method whose command the host refuses returns an error and records nothing. The error is `InvalidArgument` for a
/// range past the end of a buffer, a binding that does not fit the kernel, and one command too many.
///
/// ```no_run
/// # use gannet_sdk::gpu::{self, Batch, Buffer};
/// # fn f(kernel: &gpu::Kernel, values: &Buffer<f32>) -> gpu::Result<()> {
/// let mut batch = Batch::new();
/// batch.dispatch(kernel, (values, gpu::uniform(&[2.0f32])), gpu::grid_1d(1024, 64))?;
/// let read = batch.read(values)?;
/// let mut results = batch.submit()?.wait()?;
/// let values: Vec<f32> = results.take(&read);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Batch {
    raw: wit_batch::Batch,
    reads: usize,
}

/// The index of a recorded command in its batch, for an [`Update`].
///
/// ```
/// # use gannet_sdk::gpu::{self, Batch, Buffer, Command, Kernel};
/// fn record(batch: &mut Batch, kernel: &Kernel, values: &Buffer<f32>) -> gpu::Result<Command> {
///     batch.dispatch(kernel, (values,), gpu::grid_1d(1024, 64))
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command(u32);

/// A recorded read, by which [`Results::take`] finds its values.
///
/// ```
/// # use gannet_sdk::gpu::{self, Batch, Buffer, Read};
/// fn sums(batch: &mut Batch, buffer: &Buffer<f32>) -> gpu::Result<Read<f32>> {
///     batch.read(buffer)
/// }
/// ```
#[derive(Debug)]
pub struct Read<T> {
    index: usize,
    length: usize,
    values: PhantomData<T>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

/// A change to a recorded command. It applies to all later submissions until the next change.
///
/// ```
/// # use gannet_sdk::gpu::{self, Batch, Command, Update};
/// fn step(batch: &Batch, dispatch: Command, n: u32) -> gpu::Result<()> {
///     batch.submit_with(vec![Update::uniform(dispatch, 0, 1, gpu::uniform(&[n]))])?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Update(wit_batch::Update);

impl Update {
    /// New bytes for the [`Uniform`] at `@group(group) @binding(index)` of a dispatch. The length must be the recorded
    /// one.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Command, Update};
    /// fn scale(dispatch: Command, by: f32) -> Update {
    ///     Update::uniform(dispatch, 0, 1, gpu::uniform(&[by]))
    /// }
    /// ```
    pub fn uniform(command: Command, group: u32, index: u32, value: Uniform) -> Self {
        Self(wit_batch::Update::Inline(wit_batch::InlineUpdate { command: command.0, group, index, data: value.0 }))
    }

    /// New values for a recorded write. The length in bytes must be the recorded one.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Batch, Command, Update};
    /// fn next(batch: &Batch, token: Command, id: u32) -> gpu::Result<()> {
    ///     batch.submit_with(vec![Update::write(token, &[id])])?;
    ///     Ok(())
    /// }
    /// ```
    pub fn write<T: Pod>(command: Command, values: &[T]) -> Self {
        let data = bytemuck::cast_slice(values).to_vec();
        Self(wit_batch::Update::Write(wit_batch::WriteUpdate { command: command.0, data }))
    }

    /// A new grid for a dispatch.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Batch, Command, Update};
    /// # fn f(batch: &Batch, step: Command) -> gpu::Result<()> {
    /// batch.submit_with(vec![Update::grid(step, gpu::grid_1d(4096, 64))])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn grid(command: Command, grid: Grid) -> Self {
        Self(wit_batch::Update::Grid(wit_batch::GridUpdate { command: command.0, grid }))
    }
}

impl Batch {
    /// An empty batch.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::Batch;
    /// let batch = Batch::new();
    /// ```
    pub fn new() -> Self {
        Self { raw: wit_batch::Batch::new(), reads: 0 }
    }

    /// Records a dispatch of `kernel` over `grid`. Every variable of the kernel needs exactly one binding.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Batch, Buffer, Kernel};
    /// fn twice(batch: &mut Batch, kernel: &Kernel, values: &Buffer<f32>) -> gpu::Result<()> {
    ///     batch.dispatch(kernel, (values,), gpu::grid_1d(1024, 64))?;
    ///     batch.dispatch(kernel, (values,), gpu::grid_1d(1024, 64))?;
    ///     Ok(())
    /// }
    /// ```
    pub fn dispatch(&mut self, kernel: &Kernel, bindings: impl Bindings, grid: Grid) -> Result<Command> {
        bindings.list(|list| self.raw.dispatch(&kernel.0, &list, grid)).map(Command)
    }

    /// Records a copy of all values of `source` to the start of `target`, which must be another buffer. If `target` is
    /// longer, the size in bytes must be a multiple of 4.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Batch, Buffer};
    /// # fn f(batch: &mut Batch, from: &Buffer<u32>, to: &Buffer<u32>) -> gpu::Result<()> {
    /// batch.copy(from, to)?;
    /// batch.clear(from)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn copy<T: Pod>(&mut self, source: &Buffer<T>, target: &Buffer<T>) -> Result<Command> {
        let bytes = (source.length * size_of::<T>()) as u64;
        if !bytes.is_multiple_of(4) && source.length < target.length {
            return Err(Error::InvalidArgument(format!(
                "{bytes} bytes are copied into a longer buffer; a partial copy must be a multiple of 4 bytes"
            )));
        }
        self.raw.copy(&source.raw, 0, &target.raw, 0, bytes.next_multiple_of(4)).map(Command)
    }

    /// Records a copy of `length` values of `source`, from index `start`, to the start of `target`, which must be
    /// another buffer. Start and length in bytes must be multiples of 4.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Batch, Buffer};
    /// fn last_row(batch: &mut Batch, rows: &Buffer<f32>, width: usize, to: &Buffer<f32>) -> gpu::Result<()> {
    ///     batch.copy_part(rows, rows.len() - width, width, to)?;
    ///     Ok(())
    /// }
    /// ```
    pub fn copy_part<T: Pod>(
        &mut self,
        source: &Buffer<T>,
        start: usize,
        length: usize,
        target: &Buffer<T>,
    ) -> Result<Command> {
        let [offset, bytes] = [start, length].map(|n| n.saturating_mul(size_of::<T>()) as u64);
        self.raw.copy(&source.raw, offset, &target.raw, 0, bytes).map(Command)
    }

    /// Records a write of values to the start of a buffer. Their size in bytes must be a multiple of 4.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Batch, Buffer, Command};
    /// fn token(batch: &mut Batch, ids: &Buffer<u32>) -> gpu::Result<Command> {
    ///     batch.write(ids, &[0])
    /// }
    /// ```
    pub fn write<T: Pod>(&mut self, buffer: &Buffer<T>, values: &[T]) -> Result<Command> {
        self.raw.write(&buffer.raw, 0, bytemuck::cast_slice(values)).map(Command)
    }

    /// Records the zeroing of a whole buffer.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Batch, Buffer};
    /// fn reset(batch: &mut Batch, counters: &Buffer<u32>) -> gpu::Result<()> {
    ///     batch.clear(counters)?;
    ///     Ok(())
    /// }
    /// ```
    pub fn clear<T: Pod>(&mut self, buffer: &Buffer<T>) -> Result<Command> {
        self.raw.clear(&buffer.raw, 0, padded(buffer.length * size_of::<T>())).map(Command)
    }

    /// Records a read of all values of a buffer. [`Results::take`] returns them.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Batch, Buffer};
    /// fn fetch(batch: &mut Batch, values: &Buffer<f32>) -> gpu::Result<Vec<f32>> {
    ///     let read = batch.read(values)?;
    ///     Ok(batch.submit()?.wait()?.take(&read))
    /// }
    /// ```
    pub fn read<T: Pod>(&mut self, buffer: &Buffer<T>) -> Result<Read<T>> {
        self.raw.read(&buffer.raw, 0, padded(buffer.length * size_of::<T>()))?;
        self.reads += 1;
        Ok(Read { index: self.reads - 1, length: buffer.length, values: PhantomData })
    }

    /// Submits the commands, without waiting for the GPU. At most 16 submissions of an instance are in flight; another
    /// one waits until one has finished.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Batch};
    /// fn run(batch: &Batch) -> gpu::Result<u64> {
    ///     Ok(batch.submit()?.wait()?.receipt.gpu_ns)
    /// }
    /// ```
    pub fn submit(&self) -> Result<Submission> {
        self.submit_with(Vec::new())
    }

    /// Applies updates in order, then submits the commands as [`submit`](Self::submit) does. If an update does not fit
    /// its command, nothing is submitted, and the updates before it stay applied.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Batch, Command, Update};
    /// # fn f(batch: &Batch, step: Command) -> gpu::Result<()> {
    /// for n in 0..10u32 {
    ///     batch.submit_with(vec![Update::uniform(step, 0, 1, gpu::uniform(&[n]))])?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn submit_with(&self, updates: Vec<Update>) -> Result<Submission> {
        let updates: Vec<_> = updates.into_iter().map(|update| update.0).collect();
        Ok(Submission(self.raw.submit(&updates)?))
    }
}

/// A batch that was submitted. Dropping it does not cancel it.
///
/// ```
/// # use gannet_sdk::gpu::{self, Batch, Submission};
/// fn overlap(batch: &Batch) -> gpu::Result<()> {
///     let running: Submission = batch.submit()?;
///     println!("this line is written while the GPU works");
///     running.wait()?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Submission(wit_submission::Submission);

impl Submission {
    /// Waits until the GPU has finished, and returns the values that were read.
    ///
    /// Errors of running kernels are reported here: `BudgetExhausted`, `DeadlineExceeded`, `DeviceLost`.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Batch};
    /// # fn f(batch: &Batch) -> gpu::Result<()> {
    /// let results = batch.submit()?.wait()?;
    /// println!("{} ns on the GPU", results.receipt.gpu_ns);
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait(self) -> Result<Results> {
        let receipt = self.0.wait()?;
        let reads = self.0.take_reads().into_iter().map(Some).collect();
        Ok(Results { receipt, reads })
    }
}

/// The results of a submission: its cost and the values that it read.
///
/// ```
/// # use gannet_sdk::gpu::Results;
/// fn report(results: &Results) -> String {
///     format!("{} ns in {} slices", results.receipt.gpu_ns, results.receipt.slices)
/// }
/// ```
#[derive(Debug)]
pub struct Results {
    /// GPU time in nanoseconds, number of slices, and the clock that measured the time.
    pub receipt: Receipt,
    reads: Vec<Option<Vec<u8>>>,
}

impl Results {
    /// Takes the values of a read. A second call for the same read returns an empty vector.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{Read, Results};
    /// fn first(results: &mut Results, read: &Read<f32>) -> Option<f32> {
    ///     results.take(read).first().copied()
    /// }
    /// ```
    pub fn take<T: Pod + Zeroable>(&mut self, read: &Read<T>) -> Vec<T> {
        match self.reads.get_mut(read.index).and_then(Option::take) {
            Some(bytes) => values_from(&bytes, read.length),
            None => Vec::new(),
        }
    }
}
