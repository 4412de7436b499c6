//! Compute on the GPU: buffers, kernels, batches.
//!
//! What the host refuses is an [`Error`], which names the value and the limit. With `?` it becomes a
//! response with a fitting status.

use crate::bindings::gannet::gpu::{
    batch as wit_batch, binding as wit_binding, buffer as wit_buffer, errors, info, kernel as wit_kernel,
    submission as wit_submission,
};
use bytemuck::{Pod, Zeroable};
use std::fmt;
use std::marker::PhantomData;

pub use info::{Device, Features, Limits};
pub use wit_submission::{Clock, Receipt};

/// Why a GPU operation was refused.
///
/// ```
/// # use gannet_sdk::gpu::Error;
/// assert_eq!(Error::KernelRejected("1:1: …".into()).code(), "kernel_rejected");
/// ```
pub type Error = errors::Error;

impl Error {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidArgument(_) => "invalid_argument",
            Self::NotFound(_) => "not_found",
            Self::KernelRejected(_) => "kernel_rejected",
            Self::MemoryQuota(_) => "gpu_memory_quota",
            Self::TooLarge(_) => "too_large",
            Self::BudgetExhausted(_) => "loop_budget_exhausted",
            Self::DeadlineExceeded(_) => "deadline_exceeded",
            Self::Unsupported(_) => "unsupported",
            Self::DeviceLost(_) => "device_lost",
        }
    }

    /// The status that a response about it has.
    pub fn status(&self) -> u16 {
        match self {
            Self::KernelRejected(_) => 422,
            Self::MemoryQuota(_) | Self::BudgetExhausted(_) | Self::DeviceLost(_) => 502,
            Self::DeadlineExceeded(_) => 504,
            Self::InvalidArgument(_) | Self::NotFound(_) | Self::TooLarge(_) | Self::Unsupported(_) => 500,
        }
    }

    /// The host's words.
    pub fn message(&self) -> &str {
        match self {
            Self::InvalidArgument(text)
            | Self::NotFound(text)
            | Self::KernelRejected(text)
            | Self::MemoryQuota(text)
            | Self::TooLarge(text)
            | Self::BudgetExhausted(text)
            | Self::DeadlineExceeded(text)
            | Self::Unsupported(text)
            | Self::DeviceLost(text) => text,
        }
    }
}

/// A result with a GPU error.
pub type Result<T> = std::result::Result<T, Error>;

/// What the device can do.
///
/// ```no_run
/// assert!(gannet_sdk::gpu::device().limits.workgroup_invocations_max >= 128);
/// ```
pub fn device() -> Device {
    info::get()
}

/// GPU memory that holds values of one type. Freed when it is dropped.
///
/// ```no_run
/// # use gannet_sdk::gpu::{self, Buffer};
/// # fn f() -> gpu::Result<()> {
/// let numbers = Buffer::from_slice(&[1.0f32, 2.0])?;
/// assert_eq!(numbers.read()?, [1.0, 2.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Buffer<T> {
    raw: wit_buffer::Buffer,
    length: usize,
    values: PhantomData<T>,
}

fn padded(bytes: usize) -> u64 {
    (bytes as u64).max(4).next_multiple_of(4)
}

impl<T: Pod> Buffer<T> {
    /// A buffer with a copy of the values.
    pub fn from_slice(values: &[T]) -> Result<Self> {
        let buffer = Self::zeroed(values.len())?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// A buffer of `length` zeros.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Buffer};
    /// let zeros: Buffer<u32> = Buffer::zeroed(1024)?;
    /// # Ok::<(), gpu::Error>(())
    /// ```
    pub fn zeroed(length: usize) -> Result<Self> {
        let raw = wit_buffer::Buffer::create(padded(length.saturating_mul(size_of::<T>())))?;
        Ok(Self { raw, length, values: PhantomData })
    }

    /// Overwrites the values from the start. They reach the GPU ahead of the next submission.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Buffer};
    /// Buffer::<u32>::zeroed(2)?.write(&[1, 2])?;
    /// # Ok::<(), gpu::Error>(())
    /// ```
    pub fn write(&self, values: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        if bytes.len().is_multiple_of(4) {
            return self.raw.write(0, bytes);
        }
        if values.len() < self.length {
            return Err(Error::InvalidArgument(format!(
                "{} bytes are written into a longer buffer: a part has a multiple of 4",
                bytes.len()
            )));
        }
        let mut whole = bytes.to_vec();
        whole.resize(bytes.len().next_multiple_of(4), 0);
        self.raw.write(0, &whole)
    }

    /// Reads all values back, after everything submitted so far. It is a GPU round trip of its own; a
    /// [`Batch::read`] shares the batch's.
    pub fn read(&self) -> Result<Vec<T>> {
        let bytes = self.raw.read(0, padded(self.length * size_of::<T>()))?;
        Ok(values(&bytes, self.length))
    }

    /// Reads `length` values from the one at `start` on.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Buffer};
    /// let middle = Buffer::from_slice(&[1u32, 2, 3, 4])?.read_range(1, 2)?;
    /// assert_eq!(middle, [2, 3]);
    /// # Ok::<(), gpu::Error>(())
    /// ```
    pub fn read_range(&self, start: usize, length: usize) -> Result<Vec<T>> {
        let offset = start.saturating_mul(size_of::<T>()) as u64;
        let bytes = self.raw.read(offset, padded(length.saturating_mul(size_of::<T>())))?;
        Ok(values(&bytes, length))
    }

    /// A part of the buffer to bind: `length` values from the one at `start` on. Its offset in bytes must be
    /// a multiple of the device's binding alignment.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Buffer};
    /// # fn f(kernel: &gpu::Kernel, weights: &Buffer<f32>) -> gpu::Result<()> {
    /// kernel.dispatch((weights.slice(64, 64),), gpu::grid_1d(64, 64))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn slice(&self, start: usize, length: usize) -> Slice<'_> {
        let unit = size_of::<T>();
        Slice { raw: &self.raw, offset: start.saturating_mul(unit) as u64, size: length.saturating_mul(unit) as u64 }
    }

    /// How many values it holds.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Buffer};
    /// assert_eq!(Buffer::<f32>::zeroed(3)?.len(), 3);
    /// # Ok::<(), gpu::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// A part of a buffer; see [`Buffer::slice`].
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    raw: &'a wit_buffer::Buffer,
    offset: u64,
    size: u64,
}

impl Bind for Slice<'_> {
    fn source(&self) -> Source<'_> {
        let range = wit_binding::BufferRange { buffer: self.raw, offset: self.offset, size: Some(self.size) };
        Source(wit_binding::Source::Buffer(range))
    }
}

/// The first `length` values in `bytes`, wherever those lie in memory.
fn values<T: Pod>(bytes: &[u8], length: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); length];
    let target: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
    let count = target.len().min(bytes.len());
    if let (Some(target), Some(source)) = (target.get_mut(..count), bytes.get(..count)) {
        target.copy_from_slice(source);
    }
    values
}

/// Bytes for a small uniform or read-only variable, sent along with the dispatch.
///
/// ```
/// # use gannet_sdk::gpu::uniform;
/// let size = uniform(&[640u32, 480]);
/// ```
#[derive(Debug, Clone)]
pub struct Uniform(Vec<u8>);

/// Makes a [`Uniform`] of values; the layout is that of the WGSL variable.
pub fn uniform<T: Pod>(values: &[T]) -> Uniform {
    let mut bytes = bytemuck::cast_slice(values).to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Uniform(bytes)
}

/// Anything that can be bound to a kernel's variable.
pub trait Bind {
    /// What is bound.
    fn source(&self) -> Source<'_>;
}

/// What is bound to a variable.
#[derive(Debug)]
pub struct Source<'a>(wit_binding::Source<'a>);

impl<T> Bind for &Buffer<T> {
    fn source(&self) -> Source<'_> {
        Source(wit_binding::Source::Buffer(wit_binding::BufferRange { buffer: &self.raw, offset: 0, size: None }))
    }
}

impl Bind for Uniform {
    fn source(&self) -> Source<'_> {
        Source(wit_binding::Source::Inline(self.0.clone()))
    }
}

impl Bind for &Uniform {
    fn source(&self) -> Source<'_> {
        Source(wit_binding::Source::Inline(self.0.clone()))
    }
}

/// Bindings of a dispatch: a tuple binds `@group(0) @binding(0)`, `@binding(1)` and so on.
pub trait Bindings {
    /// Calls `with` with the list of bindings.
    fn list<R>(&self, with: impl FnOnce(Vec<wit_binding::Binding<'_>>) -> R) -> R;
}

/// Any bindings, each with its group and index.
///
/// ```no_run
/// # use gannet_sdk::gpu::{self, At, Bind, Buffer};
/// # fn f(kernel: &gpu::Kernel, a: &Buffer<f32>, b: &Buffer<f32>) -> gpu::Result<()> {
/// kernel.dispatch(At(&[(0, 3, &a), (1, 0, &b)]), gpu::grid_1d(64, 64))?;
/// # Ok(())
/// # }
/// ```
pub struct At<'a>(pub &'a [(u32, u32, &'a dyn Bind)]);

impl fmt::Debug for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(group, index, _)| (group, index))).finish()
    }
}

impl Bindings for At<'_> {
    fn list<R>(&self, with: impl FnOnce(Vec<wit_binding::Binding<'_>>) -> R) -> R {
        let list = self.0.iter().map(|(group, index, bound)| wit_binding::Binding {
            group: *group,
            index: *index,
            source: bound.source().0,
        });
        with(list.collect())
    }
}

macro_rules! tuple {
    ($($name:ident $index:tt),+) => {
        impl<$($name: Bind),+> Bindings for ($($name,)+) {
            fn list<R>(&self, with: impl FnOnce(Vec<wit_binding::Binding<'_>>) -> R) -> R {
                with(vec![$(wit_binding::Binding { group: 0, index: $index, source: self.$index.source().0 }),+])
            }
        }
    };
}
tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

/// Workgroups along x, y and z.
pub type Grid = wit_batch::Grid;

/// The grid that covers `count` invocations with workgroups of `size`.
///
/// ```
/// # use gannet_sdk::gpu::grid_1d;
/// assert_eq!(grid_1d(100, 64).x, 2);
/// ```
pub fn grid_1d(count: u32, size: u32) -> Grid {
    Grid { x: count.div_ceil(size.max(1)), y: 1, z: 1 }
}

/// The grid that covers width × height invocations with workgroups of `size` × `size`.
///
/// ```
/// # use gannet_sdk::gpu::grid_2d;
/// assert_eq!((grid_2d((640, 481), 8).x, grid_2d((640, 481), 8).y), (80, 61));
/// ```
pub fn grid_2d(dimensions: (u32, u32), size: u32) -> Grid {
    let size = size.max(1);
    Grid { x: dimensions.0.div_ceil(size), y: dimensions.1.div_ceil(size), z: 1 }
}

/// A compiled kernel.
#[derive(Debug)]
pub struct Kernel(wit_kernel::Kernel);

fn constants(values: &[(&str, f64)]) -> Vec<wit_kernel::Constant> {
    values.iter().map(|(name, value)| wit_kernel::Constant { name: (*name).to_owned(), value: *value }).collect()
}

impl Kernel {
    /// Compiles WGSL at run time.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::Kernel;
    /// let kernel = Kernel::compile("@compute @workgroup_size(1) fn main() {}", "main")?;
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn compile(wgsl: &str, entry: &str) -> Result<Self> {
        Self::compile_with(wgsl, entry, &[])
    }

    /// Compiles WGSL with values for its `override` constants.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::Kernel;
    /// let wgsl = "override N: u32; @compute @workgroup_size(N) fn main() {}";
    /// let kernel = Kernel::compile_with(wgsl, "main", &[("N", 64.0)])?;
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn compile_with(wgsl: &str, entry: &str, values: &[(&str, f64)]) -> Result<Self> {
        Ok(Self(wit_kernel::Kernel::compile(wgsl, entry, &constants(values))?))
    }

    /// Runs the kernel over `grid`, without waiting for it: reading a buffer does.
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

    /// Invocations of one workgroup.
    ///
    /// ```no_run
    /// # fn f(kernel: &gannet_sdk::gpu::Kernel) {
    /// assert_eq!(kernel.workgroup_size(), (8, 8, 1));
    /// # }
    /// ```
    pub fn workgroup_size(&self) -> (u32, u32, u32) {
        self.0.workgroup_size()
    }
}

/// A kernel that was declared at deploy, by [`kernel!`] or in the manifest.
///
/// ```no_run
/// # use gannet_sdk::gpu::{self, Declared};
/// let horizontal = Declared::new("blur.wgsl").entry("horizontal").constant("RADIUS", 4.0).open()?;
/// # Ok::<(), gpu::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Declared {
    name: &'static str,
    entry: Option<&'static str>,
    constants: Vec<(&'static str, f64)>,
}

impl Declared {
    /// The kernel of that name.
    pub fn new(name: &'static str) -> Self {
        Self { name, entry: None, constants: Vec::new() }
    }

    /// Chooses an entry point, where the module has several.
    pub fn entry(mut self, entry: &'static str) -> Self {
        self.entry = Some(entry);
        self
    }

    /// Sets an `override` constant.
    pub fn constant(mut self, name: &'static str, value: f64) -> Self {
        self.constants.push((name, value));
        self
    }

    /// Opens it.
    pub fn open(&self) -> Result<Kernel> {
        let name = match self.entry {
            Some(entry) => format!("{}/{entry}", self.name),
            None => self.name.to_owned(),
        };
        Ok(Kernel(wit_kernel::Kernel::open(&name, &constants(&self.constants))?))
    }

    /// Opens it and runs it over `grid`.
    pub fn dispatch(&self, bindings: impl Bindings, grid: Grid) -> Result<Submission> {
        self.open()?.dispatch(bindings, grid)
    }
}

/// Declares the kernel in a WGSL file beside the source, so that the server checks and compiles it at
/// deploy, and names it: `gpu::kernel!("blur.wgsl").dispatch(…)`.
///
/// ```
/// # use gannet_sdk::gpu;
/// let kernel = gpu::kernel!("example.wgsl");
/// ```
#[macro_export]
#[doc(hidden)]
macro_rules! __kernel {
    ($path:literal) => {{
        const WGSL: &str = include_str!($path);
        const LENGTH: usize = $crate::gpu::__record_length($path, WGSL);
        // A static without pointers in this section becomes a custom section of the module.
        #[cfg_attr(target_arch = "wasm32", unsafe(link_section = "gannet:kernel"))]
        #[used]
        static RECORD: [u8; LENGTH] = $crate::gpu::__record::<LENGTH>($path, WGSL);
        $crate::gpu::Declared::new($path)
    }};
}

#[doc(inline)]
pub use crate::__kernel as kernel;

/// For [`kernel!`].
#[doc(hidden)]
pub const fn __record_length(name: &str, wgsl: &str) -> usize {
    8 + name.len() + wgsl.len()
}

/// For [`kernel!`]: a length and a name, a length and the source. Runs in the compiler.
#[doc(hidden)]
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
pub const fn __record<const N: usize>(name: &str, wgsl: &str) -> [u8; N] {
    let mut record = [0; N];
    let mut at = 0;
    let parts = [name.as_bytes(), wgsl.as_bytes()];
    let mut part = 0;
    while part < 2 {
        let bytes = parts[part];
        let length = (bytes.len() as u32).to_le_bytes();
        let mut index = 0;
        while index < 4 {
            record[at] = length[index];
            at += 1;
            index += 1;
        }
        index = 0;
        while index < bytes.len() {
            record[at] = bytes[index];
            at += 1;
            index += 1;
        }
        part += 1;
    }
    record
}

/// Commands that are recorded once and submitted any number of times. One submission is one GPU round
/// trip, reads included.
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

/// The index of a recorded command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command(u32);

/// A read that was recorded.
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

/// A change to a recorded command.
#[derive(Debug)]
pub struct Update(wit_batch::Update);

impl Update {
    /// New bytes for a uniform at `@group(group) @binding(index)` of a dispatch.
    pub fn uniform(command: Command, group: u32, index: u32, value: Uniform) -> Self {
        Self(wit_batch::Update::Inline(wit_batch::InlineUpdate { command: command.0, group, index, data: value.0 }))
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
    pub fn new() -> Self {
        Self { raw: wit_batch::Batch::new(), reads: 0 }
    }

    /// Records a dispatch.
    pub fn dispatch(&mut self, kernel: &Kernel, bindings: impl Bindings, grid: Grid) -> Result<Command> {
        bindings.list(|list| self.raw.dispatch(&kernel.0, &list, grid)).map(Command)
    }

    /// Records a copy of all values of `source` to the start of `target`.
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
                "{bytes} bytes are copied into a longer buffer: a part has a multiple of 4"
            )));
        }
        self.raw.copy(&source.raw, 0, &target.raw, 0, bytes.next_multiple_of(4)).map(Command)
    }

    /// Records the zeroing of a buffer.
    pub fn clear<T: Pod>(&mut self, buffer: &Buffer<T>) -> Result<Command> {
        self.raw.clear(&buffer.raw, 0, padded(buffer.length * size_of::<T>())).map(Command)
    }

    /// Records a read of all values of a buffer.
    pub fn read<T: Pod>(&mut self, buffer: &Buffer<T>) -> Result<Read<T>> {
        self.raw.read(&buffer.raw, 0, padded(buffer.length * size_of::<T>()))?;
        self.reads += 1;
        Ok(Read { index: self.reads - 1, length: buffer.length, values: PhantomData })
    }

    /// Submits the commands.
    pub fn submit(&self) -> Result<Submission> {
        self.submit_with(Vec::new())
    }

    /// Applies updates, then submits the commands.
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

/// Work that is on its way.
#[derive(Debug)]
pub struct Submission(wit_submission::Submission);

impl Submission {
    /// Waits until the GPU is done.
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

/// What a submission brought back.
#[derive(Debug)]
pub struct Results {
    /// What it took.
    pub receipt: Receipt,
    reads: Vec<Option<Vec<u8>>>,
}

impl Results {
    /// The values of a read. The second time it is empty.
    pub fn take<T: Pod + Zeroable>(&mut self, read: &Read<T>) -> Vec<T> {
        match self.reads.get_mut(read.index).and_then(Option::take) {
            Some(bytes) => values(&bytes, read.length),
            None => Vec::new(),
        }
    }
}
