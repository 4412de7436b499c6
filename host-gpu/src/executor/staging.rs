//! The pool of staging buffers: upload buffers for bytes to the GPU and readback buffers for bytes from it.
//!
//! They are pooled because creating one costs more than a small dispatch. A pooled upload buffer stays mapped for
//! writing and a pooled readback buffer stays mapped for reading. The GPU thread unmaps them just before
//! it submits. They belong to one device and so to one tenant, so they are never cleared.

use crate::memory::Charge;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Limit of the bytes of idle staging buffers that a device keeps.
const IDLE_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// Limit of idle buffers that a device keeps, because the search for one that fits is linear.
const IDLE_MAX: usize = 64;
/// Size of the smallest staging buffer in bytes.
const SIZE_MIN: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Upload,
    Readback,
}

#[derive(Debug)]
struct Idle {
    buffer: wgpu::Buffer,
    mapped: bool,
    direction: Direction,
}

/// The pool of idle staging buffers of one device.
#[derive(Debug)]
pub(crate) struct StagingPool {
    device: wgpu::Device,
    idle: Mutex<Vec<Idle>>,
}

/// A staging buffer in use. When it is dropped, it returns to the pool if it can be used again.
#[derive(Debug)]
pub(crate) struct StagingBuffer {
    pub(crate) buffer: wgpu::Buffer,
    mapped: bool,
    direction: Direction,
    /// Whether a submission that used the buffer has completed. A buffer whose allocation failed never gets there, and
    /// must not be pooled.
    used: bool,
    pool: Weak<StagingPool>,
    /// Charged as long as the buffer is in use, also while it holds results that the guest has not taken.
    /// Declared after `buffer`, so that the memory is pooled or free before its charge is returned.
    #[expect(dead_code, reason = "held for its drop")]
    charge: Charge,
}

impl StagingPool {
    pub(crate) fn new(device: wgpu::Device) -> Self {
        Self { device, idle: Mutex::default() }
    }

    /// Returns the size of a staging buffer for `size` bytes. The caller must charge that many bytes.
    pub(crate) fn rounded(size: u64) -> u64 {
        let size = size.max(SIZE_MIN);
        // Rounding up to an eighth of a power of two wastes little and lets buffers be reused for similar sizes.
        let step = (size.next_power_of_two() / 8).max(SIZE_MIN);
        size.next_multiple_of(step)
    }

    /// Returns a buffer that is mapped for writing; `charge` pays for it. Call it inside an error scope.
    pub(crate) fn upload(self: &Arc<Self>, size: u64, charge: Charge) -> StagingBuffer {
        self.take(size, Direction::Upload, charge)
    }

    /// Returns a buffer that a submission can copy results into; `charge` pays for it. Call it inside an error
    /// scope.
    pub(crate) fn readback(self: &Arc<Self>, size: u64, charge: Charge) -> StagingBuffer {
        self.take(size, Direction::Readback, charge)
    }

    fn take(self: &Arc<Self>, size: u64, direction: Direction, charge: Charge) -> StagingBuffer {
        let size = Self::rounded(size);
        let pool = Arc::downgrade(self);
        let found = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = |i: &Idle| i.direction == direction && i.buffer.size() == size;
            idle.iter().position(fits).map(|index| idle.swap_remove(index))
        };
        if let Some(Idle { buffer, mapped, direction }) = found {
            return StagingBuffer { buffer, mapped, direction, used: true, pool, charge };
        }
        let upload = direction == Direction::Upload;
        let usage = if upload {
            wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC
        } else {
            wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST
        };
        let buffer =
            self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: upload });
        StagingBuffer { buffer, mapped: upload, direction, used: false, pool, charge }
    }
}

impl StagingBuffer {
    /// Unmaps a mapped buffer. Only the GPU thread calls this.
    pub(crate) fn unmap(&mut self) {
        if std::mem::take(&mut self.mapped) {
            self.buffer.unmap();
        }
    }

    /// Requests a mapping, which is ready when the submission that uses the buffer is done. Only
    /// the GPU thread calls this.
    pub(crate) fn map(&mut self, mode: wgpu::MapMode) {
        self.buffer.map_async(mode, .., |result| {
            if let Err(error) = result {
                tracing::error!(%error, "a staging buffer could not be mapped");
            }
        });
        self.mapped = true;
    }

    /// Notes that a submission that used the buffer has completed. Only the GPU thread calls this.
    pub(crate) fn mark_used(&mut self) {
        self.used = true;
    }

    /// Writes bytes at offsets of a mapped upload buffer. Returns false if it is not mapped or too small.
    pub(crate) fn fill(&self, writes: &mut dyn Iterator<Item = (u64, &[u8])>) -> bool {
        for (offset, bytes) in writes {
            let end = offset + bytes.len() as u64;
            let Ok(mut view) = self.buffer.get_mapped_range_mut(offset..end) else { return false };
            view.copy_from_slice(bytes);
        }
        true
    }

    /// Copies a range out of a mapped readback buffer. None if it is not mapped or too small.
    pub(crate) fn bytes(&self, offset: u64, size: u64) -> Option<Vec<u8>> {
        if size == 0 {
            return Some(Vec::new());
        }
        let view = self.buffer.get_mapped_range(offset..offset + size).ok()?;
        Some(view.to_vec())
    }
}

impl Drop for StagingBuffer {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else { return };
        let mut idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let held: u64 = idle.iter().map(|i| i.buffer.size()).sum();
        let usable = self.used && self.mapped;
        if usable && idle.len() < IDLE_MAX && held + self.buffer.size() <= IDLE_BYTES_MAX {
            idle.push(Idle { buffer: self.buffer.clone(), mapped: self.mapped, direction: self.direction });
        }
    }
}
