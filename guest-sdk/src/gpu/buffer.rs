//! GPU memory, typed: a [`Buffer`] owns it, a [`Slice`] is a part of one to bind.
//!
//! The host's buffers are multiples of 4 bytes, so a buffer may be up to 3 bytes longer than its values.

use super::binding::{Bind, Source};
use super::error::{Error, Result};
use crate::bindings::gannet::gpu::{binding as wit_binding, buffer as wit_buffer};
use bytemuck::Pod;
use std::marker::PhantomData;

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
    pub(super) raw: wit_buffer::Buffer,
    pub(super) length: usize,
    values: PhantomData<T>,
}

/// The bytes of a buffer on the host for so many bytes of values.
pub(super) fn padded(bytes: usize) -> u64 {
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
    /// [`Batch::read`](crate::gpu::Batch::read) shares the batch's.
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
        Ok(values_from(&bytes, length))
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

/// The first `length` values in `bytes`, wherever those lie in memory.
pub(super) fn values_from<T: Pod>(bytes: &[u8], length: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); length];
    let target: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
    let count = target.len().min(bytes.len());
    if let (Some(target), Some(source)) = (target.get_mut(..count), bytes.get(..count)) {
        target.copy_from_slice(source);
    }
    values
}
