//! Typed GPU memory: a [`Buffer`] owns memory, a [`Slice`] is a part of a buffer to bind.
//!
//! The host's buffers are multiples of 4 bytes, so a buffer may be up to 3 bytes longer than its values.

use super::binding::{Bind, Source};
use super::error::{Error, Result};
use crate::bindings::gannet::gpu::{binding as wit_binding, buffer as wit_buffer};
use bytemuck::Pod;
use std::marker::PhantomData;

/// GPU memory for values of one type. It is freed when the buffer and all batches that use it have been dropped.
///
/// Methods return `InvalidArgument` for a range that is past the end of the buffer or not aligned to 4 bytes.
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
    pub(super) raw: wit_buffer::Buffer,
    pub(super) length: usize,
    values: PhantomData<T>,
}

/// Size of the host's buffer for `bytes` bytes of values: a multiple of 4, and at least 4.
pub(super) fn padded(bytes: usize) -> u64 {
    (bytes as u64).max(4).next_multiple_of(4)
}

impl<T: Pod> Buffer<T> {
    /// Creates a buffer with a copy of the values. Errors are those of [`zeroed`](Self::zeroed).
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

    /// Creates a buffer of `length` values, all bytes zero.
    ///
    /// The error is `MemoryQuota` if the request's or the tenant's limit of GPU memory would be exceeded, and
    /// `TooLarge` if the device cannot hold such a buffer.
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

    /// Overwrites values from the start of the buffer. They are written to GPU memory before the instance's next
    /// submission runs. Fewer values than the buffer has must have a multiple of 4 bytes.
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
                "{} bytes are written into a longer buffer; a partial write must be a multiple of 4 bytes",
                bytes.len()
            )));
        }
        let mut whole = bytes.to_vec();
        whole.resize(bytes.len().next_multiple_of(4), 0);
        self.raw.write(0, &whole)
    }

    /// Reads all values, after everything submitted so far. This is a GPU round trip of its own;
    /// [`Batch::read`](crate::gpu::Batch::read) uses that of its batch.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Buffer};
    /// assert_eq!(Buffer::from_slice(&[7u32])?.read()?, [7]);
    /// # Ok::<(), gpu::Error>(())
    /// ```
    pub fn read(&self) -> Result<Vec<T>> {
        let bytes = self.raw.read(0, padded(self.length * size_of::<T>()))?;
        Ok(values_from(&bytes, self.length))
    }

    /// Reads `length` values from index `start`, after everything submitted so far. The start in bytes must be a
    /// multiple of 4.
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
        Ok(values_from(&bytes, length))
    }

    /// A part of the buffer to bind: `length` values from index `start`. Its offset in bytes must be a multiple of the
    /// device's alignment for this kind of binding ([`Limits`](crate::gpu::Limits)). A dispatch checks that.
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

    /// Number of values.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Buffer};
    /// assert_eq!(Buffer::<f32>::zeroed(3)?.len(), 3);
    /// # Ok::<(), gpu::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the buffer has no values.
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

impl<T> Bind for &Buffer<T> {
    fn source(&self) -> Source<'_> {
        Source(wit_binding::Source::Buffer(wit_binding::BufferRange { buffer: &self.raw, offset: 0, size: None }))
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

/// Copies the first `length` values out of `bytes`, which may have any alignment. Missing values are zero.
pub(super) fn values_from<T: Pod>(bytes: &[u8], length: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); length];
    let target: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
    let count = target.len().min(bytes.len());
    if let (Some(target), Some(source)) = (target.get_mut(..count), bytes.get(..count)) {
        target.copy_from_slice(source);
    }
    values
}
