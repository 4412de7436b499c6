//! Compute on the GPU: buffers, kernels, batches.
//!
//! What the host refuses is an [`Error`], which names the value and the limit. With `?` it becomes a
//! response with a fitting status.

use crate::bindings::gannet::gpu::{batch as wit_batch, binding as wit_binding, buffer as wit_buffer, errors, info};
use bytemuck::Pod;
use std::fmt;
use std::marker::PhantomData;

mod batch;
mod kernel;

#[doc(inline)]
pub use crate::__kernel as kernel;
pub use batch::{Batch, Clock, Command, Read, Receipt, Results, Submission, Update};
pub use info::{Device, Features, Limits};
pub use kernel::{__record, __record_length, Declared, Kernel};

/// Why a GPU operation was refused.
///
/// ```
/// # use gannet_sdk::gpu::Error;
/// assert_eq!(Error::KernelRejected("1:1: …".into()).code(), "kernel_rejected");
/// ```
pub type Error = errors::Error;

impl Error {
    /// The stable code.
    ///
    /// ```
    /// # use gannet_sdk::gpu::Error;
    /// assert_eq!(Error::MemoryQuota("…".into()).code(), "gpu_memory_quota");
    /// ```
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
    ///
    /// ```
    /// # use gannet_sdk::gpu::Error;
    /// assert_eq!(Error::DeadlineExceeded("…".into()).status(), 504);
    /// ```
    pub fn status(&self) -> u16 {
        match self {
            Self::KernelRejected(_) => 422,
            Self::MemoryQuota(_) | Self::BudgetExhausted(_) | Self::DeviceLost(_) => 502,
            Self::DeadlineExceeded(_) => 504,
            Self::InvalidArgument(_) | Self::NotFound(_) | Self::TooLarge(_) | Self::Unsupported(_) => 500,
        }
    }

    /// The host's words.
    ///
    /// ```
    /// # use gannet_sdk::gpu::Error;
    /// assert_eq!(Error::NotFound("kernel blur.wgsl".into()).message(), "kernel blur.wgsl");
    /// ```
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
///
/// ```
/// # use gannet_sdk::gpu::{self, Buffer};
/// fn sum(numbers: &Buffer<f32>) -> gpu::Result<f32> {
///     Ok(numbers.read()?.iter().sum())
/// }
/// ```
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
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Buffer};
    /// let numbers = Buffer::from_slice(&[1.0f32, 2.0, 3.0])?;
    /// assert_eq!(numbers.len(), 3);
    /// # Ok::<(), gpu::Error>(())
    /// ```
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
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Buffer};
    /// assert_eq!(Buffer::from_slice(&[7u32])?.read()?, [7]);
    /// # Ok::<(), gpu::Error>(())
    /// ```
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
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Buffer};
    /// assert!(Buffer::<u32>::zeroed(0)?.is_empty());
    /// # Ok::<(), gpu::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// A part of a buffer; see [`Buffer::slice`].
///
/// ```
/// # use gannet_sdk::gpu::{self, Buffer, Kernel, Slice};
/// fn second_half(kernel: &Kernel, numbers: &Buffer<f32>) -> gpu::Result<()> {
///     let half: Slice = numbers.slice(numbers.len() / 2, numbers.len() / 2);
///     kernel.dispatch((half,), gpu::grid_1d(64, 64))?;
///     Ok(())
/// }
/// ```
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
///
/// ```
/// # use gannet_sdk::gpu;
/// let scale = gpu::uniform(&[0.5f32]);
/// ```
pub fn uniform<T: Pod>(values: &[T]) -> Uniform {
    let mut bytes = bytemuck::cast_slice(values).to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Uniform(bytes)
}

/// Anything that can be bound to a kernel's variable.
///
/// ```
/// # use gannet_sdk::gpu::{self, Bind, Buffer, Source};
/// struct Layer<'a> {
///     weights: &'a Buffer<f32>,
/// }
/// impl Bind for Layer<'_> {
///     fn source(&self) -> Source<'_> {
///         self.weights.source()
///     }
/// }
/// ```
pub trait Bind {
    /// What is bound.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Bind};
    /// println!("{:?}", gpu::uniform(&[1u32]).source());
    /// ```
    fn source(&self) -> Source<'_>;
}

/// What is bound to a variable.
///
/// ```
/// # use gannet_sdk::gpu::{Bind, Source, uniform};
/// let scale = uniform(&[0.5f32]);
/// let source: Source = scale.source();
/// ```
#[derive(Debug)]
pub struct Source<'a>(pub(crate) wit_binding::Source<'a>);

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
///
/// ```
/// # use gannet_sdk::gpu::{self, Bindings, Kernel};
/// fn run(kernel: &Kernel, bindings: impl Bindings) -> gpu::Result<()> {
///     kernel.dispatch(bindings, gpu::grid_1d(1024, 64))?;
///     Ok(())
/// }
/// ```
pub trait Bindings {
    /// Calls `with` with the list of bindings.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Bindings};
    /// let count = (gpu::uniform(&[1u32]), gpu::uniform(&[2u32])).list(|bindings| bindings.len());
    /// assert_eq!(count, 2);
    /// ```
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
///
/// ```
/// # use gannet_sdk::gpu::Grid;
/// let planes = Grid { x: 16, y: 16, z: 3 };
/// ```
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
